/**
 * How units appear and vanish. A unit is built in REPO/.tmp-ID/ under an flock that dies with its process, made durable, and renamed
 * to NAME_VERSION. With `durable: false` the rename comes first and the file `.unsynced` (holding the boot's id) stays in the unit
 * until makeDurable: after a power loss such a unit counts as absent and cleanRepoDir deletes it. A unit may be entered by its owner only: set-user-id programs of
 * packages and directories that everybody may write stand in it as they are.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { asStrataError, StrataError } from '../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  flock,
  fstat,
  fsync,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  RENAME_EXCHANGE,
  removexattrAt,
  renameat2,
  syncfs,
} from '../sys/index.ts';
import { checked } from './checked.ts';
import { readPlainFile } from './plain-file.ts';
import { removeTree } from './remove-tree.ts';

const LOCK_EX_NB = 2 | 4;
/** In a unit that is not safe against power loss yet. */
export const UNSYNCED = '.unsynced';
const WORK = /^\.(tmp|trash)-/;
const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

export interface Staging {
  repoDir: string;
  /** Absolute path of the directory being filled; only its owner may enter it. */
  dir: string;
  name: string;
  repoFd: number;
  fd: number;
}

let bootId: string | undefined;
function currentBoot(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return bootId;
}

function openDirectory(path: string): number {
  return checked(
    openat(AT_FDCWD, Buffer.from(path).toString('latin1'), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
    'open',
    path,
  );
}

/** Begins a unit in `repoDir` (made when it does not exist). End it with commitStaging or discardStaging. */
export function createStaging(repoDir: string): Staging {
  try {
    mkdirSync(repoDir, { recursive: true });
  } catch (error) {
    throw asStrataError(error);
  }
  const repoFd = openDirectory(repoDir);
  try {
    const stat = newStat();
    for (;;) {
      const name = `.tmp-${process.pid}-${randomBytes(6).toString('hex')}`;
      const dir = join(resolve(repoDir), name);
      mkdirSync(dir, { mode: 0o700 });
      const fd = openat(repoFd, name, DIRECTORY);
      // Somebody's cleanRepoDir may have come between mkdir and flock: then the directory is gone or about to be.
      if (fd === -E.NOENT) continue;
      checked(fd, 'open', dir);
      const locked = flock(fd, LOCK_EX_NB);
      if (locked === 0 && fstat(fd, stat) === 0 && stat.nlink > 0) {
        removexattrAt(repoFd, name, 'system.posix_acl_default');
        return { repoDir: resolve(repoDir), dir, name, repoFd, fd };
      }
      close(fd);
      if (locked !== -E.AGAIN) checked(locked, 'flock', dir);
    }
  } catch (error) {
    close(repoFd);
    throw asStrataError(error);
  }
}

/** Deletes what was staged. */
export async function discardStaging(staging: Staging): Promise<void> {
  try {
    await removeTree(staging.repoFd, staging.name);
  } finally {
    close(staging.fd);
    close(staging.repoFd);
  }
}

export interface CommitOptions {
  /** Exchange with a unit that is there already; default: keep that one. */
  replace?: boolean;
  /** Default true: on return the unit survives a power loss. */
  durable?: boolean;
}

/** Renames the staged unit to its name. False when a unit of that name was there (and stays); then the staged one is deleted. */
export async function commitStaging(
  staging: Staging,
  unitName: string,
  options: CommitOptions = {},
): Promise<boolean> {
  const { repoFd, fd, name, dir } = staging;
  const { durable = true } = options;
  try {
    if (durable) checked(syncfs(fd), 'syncfs', dir);
    else writeFileSync(join(dir, UNSYNCED), `${currentBoot()}\n`);
  } catch (error) {
    await discardStaging(staging);
    throw asStrataError(error);
  }
  // rename(2) never replaces a directory that is not empty, also where RENAME_NOREPLACE is not known (NFS).
  let result = renameat2(repoFd, name, repoFd, unitName);
  const exists = result === -E.EXIST || result === -E.NOTEMPTY;
  const stale = exists && isUnsynced(join(staging.repoDir, unitName));
  if (exists && (options.replace || stale)) result = exchange(staging, unitName);
  if (result < 0 && !(exists && (result === -E.EXIST || result === -E.NOTEMPTY))) {
    await discardStaging(staging);
    checked(result, 'rename', join(staging.repoDir, unitName));
  }
  if (durable && result >= 0) checked(fsync(repoFd), 'fsync', staging.repoDir);
  if (exists) await discardStaging(staging);
  else {
    close(fd);
    close(repoFd);
  }
  return result >= 0;
}

/** Afterwards the staged unit has the name, and the old one is at the staging's name. */
function exchange(staging: Staging, unitName: string): number {
  const { repoFd, name } = staging;
  const result = renameat2(repoFd, name, repoFd, unitName, RENAME_EXCHANGE);
  if (result !== -E.INVAL) return result;
  const aside = `${name.replace('.tmp-', '.trash-')}`;
  const moved = renameat2(repoFd, unitName, repoFd, aside);
  if (moved < 0) return moved;
  const placed = renameat2(repoFd, name, repoFd, unitName);
  if (placed < 0) renameat2(repoFd, aside, repoFd, unitName);
  else renameat2(repoFd, aside, repoFd, name);
  return placed;
}

/** True when the unit at `dir` was committed without durability in an earlier boot: its files may be empty. */
export function isUnsynced(dir: string): boolean {
  let boot: string;
  try {
    boot = readPlainFile(join(dir, UNSYNCED)).toString('utf8').trim();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw asStrataError(error);
  }
  return boot !== currentBoot();
}

/** Makes units that were committed with `durable: false` survive a power loss: one flush for all of them. All must stand in one
 * file system. Idempotent. */
export function makeDurable(unitDirs: readonly string[]): void {
  if (unitDirs.length === 0) return;
  const fd = openDirectory(unitDirs[0]!);
  try {
    checked(syncfs(fd), 'syncfs', unitDirs[0]!);
    for (const dir of unitDirs) {
      try {
        unlinkSync(join(dir, UNSYNCED));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw asStrataError(error);
      }
    }
    checked(syncfs(fd), 'syncfs', unitDirs[0]!);
  } finally {
    close(fd);
  }
}

/** Takes the unit directory `unitName` out of its repository in one step, then deletes it. Throws NOT_FOUND. */
export async function removeUnitDir(repoDir: string, unitName: string): Promise<void> {
  const repoFd = openDirectory(repoDir);
  try {
    const trash = `.trash-${process.pid}-${randomBytes(6).toString('hex')}`;
    const result = renameat2(repoFd, unitName, repoFd, trash);
    if (result === -E.NOENT) {
      throw new StrataError('NOT_FOUND', `there is no layer unit ${unitName} in ${repoDir}`);
    }
    checked(result, 'rename', join(repoDir, unitName));
    checked(fsync(repoFd), 'fsync', repoDir);
    await removeTree(repoFd, trash);
  } finally {
    close(repoFd);
  }
}

/** Deletes what dead imports and removals left in a repository directory, and units that a power loss caught. Work of living
 * processes stays. Returns the names of what was deleted. */
export async function cleanRepoDir(repoDir: string): Promise<string[]> {
  let names: string[];
  try {
    names = readdirSync(repoDir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw asStrataError(error);
  }
  const removed: string[] = [];
  const repoFd = openDirectory(repoDir);
  try {
    for (const name of names) {
      const isWork = WORK.test(name);
      if (!isWork && (name.startsWith('.') || !name.includes('_') || !isUnsynced(join(repoDir, name))))
        continue;
      const fd = openat(repoFd, name, DIRECTORY);
      if (fd === -E.NOENT || fd === -E.NOTDIR) continue;
      checked(fd, 'open', join(repoDir, name));
      try {
        if (flock(fd, LOCK_EX_NB) < 0) continue;
        await removeTree(repoFd, name);
        removed.push(name);
      } finally {
        close(fd);
      }
    }
  } finally {
    close(repoFd);
  }
  return removed;
}
