/**
 * What a freeze that was cut off still owes: open files that have yet to move from the frozen layer into the private one, and names of moved files that are
 * still in it, so that no inode is in both. The mark beside the frozen private/ says that there may be any. Nobody else has that layer yet.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  type DirectoryEntry,
  DT_DIR,
  newStat,
  RENAME_NOREPLACE,
  readSomeEntries,
  renameat2,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { pathOf } from '../nodes/nodes.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { finished } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { finishFollowing } from './follow.ts';
import { openBelow, pathsOf } from './open-files.ts';

/** The mark of a freeze under way, in the directory of the frozen layer. */
export function markOf(dir: string): string {
  return join(dir, 'settling');
}

const stat = newStat();

/** At opening, and after a takeover. A no-op when no freeze was cut off. */
export function finishFreeze(core: Core): void {
  const level = core.stack.spec.levels.find(({ kind }) => kind === 'frozen');
  if (level === undefined || core.readOnly) return;
  const dir = dirname(level.treeDir);
  if (existsSync(markOf(dir))) moveOut(core, level.treeDir, markOf(dir));
  finishFollowing(dir, core.privateDir);
}

function moveOut(core: Core, treeDir: string, mark: string): void {
  const root = openDirectory(AT_FDCWD, nameFromText(treeDir));
  if (root < 0) return;
  try {
    moveOpenFiles(core, root);
    const linked = new Set<number>();
    collectLinked(core.rootFd, linked);
    for (const parts of linked.size === 0 ? [] : finished(pathsOf(root, linked))) {
      const name = parts.at(-1)!;
      const parent = directoryByPath(core, parts.slice(0, -1));
      if (parent !== null) moveOne(core, root, parts.slice(0, -1), parent, name);
    }
  } finally {
    close(root);
  }
  unlinkat(AT_FDCWD, nameFromText(mark));
}

function moveOpenFiles(core: Core, root: number): void {
  const nodes = new Set<Node>();
  for (const handle of core.handles)
    if (handle !== null && handle.backing !== null && !handle.backing.shared) nodes.add(handle.node);
  for (const node of nodes) {
    if (node.parent === null || node.privIno === 0) continue;
    for (const { parent, name } of [
      node as { parent: Node; name: string },
      ...(node.moreNames?.values() ?? []),
    ]) {
      const path = pathOf(core, parent, name);
      const parts = path === null ? [] : path.split('/').slice(0, -1);
      const fd = path === null ? -1 : openBelow(root, parts);
      const isThere = fd >= 0 && statAt(fd, name, stat) === 0 && stat.ino === node.privIno;
      if (fd >= 0) close(fd);
      if (isThere) moveOne(core, root, parts, parent, name);
    }
  }
}

function moveOne(core: Core, root: number, parts: readonly string[], parent: Node, name: string): void {
  const from = openBelow(root, parts);
  const to = from < 0 ? from : privateDirectory(core, parent);
  if (to >= 0) renameat2(from, name, to, name, RENAME_NOREPLACE);
  if (from >= 0) close(from);
}

/** Inodes in a small tree that have further names. */
function collectLinked(fd: number, into: Set<number>): void {
  const listing = openDirectory(fd, '.');
  for (
    let entries: DirectoryEntry[] = [];
    listing >= 0 && readSomeEntries(listing, entries) > 0;
    entries = []
  )
    for (const { name, type } of entries) {
      if (type === DT_DIR) {
        const sub = openDirectory(listing, name);
        if (sub >= 0) collectLinked(sub, into);
        if (sub >= 0) close(sub);
      } else if (statAt(listing, name, stat) === 0 && stat.nlink > 1) into.add(stat.ino);
    }
  if (listing >= 0) close(listing);
}
