/**
 * Before a sealed mount that can be written to: overlayfs renames every directory, and a redirect does not lead to all that is shown of one which an upper level
 * had replaced, which was deleted there, and which lower levels show again (whiteouts/hide-beyond.ts). The other door copies it up.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Name, nameToText, StrataError } from '../../base/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core } from '../core.ts';
import { placesOfLayerDirectory } from '../nodes/moved-directories.ts';
import { closeCore, type OpenOptions, openCore } from '../open-core.ts';
import { isDirectory, reference, unitOf } from '../stack/merged-directory.ts';
import { isReachable } from '../whiteouts/hide-beyond.ts';

/** Throws UNSUPPORTED. The VLFS must not be mounted. */
export function refuseLost(spec: VlfsSpec, options: Pick<OpenOptions, 'onStep'> = {}): void {
  if (spec.readOnly || !hidesOfUpperLevels(spec)) return;
  const core = openCore(spec, options);
  try {
    for (const [level, entries] of core.hidden.levels.entries()) {
      if (!core.stack.units[level]!.overlay) continue;
      for (const entry of entries ?? []) {
        const ref = reference(level, entry);
        if (isDirectory(core.stack, ref)) refuseLostAt(core, unitOf(core.stack, ref).index.path(entry));
      }
    }
  } finally {
    closeCore(core);
  }
}

/** Whether something of a config or frozen level is deleted at all. */
function hidesOfUpperLevels({ whiteoutsDir, stack }: VlfsSpec): boolean {
  const dirs = [whiteoutsDir];
  for (const level of stack.levels)
    if (level.kind === 'frozen' && level.whiteoutsDir !== null) dirs.push(level.whiteoutsDir);
  return dirs.some((dir) => existsSync(join(dir, 'config')) || existsSync(join(dir, 'frozen')));
}

function refuseLostAt(core: Core, path: string): void {
  for (const parts of placesOfLayerDirectory(core, path)) {
    const node = directoryByPath(core, parts);
    if (node === null || node.merged === null || node.redirect !== null) continue;
    if (isReachable(core, node.merged)) continue;
    throw new StrataError(
      'UNSUPPORTED',
      `/${nameToText(parts.join('/') as Name)} was replaced and deleted, and shows again what was there before: overlayfs could not rename it in a sealed mount`,
      { hint: 'use the door fuse' },
    );
  }
}
