/**
 * Counting what an appliance takes, in steps between the requests, when the numbers are not known or may be wrong. What changes meanwhile is told: an object that
 * was counted already changes the sum, one that was not is counted as it is when it is reached. What is born or moved is counted at once, because its new place may
 * have been read already. A directory that is moved before it was found is read at the end; each is read once, so that it ends whatever programs do.
 */
import { close, newStat, readDirectory, S_IFDIR, S_IFMT, statAt } from '../../sys/index.ts';
import { sourcesOf } from '../changes/diff.ts';
import type { SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt, refresh } from '../operations/lookup.ts';
import { isWhiteoutEntry } from '../operations/remove-ops.ts';
import type { Steps } from '../steps.ts';
import { type InodeSet, newInodeSet } from './inode-set.ts';
import { bytesOf, DIRECTORY_BYTES, directoryInode, measure, storeUsage } from './quota.ts';

/** Entries between two steps. */
const ENTRIES_A_STEP = 64;

export interface Count {
  /** The numbers changed by this much for this inode. */
  changed(ino: number, bytes: number, inodes: number, born: boolean): void;
  /** An object has another inode now. */
  renumbered(from: number, to: number): void;
  /** A file, or a directory, has a further or another place. */
  moved(node: Node): void;
  /** A directory that has nothing in it yet. */
  bornDirectory(ino: number): void;
  /** The layers changed. */
  startAnew(): void;
  /** Until `untilMs`; true: there is no more to do. */
  step(untilMs: number): boolean;
  end(): void;
}

/** The job that counts, or null: nothing is to be counted, or it is under way. */
export function takeCount(core: Core): SlowJob | null {
  const { quota } = core;
  if (quota === null || !quota.unsure || quota.count !== null) return null;
  const count = newCount(core);
  quota.count = count;
  quota.unsure = false;
  return slowJob('retry', {
    kind: 'steps',
    // Another one, or none, when the numbers became unsure again.
    advance: (untilMs) => (core.quota?.count !== count || count.step(untilMs) ? 0 : null),
  });
}

/** What was found so far. */
interface Found {
  /** Objects that are counted, by inode, and directories that were read or will be. */
  seen: InodeSet;
  entered: InodeSet;
  /** Directories that were moved before they were entered. Each is held. */
  moved: Set<Node>;
  add(bytes: number): void;
}

function newCount(core: Core): Count {
  const quota = core.quota!;
  let found: Found;
  let bytes: number;
  let inodes: number;
  let steps: Steps<void>;

  const add = (taken: number): void => {
    bytes += taken;
    inodes++;
  };
  const start = (): void => {
    found = { seen: newInodeSet(), entered: newInodeSet(), moved: new Set(), add };
    bytes = inodes = 0;
    addOpen(core, found);
    steps = walk(core, found);
  };
  const end = (): void => {
    steps.return();
    for (const node of found.moved) letGo(core, node);
    found.moved.clear();
  };

  start();
  return {
    changed(ino, changedBytes, changedInodes, born) {
      if (born) {
        found.seen.add(ino);
        // The number may have been that of a directory that is gone.
        found.entered.delete(ino);
      } else if (!found.seen.has(ino)) return;
      bytes += changedBytes;
      inodes += changedInodes;
    },
    renumbered(from, to) {
      if (found.seen.has(from)) found.seen.add(to);
      if (found.entered.has(from)) found.entered.add(to);
    },
    moved(node) {
      const is = measure(core, node);
      if (node.children !== null) {
        if ((is !== null && found.entered.has(is.ino)) || found.moved.has(node)) return;
        hold(node);
        found.moved.add(node);
        return;
      }
      if (is === null || found.seen.has(is.ino)) return;
      found.seen.add(is.ino);
      add(quota.charged.get(node) ?? is.bytes);
    },
    bornDirectory: (ino) => found.entered.add(ino),
    startAnew() {
      end();
      start();
    },
    step(untilMs) {
      do {
        if (!steps.next().done) continue;
        quota.count = null;
        quota.bytes = Math.max(0, bytes);
        quota.inodes = Math.max(0, inodes);
        storeUsage(quota);
        return true;
      } while (performance.now() < untilMs);
      return false;
    },
    end,
  };
}

/** It is forgotten neither by the kernel's wish nor by ours. */
function hold(node: Node): void {
  node.opens++;
}

function letGo(core: Core, node: Node): void {
  node.opens--;
  releaseIfUnused(core, node);
}

const stat = newStat();

/** Files that are open and have no name any more. */
function addOpen(core: Core, { seen, add }: Found): void {
  for (const handle of core.handles) {
    if (handle === null || handle.backing === null || handle.backing.shared) continue;
    if (handle.node.parent !== null) continue;
    const is = measure(core, handle.node);
    if (is === null || is.nlink > 0 || seen.has(is.ino)) continue;
    seen.add(is.ino);
    add(is.bytes);
  }
}

/** A directory that is being read. It is held, so that it is the same one wherever it is moved. */
interface Entered {
  node: Node;
  /** Its directories that are still to be entered; null: not read yet. */
  directories: string[] | null;
}

/** Every object of the appliance's own that it shows. */
function* walk(core: Core, found: Found): Steps<void> {
  const path: Entered[] = [];
  const enter = (node: Node): void => {
    hold(node);
    path.push({ node, directories: null });
  };
  try {
    enter(core.root);
    for (;;) {
      yield;
      const at = path.at(-1);
      if (at === undefined) {
        const [node] = found.moved;
        if (node === undefined) return;
        found.moved.delete(node);
        if (isNew(core, node, found)) enter(node);
        letGo(core, node);
        continue;
      }
      const isThere = (at.node === core.root || at.node.parent !== null) && refresh(core, at.node) === 0;
      if (isThere) at.directories ??= yield* readOne(core, at.node, found);
      const name = isThere ? at.directories!.pop() : undefined;
      if (name === undefined) {
        path.pop();
        letGo(core, at.node);
        continue;
      }
      const node = nodeAt(core, at.node, name);
      if (typeof node === 'number') continue;
      if (node.children !== null && isNew(core, node, found)) enter(node);
      else releaseIfUnused(core, node);
    }
  } finally {
    for (const { node } of path) letGo(core, node);
  }
}

/** Counts a directory; whether it is still to be read. */
function isNew(core: Core, node: Node, { seen, entered, add }: Found): boolean {
  if (node.parent === null || refresh(core, node) < 0) return false;
  const ino = directoryInode(core, node);
  if (ino === 0) return true;
  if (!seen.has(ino)) {
    seen.add(ino);
    add(DIRECTORY_BYTES);
  }
  if (entered.has(ino)) return false;
  entered.add(ino);
  return true;
}

/** Counts the files of a directory; the names of its directories. */
function* readOne(core: Core, node: Node, { seen, add }: Found): Steps<string[]> {
  const directories: string[] = [];
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
        if ((stat.mode & S_IFMT) === S_IFDIR) directories.push(name);
        else if (!seen.has(stat.ino)) {
          seen.add(stat.ino);
          add(bytesOf(core.quota!, stat));
        }
      }
    }
  } finally {
    for (const { fd } of sources) close(fd);
  }
  return directories;
}
