/** Control operations on a VLFS that is not mounted, and questions that may be asked at any time. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS, nameFromText } from '../base/index.ts';
import {
  AT_FDCWD,
  close,
  newStat,
  RENAME_EXCHANGE,
  readDirectory,
  renameat2,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../sys/index.ts';
import { copyDirectoryAttributes, reset } from './changes/reset.ts';
import { revert } from './changes/revert.ts';
import type { FreshPrivate, StackSpec, VlfsSpec } from './contract.ts';
import { directoryByPath } from './copy-up/copy-up-links.ts';
import { exchange } from './exchange/exchange.ts';
import { systemFailure } from './failure.ts';
import { finishFreeze } from './freeze/finish.ts';
import { closeCore, openCore } from './open-core.ts';
import { candidatesAt, PRIVATE, resolve, SHARED } from './operations/lookup.ts';
import { workDirOf } from './private-layer/work-dir.ts';
import { forgetUsage } from './quota/usage-file.ts';
import { splitPath } from './split-path.ts';
import { originalOf } from './stack/child-directories.ts';
import { topOf, unitOf } from './stack/merged-directory.ts';
import { finished } from './steps.ts';
import { openDirectory } from './whiteouts/whiteout-sets.ts';
import { pruneSets } from './whiteouts/whiteouts.ts';

/** As Vlfs.revert, for a VLFS that nobody has mounted. */
export function revertOffline(spec: VlfsSpec, paths: readonly string[]): string[] {
  forgetUsage(spec.privateDir);
  const core = openCore(spec);
  try {
    return finished(revert(core, paths));
  } finally {
    closeCore(core);
  }
}

/** As Vlfs.reset, for a VLFS that nobody has mounted. */
export function resetOffline(spec: VlfsSpec, keep: readonly string[]): void {
  forgetUsage(spec.privateDir);
  const core = openCore(spec);
  try {
    finished(reset(core, keep));
  } finally {
    closeCore(core);
  }
}

/** As VlfsControl.beginExchange, for a VLFS that nobody has mounted. */
export function exchangeOffline(spec: VlfsSpec, stack: StackSpec, fresh: FreshPrivate | null): void {
  forgetUsage(spec.privateDir);
  const core = openCore(spec);
  try {
    finishFreeze(core);
    finished(exchange(core, stack, fresh));
  } finally {
    closeCore(core);
  }
}

/** Finishes in a private layer that nobody has mounted what a crash cut off. */
export function finishPrivate(spec: VlfsSpec): void {
  if (!existsSync(workDirOf(spec.privateDir))) return;
  const core = openCore(spec);
  finishFreeze(core);
  closeCore(core);
}

/**
 * Freezes the private layer of a VLFS that nobody has mounted: it changes places with `dir`/{private, whiteouts}, which are empty and the topmost level of the
 * stack already. So a kill between the two changes nothing that one can see.
 */
export function freezeOffline({ privateDir, whiteoutsDir }: VlfsSpec, dir: string): void {
  const frozen = join(dir, 'private');
  copyRootAttributes(privateDir, frozen);
  mkdirSync(whiteoutsDir, { recursive: true, mode: 0o755 });
  exchangeDirectories(privateDir, frozen);
  exchangeDirectories(whiteoutsDir, join(dir, 'whiteouts'));
}

function exchangeDirectories(one: string, two: string): void {
  const done = renameat2(AT_FDCWD, nameFromText(one), AT_FDCWD, nameFromText(two), RENAME_EXCHANGE);
  if (done < 0) throw systemFailure(done, `freeze ${one}`);
}

/** Gives the private directory `to` what the root of the private directory `from` says of itself: owner, mode, attributes, times. */
export function copyRootAttributes(from: string, to: string): void {
  const source = openDirectory(AT_FDCWD, nameFromText(from));
  const target = openDirectory(AT_FDCWD, nameFromText(to));
  try {
    for (const fd of [source, target]) if (fd < 0) throw systemFailure(fd, `open ${from}`);
    copyDirectoryAttributes(source, target);
  } finally {
    for (const fd of [source, target]) if (fd >= 0) close(fd);
  }
}

/** Removes the whiteout sets of units that are not in the stack any more. Returns how many went. */
export function pruneWhiteouts(spec: VlfsSpec): number {
  const core = openCore(spec);
  try {
    return finished(pruneSets(core));
  } finally {
    closeCore(core);
  }
}

export interface PathOwner {
  /** `REPO/LAYER VERSION` (or the identity of a config or frozen level) that holds the path, topmost first; null: none. */
  unit: string | null;
  /** The private layer has its own object there. */
  private: boolean;
}

/** Which level a path comes from. Does not follow symlinks. Both null and false: the path does not exist, and no layer has it. */
export function whoOwns(spec: VlfsSpec, path: string): PathOwner {
  const core = openCore(spec, { inspect: true });
  try {
    const parts = splitPath(path);
    const name = parts.pop();
    const parent = directoryByPath(core, parts);
    if (parent === null) return { unit: null, private: false };
    if (name === undefined) {
      const original = originalOf(core.stack.root);
      const ref = original === null ? -1 : topOf(original);
      return { unit: ref < 0 ? null : unitOf(core.stack, ref).id, private: true };
    }
    const where = resolve(core, parent, name);
    const isPrivate = where === PRIVATE || (where === SHARED && unitOf(core.stack, core.ref).frozen !== null);
    const shared = candidatesAt(parent, name);
    return { unit: shared.length === 0 ? null : unitOf(core.stack, shared[0]!).id, private: isPrivate };
  } finally {
    closeCore(core);
  }
}

export interface PrivateUsage {
  /** Allocated, hard links counted once. */
  bytes: number;
  entries: number;
}

/** What a private layer (or any tree) takes on disk. */
export function privateUsage(dir: string): PrivateUsage {
  const usage: PrivateUsage = { bytes: 0, entries: 0 };
  const fd = openDirectory(AT_FDCWD, nameFromText(dir));
  if (fd < 0) return usage;
  addUsage(fd, usage, new Set());
  close(fd);
  return usage;
}

/** Counts what lies below the open directory. `path`: the bytes of its path; what no path leads to is not counted. */
function addUsage(fd: number, usage: PrivateUsage, linked: Set<number>, path = 0): void {
  const entries = readDirectory(fd);
  const stat = newStat();
  for (const { name } of typeof entries === 'number' ? [] : entries) {
    if (statAt(fd, name, stat) !== 0) continue;
    usage.entries++;
    const isDirectory = (stat.mode & S_IFMT) === S_IFDIR;
    if (!isDirectory && stat.nlink > 1) {
      if (linked.has(stat.ino)) continue;
      linked.add(stat.ino);
    }
    usage.bytes += stat.blocks * 512;
    if (!isDirectory || path + name.length > LIMITS.pathBytes) continue;
    const sub = openDirectory(fd, name);
    if (sub < 0) continue;
    addUsage(sub, usage, linked, path + name.length + 1);
    close(sub);
  }
}
