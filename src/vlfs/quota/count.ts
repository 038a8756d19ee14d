/**
 * Counting what an appliance takes, in steps between the requests, when the numbers are not known or may be wrong. What changes meanwhile is told: an object that
 * was counted already changes the sum, one that was not is counted as it is when it is reached. What is born or moved is counted at once, because its new place may
 * have been read already; when a directory moves, the counting begins anew.
 */
import { close, newStat, readDirectory, S_IFDIR, S_IFMT, statAt } from '../../sys/index.ts';
import { sourcesOf } from '../changes/diff.ts';
import type { SlowJob } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt } from '../operations/lookup.ts';
import { isWhiteoutEntry } from '../operations/remove-ops.ts';
import type { Steps } from '../steps.ts';
import { type InodeSet, newInodeSet } from './inode-set.ts';
import { bytesOf, DIRECTORY_BYTES, directoryInode, measure, storeUsage } from './quota.ts';

/** Entries between two steps. */
const ENTRIES_A_STEP = 64;
/** So often a moved directory makes it begin anew; then it is left to the next opening. */
const MOST_STARTS = 16;

export interface Count {
  /** The numbers changed by this much for this inode. */
  changed(ino: number, bytes: number, inodes: number, born: boolean): void;
  /** An object has another inode now. */
  renumbered(from: number, to: number): void;
  /** A file has a further or another place. */
  moved(node: Node): void;
  movedDirectory(): void;
  /** Until `untilMs`; true: there is no more to do. */
  step(untilMs: number): boolean;
  end(): void;
}

/** The job that counts, or null: nothing is to be counted, or it is under way. */
export function takeCount(core: Core): SlowJob | null {
  const { quota } = core;
  if (quota === null || !quota.unsure || quota.gaveUp || quota.count !== null) return null;
  const count = newCount(core);
  quota.count = count;
  quota.unsure = false;
  return slowJob('retry', {
    kind: 'steps',
    // Another one, or none, when the numbers became unsure again.
    advance: (untilMs) => (core.quota?.count !== count || count.step(untilMs) ? 0 : null),
  });
}

function newCount(core: Core): Count {
  const quota = core.quota!;
  let seen: InodeSet = newInodeSet();
  let bytes = 0;
  let inodes = 0;
  let starts = 1;
  let steps = walk(core, seen, add);

  function add(taken: number): void {
    bytes += taken;
    inodes++;
  }

  const count: Count = {
    changed(ino, changedBytes, changedInodes, born) {
      if (born) seen.add(ino);
      else if (!seen.has(ino)) return;
      bytes += changedBytes;
      inodes += changedInodes;
    },
    renumbered(from, to) {
      if (seen.has(from)) seen.add(to);
    },
    moved(node) {
      const found = measure(core, node);
      if (found === null || seen.has(found.ino)) return;
      seen.add(found.ino);
      add(quota.charged.get(node) ?? found.bytes);
    },
    movedDirectory() {
      steps.return();
      if (++starts > MOST_STARTS) return;
      seen = newInodeSet();
      bytes = inodes = 0;
      addOpen(core, seen, add);
      steps = walk(core, seen, add);
    },
    step(untilMs) {
      do {
        if (!steps.next().done) continue;
        quota.count = null;
        if (starts > MOST_STARTS) {
          quota.gaveUp = true;
          return true;
        }
        quota.bytes = Math.max(0, bytes);
        quota.inodes = Math.max(0, inodes);
        storeUsage(quota);
        return true;
      } while (performance.now() < untilMs);
      return false;
    },
    end() {
      steps.return();
    },
  };
  addOpen(core, seen, add);
  return count;
}

const stat = newStat();

/** Files that are open and have no name any more. */
function addOpen(core: Core, seen: InodeSet, add: (bytes: number) => void): void {
  for (const handle of core.handles) {
    if (handle === null || handle.backing === null || handle.backing.shared) continue;
    if (handle.node.parent !== null) continue;
    const found = measure(core, handle.node);
    if (found === null || found.nlink > 0 || seen.has(found.ino)) continue;
    seen.add(found.ino);
    add(found.bytes);
  }
}

/** Every object of the appliance's own that it shows. */
function* walk(core: Core, seen: InodeSet, add: (bytes: number) => void): Steps<void> {
  const pending: string[][] = [[]];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    yield;
    const node = directoryByPath(core, next);
    if (node === null) continue;
    // Held while its names are read.
    node.lookups++;
    try {
      yield* walkDirectory(core, node, { path: next, pending, seen, add });
    } finally {
      node.lookups--;
      releaseIfUnused(core, node);
    }
  }
}

interface Walked {
  path: string[];
  pending: string[][];
  seen: InodeSet;
  add(bytes: number): void;
}

function* walkDirectory(core: Core, node: Node, o: Walked): Steps<void> {
  const sources = sourcesOf(core, node);
  const names = new Set<string>();
  try {
    for (const { fd, isHidden } of sources) {
      const entries = readDirectory(fd);
      let looked = 0;
      for (const { name, type } of typeof entries === 'number' ? [] : entries) {
        if (++looked % ENTRIES_A_STEP === 0) yield;
        if (names.has(name) || isHidden(name)) continue;
        names.add(name);
        if (isWhiteoutEntry(fd, name, type) || statAt(fd, name, stat) !== 0) continue;
        if ((stat.mode & S_IFMT) === S_IFDIR) addDirectory(core, node, name, o);
        else if (!o.seen.has(stat.ino)) {
          o.seen.add(stat.ino);
          o.add(bytesOf(core.quota!, stat));
        }
      }
    }
  } finally {
    for (const { fd } of sources) close(fd);
  }
}

function addDirectory(core: Core, parent: Node, name: string, o: Walked): void {
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number' || node.children === null) return;
  const ino = directoryInode(core, node);
  if (ino !== 0 && !o.seen.has(ino)) {
    o.seen.add(ino);
    o.add(DIRECTORY_BYTES);
  }
  o.pending.push([...o.path, name]);
  releaseIfUnused(core, node);
}
