/**
 * The work directory beside private/: temporaries that become visible by one rename, journals of changes that need more than one, and
 * trash. It is made on first use. Whatever is found in it at opening is finished (journals) or deleted.
 */
import { dirname, join } from 'node:path';
import { nameFromText } from '../base/index.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  DT_DIR,
  E,
  mkdirat,
  readDirectory,
  renameat2,
  unlinkat,
} from '../sys/index.ts';
import { type Core, step } from './core.ts';
import { finished, type Steps } from './steps.ts';
import { openDirectory } from './whiteout-sets.ts';

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

/** Deletes a directory tree below `dirfd`, never following a symlink. Best effort; a negative errno tells that something is left. */
export function removeTree(dirfd: number, name: string): number {
  return finished(removeTreeSteps(dirfd, name));
}

/** As removeTree, in steps. */
export function* removeTreeSteps(dirfd: number, name: string): Steps<number> {
  yield;
  const direct = unlinkat(dirfd, name);
  if (direct === 0 || direct === -E.NOENT) return 0;
  if (direct !== -E.ISDIR && direct !== -E.PERM) return direct;
  const fd = openDirectory(dirfd, name);
  if (fd < 0) return fd;
  const entries = readDirectory(fd);
  if (typeof entries !== 'number') {
    for (const entry of entries) {
      if (entry.type === DT_DIR || entry.type === 0) yield* removeTreeSteps(fd, entry.name);
      else {
        unlinkat(fd, entry.name);
        yield;
      }
    }
  }
  close(fd);
  return unlinkat(dirfd, name, AT_REMOVEDIR);
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
