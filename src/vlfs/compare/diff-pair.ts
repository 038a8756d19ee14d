/** The differences between two VLFSs for people and programs, in the form of `diffVlfs`. */
import { compareNames, nameToText } from '../../base/index.ts';
import { diffVlfs } from '../changes/diff.ts';
import type { DiffEntry, Differences, VlfsSpec } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { closeCore, openCore } from '../open-core.ts';
import { candidatesAt } from '../operations/lookup.ts';
import { splitPath } from '../split-path.ts';
import { unitOf } from '../stack/merged-directory.ts';
import { compare } from './compare.ts';

/** As diffVlfs, with what was too long to be told. */
export function diffOne(spec: VlfsSpec, path: string): Differences {
  const beyond = newBeyond();
  return { entries: diffVlfs(spec, path, beyond.note), ...beyond.found };
}

function newBeyond(): { found: Pick<Differences, 'beyond'>; note(path: string): void } {
  const found: Pick<Differences, 'beyond'> = {};
  return {
    found,
    note(path) {
      found.beyond ??= { count: 0, first: `/${nameToText(path as never)}` };
      found.beyond.count++;
    },
  };
}

/** What makes `right` of `left`, at and below `path` (default: all), ordered by path. Throws when either cannot be read. */
export function diffPair(left: VlfsSpec, right: VlfsSpec, path = '/'): Differences {
  const cores: Core[] = [];
  try {
    for (const spec of [left, right]) cores.push(openCore(spec, { inspect: true }));
    const [one, two] = cores as [Core, Core];
    const found: { path: string; change: DiffEntry['change']; layer: string | null }[] = [];
    const beyond = newBeyond();
    compare(one, two, {
      beyond: beyond.note,
      within: splitPath(path).join('/'),
      visit: ({ path: at, name, change, leftParent, rightParent }) => {
        if (change === 'same') return;
        const layer = ownerAt(two, rightParent, name) ?? ownerAt(one, leftParent, name);
        found.push({ path: at, change, layer });
      },
    });
    const entries = found
      .sort((a, b) => compareNames(a.path, b.path))
      .map((entry) => ({ ...entry, path: `/${nameToText(entry.path)}`, base_updated: false }));
    return { entries, ...beyond.found };
  } finally {
    for (const core of cores) closeCore(core);
  }
}

/** The layer that holds an original there. */
function ownerAt(core: Core, parent: Node | null, name: string): string | null {
  const refs = parent === null ? [] : candidatesAt(parent, name);
  return refs.length === 0 ? null : unitOf(core.stack, refs[0]!).id;
}
