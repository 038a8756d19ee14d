/**
 * Copies of open files as they are at one instant, while programs may write to them past the server (passthrough, mappings). All are taken, then all
 * are looked at again: what did not change from before the first copy until after the last was so at every moment between, which is the instant.
 * A write in progress is waited for by a call that takes the inode's lock; a store through a mapping makes a page dirty, and there was none.
 */
import { release } from 'node:os';
import {
  close,
  dup,
  fchmod,
  fchown,
  fgetxattr,
  flistxattr,
  fsetxattr,
  fstat,
  ftruncate,
  futimens,
  lseek,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_RDWR,
  openat,
  SEEK_DATA,
  type Stat,
  splitXattrList,
  startWriteback,
  storedPages,
  unlinkat,
} from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { temporaryName, workFd } from '../private-layer/work-dir.ts';
import type { Steps } from '../steps.ts';
import { copyContent } from './copy-content.ts';
import { mayFollow, reserve } from './follow.ts';
import { inPool } from './in-pool.ts';
import { type OpenFile, openFiles } from './open-files.ts';

export interface Copy {
  file: OpenFile;
  fd: number;
  /** Its name in the work directory. */
  temporary: string;
  /** What the file is at the instant. */
  before: Stat;
  /** Its content comes after the turn. */
  follows: boolean;
  /** Something was copied into it. */
  isFilled: boolean;
}

/** Bytes that are copied in the turn, of the smallest files; the others are copied by the pool, before it. Files may grow in between. */
const TURN_BYTES = 512 << 10;
const MOST_TURN_BYTES = 1 << 20;
/** A turn is given up after this time, but not before so many tries. */
const TURN_MS = 1;
const LEAST_TRIES = 2;
/** A change always changes the change time (multigrain timestamps); before, it has steps of some milliseconds, and tells nothing of a file that may be written. */
export const FINE_TIMES = isSince(6, 13);

function isSince(major: number, minor: number): boolean {
  const [a = 0, b = 0] = release().split('.').map(Number);
  return a > major || (a === major && b >= minor);
}

/** Copies that the pool made, by node. */
export type Ahead = Map<Node, Copy>;

/** Has the pool copy those of the open files of which there is no copy, or an old one, until what is left is small enough for the turn. */
export function* copyAhead(core: Core, ahead: Ahead, open: readonly OpenFile[]): Steps<void> {
  const seen = new Set<Node>();
  for (let files = open; ; files = openFiles(core)) {
    const round = tooMuch(files.filter((file) => !mayFollow(core, file))).filter(
      ({ node }) => !seen.has(node),
    );
    if (round.length === 0) return;
    for (const file of round) {
      seen.add(file.node);
      if (file.backing.opens === 0) continue;
      const known = ahead.get(file.node);
      if (known !== undefined && !hasChanged({ ...known, file })) continue;
      if (known !== undefined) dropCopies(core, [known]);
      ahead.delete(file.node);
      yield* copyLarge(core, file, ahead);
    }
    // Programs open and close files meanwhile.
  }
}

/** The largest files, without which the others are not too much for one turn. */
function tooMuch(files: readonly OpenFile[]): OpenFile[] {
  let left = TURN_BYTES;
  return files
    .toSorted((a, b) => a.sizeBytes - b.sizeBytes)
    .filter(({ sizeBytes }) => {
      left -= sizeBytes;
      return left < 0;
    });
}

function* copyLarge(core: Core, file: OpenFile, ahead: Ahead): Steps<void> {
  const { node } = file;
  // The program may close it meanwhile.
  const fd = must(dup(file.fd));
  let copy: Copy | null = null;
  try {
    copy = newCopy(core, { ...file, fd });
    if (node.mappers > 0) yield* inPool((done) => ({ kind: 'fsync', fd, dataOnly: true, done }));
    look(copy);
    const work = { kind: 'copy-data' as const, fromFd: fd, toFd: copy.fd, sizeBytes: copy.before.size };
    yield* inPool((done) => ({ ...work, done }));
    ahead.set(node, copy);
  } finally {
    close(fd);
    if (copy !== null && ahead.get(node) !== copy) dropCopies(core, [copy]);
  }
}

export interface Taken {
  copies: Copy[];
  /** They changed meanwhile: then there are no copies. */
  changed: OpenFile[];
  /** There is no copy yet of a large one. */
  missing: boolean;
}

/** Copies of all files as they are now. `held`: nodes that nobody can write past the server. Throws when one cannot be made. */
export function takeCopies(
  core: Core,
  files: readonly OpenFile[],
  ahead: Ahead,
  held: ReadonlySet<number>,
): Taken {
  const made: Copy[] = [];
  const large: Copy[] = [];
  const none = (changed: OpenFile[], missing = false): Taken => {
    dropCopies(core, made);
    return { copies: [], changed, missing };
  };
  try {
    let bytes = 0;
    for (const file of files) {
      const known = ahead.get(file.node);
      if (known !== undefined) {
        large.push(Object.assign(known, { file }));
        continue;
      }
      const follows = mayFollow(core, file);
      if (!follows) bytes += file.sizeBytes;
      if (bytes > MOST_TURN_BYTES) return none([], true);
      made.push(newCopy(core, file, follows));
    }
    const changes = (copy: Copy): boolean => hasChanged(copy, held);
    const until = performance.now() + TURN_MS;
    let left: readonly Copy[] = made;
    for (let tries = 0; tries < LEAST_TRIES || performance.now() < until; tries++) {
      for (const copy of left) look(copy);
      for (const copy of left) fill(copy);
      const old = large.filter(changes);
      if (old.length > 0) return none(old.map(({ file }) => file));
      left = made.filter(changes);
      if (left.length === 0) break;
    }
    if (left.length > 0) return none(left.map(({ file }) => file));
    for (const copy of large) attributes(copy);
    for (const { file } of large) ahead.delete(file.node);
    return { copies: [...made, ...large], changed: [], missing: false };
  } catch (error) {
    dropCopies(core, made);
    throw error;
  }
}

/** Closes copies and deletes those that got no name. */
export function dropCopies(core: Core, copies: readonly Copy[]): void {
  for (const { fd, temporary } of copies) {
    close(fd);
    unlinkat(core.workFd, temporary);
  }
}

function newCopy(core: Core, file: OpenFile, follows = false): Copy {
  const temporary = temporaryName(core);
  const fd = openat(must(workFd(core)), temporary, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0o600);
  return { file, fd: must(fd), temporary, before: newStat(), follows, isFilled: false };
}

/** From here on a change shows. */
function look({ file: { fd, node }, before }: Copy): void {
  // A page that is being written makes the next store to it show as well.
  if (node.mappers > 0 && storedPages(fd) !== 0) startWriteback(fd);
  must(fstat(fd, before));
  // Waits for a write that is under way.
  if (node.writers > 0) lseek(fd, 0, SEEK_DATA);
}

const now = newStat();

const NOBODY: ReadonlySet<number> = new Set();

/** `held`: for those the times may be coarse. */
function hasChanged({ file: { fd, node, cached }, before }: Copy, held = NOBODY): boolean {
  if (!FINE_TIMES && !cached && node.writers > 0 && !held.has(node.id)) return true;
  must(fstat(fd, now));
  const same =
    now.size === before.size &&
    now.ctimeSec === before.ctimeSec &&
    now.ctimeNsec === before.ctimeNsec &&
    now.mtimeSec === before.mtimeSec &&
    now.mtimeNsec === before.mtimeNsec;
  return !same || (node.mappers > 0 && storedPages(fd) !== 0);
}

function fill(copy: Copy): void {
  if (copy.isFilled) must(ftruncate(copy.fd, 0));
  copy.isFilled = true;
  if (copy.follows) must(reserve(copy.fd, copy.before.size));
  else must(copyContent(copy.file.fd, copy.fd, copy.before.size));
  attributes(copy);
}

/** Owner, mode, times and every attribute, those of Strata too. */
function attributes({ file: { fd: from }, fd: to, before }: Copy): void {
  // It was made by root.
  if (before.uid !== 0 || before.gid !== 0) must(fchown(to, before.uid, before.gid));
  const list = flistxattr(from);
  for (const name of typeof list === 'number' ? [] : splitXattrList(list)) {
    const value = fgetxattr(from, name);
    if (typeof value !== 'number') must(fsetxattr(to, name, value));
  }
  must(fchmod(to, before.mode & 0o7777));
  must(futimens(to, before.atimeSec, before.atimeNsec, before.mtimeSec, before.mtimeNsec));
}

function must(result: number): number {
  if (result < 0) throw systemFailure(result, 'copy an open file for a clone');
  return result;
}
