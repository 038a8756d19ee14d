/** Where a VLFS shows files of its shared levels: hidden by whiteouts and private copies, moved with renamed directories. It only looks. */
import type { VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { closeCore, openCore } from '../open-core.ts';
import { nodeAt, resolve, SHARED } from '../operations/lookup.ts';
import { hasRedirects } from './child-directories.ts';
import { entryOf, unitOf } from './merged-directory.ts';
import { namesOf } from './merged-names.ts';

/** A file of a level, by its path there (latin1). */
export interface LevelFile {
  level: string;
  path: string;
}

/** For each file the paths (latin1) at which the VLFS shows it now; none: it is hidden. Throws when the stack cannot be opened. */
export function whereShown(spec: VlfsSpec, files: readonly LevelFile[]): string[][] {
  const core = openCore(spec, { inspect: true });
  try {
    if (hasRedirects(core.stack)) return byWalking(core, files);
    return files.map((file) =>
      placesOfLayerPath(core, file.path)
        .map((parts) => parts.join('/'))
        .filter((path) => shows(core, path, file)),
    );
  } finally {
    closeCore(core);
  }
}

function shows(core: Core, path: string, { level, path: inLevel }: LevelFile): boolean {
  const parts = path.split('/');
  const name = parts.pop()!;
  const parent = directoryByPath(core, parts);
  if (parent === null) return false;
  const found = resolve(core, parent, name) === SHARED && is(core, level, inLevel);
  releaseIfUnused(core, parent);
  return found;
}

/** Whether what `resolve` found is this file. */
function is(core: Core, level: string, path: string): boolean {
  const unit = unitOf(core.stack, core.ref);
  return unit.id === level && unit.index.path(entryOf(core.ref)) === path;
}

/** Where a level itself renamed directories: every name of the VLFS is looked at once. */
function byWalking(core: Core, files: readonly LevelFile[]): string[][] {
  const found = files.map((): string[] => []);
  const wanted = new Map(files.map(({ level, path }, i) => [`${level}\0${path}`, i]));
  const visit = (directory: Node, prefix: string): void => {
    if (directory.merged === null) return;
    for (const name of namesOf(directory.merged).keys()) {
      const node = nodeAt(core, directory, name);
      if (typeof node === 'number') continue;
      if (node.children !== null) visit(node, `${prefix}${name}/`);
      else if (!node.priv && resolve(core, directory, name) === SHARED) {
        const unit = unitOf(core.stack, core.ref);
        const at = wanted.get(`${unit.id}\0${unit.index.path(entryOf(core.ref))}`);
        if (at !== undefined) found[at]!.push(prefix + name);
      }
      releaseIfUnused(core, node);
    }
  };
  visit(core.root, '');
  return found;
}
