/**
 * Copies of open files as they are at one instant, while programs may write to them past the server (passthrough, mappings). All are taken, then all
 * are looked at again: what did not change from before the first copy until after the last was so at every moment between, which is the instant.
 * A write in progress is waited for by a call that takes the inode's lock; a store through a mapping makes a page dirty, and there was none.
 */
import {
  cleanPages,
  close,
  copyFileRange,
  dirtyPages,
  E,
  fchmod,
  fchown,
  fgetxattr,
  ficlone,
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
  pread,
  pwrite,
  SEEK_DATA,
  SEEK_HOLE,
  type Stat,
  splitXattrList,
  unlinkat,
} from '../../sys/index.ts';
import type { Core } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { temporaryName, workFd } from '../work-dir.ts';
import type { OpenFile } from './open-files.ts';

export interface Copy {
  file: OpenFile;
  fd: number;
  /** Its name in the work directory. */
  temporary: string;
  before: Stat;
}

/** Tries in one turn before the turn is given up. */
const TRIES = 3;

/** Copies of all files, or those that changed meanwhile, again and again; then there are no copies. Throws when one cannot be made. */
export function takeCopies(core: Core, files: readonly OpenFile[]): { copies: Copy[]; changed: OpenFile[] } {
  const copies: Copy[] = [];
  try {
    for (const file of files) copies.push(newCopy(core, file));
    let left: readonly Copy[] = copies;
    for (let tries = 0; tries < TRIES; tries++) {
      for (const copy of left) look(copy);
      for (const copy of left) fill(copy);
      left = copies.filter(hasChanged);
      if (left.length === 0) break;
    }
    if (left.length === 0) return { copies, changed: [] };
    dropCopies(core, copies);
    return { copies: [], changed: left.map(({ file }) => file) };
  } catch (error) {
    dropCopies(core, copies);
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

function newCopy(core: Core, file: OpenFile): Copy {
  const temporary = temporaryName(core);
  const fd = openat(must(workFd(core)), temporary, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0o600);
  return { file, fd: must(fd), temporary, before: newStat() };
}

/** From here on a change shows. */
function look({ file: { fd, node }, before }: Copy): void {
  if (node.mappers > 0 && dirtyPages(fd) !== 0) cleanPages(fd);
  must(fstat(fd, before));
  // Waits for a write that is under way.
  if (node.writers > 0) lseek(fd, 0, SEEK_DATA);
}

const now = newStat();

function hasChanged({ file: { fd, node }, before }: Copy): boolean {
  if (node.writers === 0) return false;
  must(fstat(fd, now));
  const same =
    now.size === before.size &&
    now.ctimeSec === before.ctimeSec &&
    now.ctimeNsec === before.ctimeNsec &&
    now.mtimeSec === before.mtimeSec &&
    now.mtimeNsec === before.mtimeNsec;
  return !same || (node.mappers > 0 && dirtyPages(fd) !== 0);
}

/** Data, owner, mode, times and every attribute, those of Strata too. */
function fill({ file: { fd: from }, fd: to, before }: Copy): void {
  must(ftruncate(to, 0));
  must(copyContent(from, to, before.size));
  must(fchown(to, before.uid, before.gid));
  const list = flistxattr(from);
  for (const name of typeof list === 'number' ? [] : splitXattrList(list)) {
    const value = fgetxattr(from, name);
    if (typeof value !== 'number') must(fsetxattr(to, name, value));
  }
  must(fchmod(to, before.mode & 0o7777));
  must(futimens(to, before.atimeSec, before.atimeNsec, before.mtimeSec, before.mtimeNsec));
}

/** Shares blocks where the file system can; holes stay holes. 0 or a negative errno. */
function copyContent(from: number, to: number, size: number): number {
  if (size === 0) return 0;
  if (ficlone(to, from) === 0) return ftruncate(to, size);
  for (let at = 0; at < size; ) {
    const data = lseek(from, at, SEEK_DATA);
    if (data === -E.NXIO) break;
    const begin = data < 0 ? at : data;
    const hole = data < 0 ? size : lseek(from, begin, SEEK_HOLE);
    const end = Math.min(hole < 0 ? size : hole, size);
    if (begin >= size) break;
    const copied = copyPart(from, to, begin, end - begin);
    if (copied <= 0) return copied === 0 ? ftruncate(to, size) : copied;
    at = begin + copied;
  }
  return ftruncate(to, size);
}

const chunk = Buffer.allocUnsafeSlow(256 * 1024);

function copyPart(from: number, to: number, offset: number, size: number): number {
  const copied = copyFileRange(from, offset, to, offset, size);
  if (copied >= 0 || copied === -E.NOSPC || copied === -E.DQUOT || copied === -E.IO) return copied;
  const got = pread(from, chunk, Math.min(chunk.length, size), offset);
  for (let done = 0; done < got; ) {
    const put = pwrite(to, chunk.subarray(done, got), got - done, offset + done);
    if (put < 0) return put;
    done += put;
  }
  return got;
}

function must(result: number): number {
  if (result < 0) throw systemFailure(result, 'copy an open file for a clone');
  return result;
}
