/**
 * The work directory beside private/: temporaries that become visible by one rename, journals of changes that need more than one, and
 * trash. It is made on first use. Whatever is found in it at opening is finished (journals) or deleted.
 */
import { dirname, join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  DT_DIR,
  E,
  lseek,
  mkdirat,
  RENAME_NOREPLACE,
  readDirectory,
  renameat2,
  unlinkat,
} from '../../sys/index.ts';
import { type Core, step } from '../core.ts';
import { finished, type Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

/** The list of a decided relayer's files, and the beginning of their names. */
export const RELAYER_FILES = 'relayer';

export function workDirOf(privateDir: string): string {
  return join(dirname(privateDir), 'work');
}

/** The descriptor of the work directory, or a negative errno. */
export function workFd(core: Core): number {
  if (core.workFd >= 0) return core.workFd;
  const path = nameFromText(core.workDir);
  const made = mkdirat(AT_FDCWD, path, 0o700);
  if (made < 0 && made !== -E.EXIST) return made;
  core.workFd = openDirectory(AT_FDCWD, path);
  return core.workFd;
}

/** A name that nothing in the work directory has. */
export function temporaryName(core: Core): string {
  return `t${core.temporaries++}`;
}

/**
 * Deletes a directory tree below `dirfd`, never following a symlink, however deep it is: what lies in its directories is moved to its top, so one
 * level is left. Best effort; a negative errno tells that something is left.
 */
export function removeTree(dirfd: number, name: string): number {
  return finished(removeTreeSteps(dirfd, name));
}

/** As removeTree, in steps. */
export function* removeTreeSteps(dirfd: number, name: string): Steps<number> {
  yield;
  const direct = unlinkat(dirfd, name);
  if (direct === 0 || direct === -E.NOENT) return 0;
  if (direct !== -E.ISDIR && direct !== -E.PERM) return direct;
  const top = openDirectory(dirfd, name);
  if (top < 0) return top;
  try {
    for (;;) {
      const left = yield* emptyTop(top);
      let moved = 0;
      for (const directory of left) moved += yield* liftDirectories(top, directory);
      if (moved === 0 && left.every((directory) => unlinkat(top, directory, AT_REMOVEDIR) < 0)) break;
    }
  } finally {
    close(top);
  }
  return unlinkat(dirfd, name, AT_REMOVEDIR);
}

/** Removes an entry unless it is a directory that holds something; then true. */
function isFull(fd: number, { name, type }: { name: string; type: number }): boolean {
  const gone = type === DT_DIR ? -E.ISDIR : unlinkat(fd, name);
  return (gone === -E.ISDIR || gone === -E.PERM) && unlinkat(fd, name, AT_REMOVEDIR) < 0;
}

/** Removes what is no directory, and empty directories; the names of the others. */
function* emptyTop(top: number): Steps<string[]> {
  lseek(top, 0, 0);
  const entries = readDirectory(top);
  const left: string[] = [];
  for (const entry of typeof entries === 'number' ? [] : entries) {
    if (isFull(top, entry)) left.push(entry.name);
    yield;
  }
  return left;
}

/** Directories moved to the top of a tree that is deleted, for new names. */
let lifted = 0;

/** Removes the files of a directory and moves its directories to the top. Returns how many. */
function* liftDirectories(top: number, name: string): Steps<number> {
  const fd = openDirectory(top, name);
  if (fd < 0) return 0;
  try {
    let count = 0;
    const entries = readDirectory(fd);
    for (const entry of typeof entries === 'number' ? [] : entries) {
      if (isFull(fd, entry)) {
        const to = `.lifted-${process.pid}-${lifted++}`;
        if (renameat2(fd, entry.name, top, to, RENAME_NOREPLACE) === 0) count++;
      }
      yield;
    }
    return count;
  } finally {
    close(fd);
  }
}

/** Moves `name` out of sight in one step, then deletes it. */
export function discard(core: Core, dirfd: number, name: string): number {
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  step(core, 'discard');
  const moved = renameat2(dirfd, name, work, temporary);
  if (moved < 0) return moved;
  step(core, 'discard: delete');
  removeTree(work, temporary);
  return 0;
}
