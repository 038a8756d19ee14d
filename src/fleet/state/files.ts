/**
 * Durable changes of small files: temporary, fsync, rename, fsync the directory. Keeps true: whoever reads a path sees the old
 * or the new content, never a part. Only for control-side files; the data of appliances goes through vlfs.
 */
import { execFile } from 'node:child_process';
import {
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { asStrataError, nameFromText, StrataError } from '../../base/index.ts';
import { AT_FDCWD, cleanPagesAside, errnoName, keepsOrder, replaceName, syncfs } from '../../sys/index.ts';
import { latin1, removeEntry } from '../merge-layers/untrusted-tree.ts';

/** Makes the entries of a directory durable. */
export function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Writes back everything of the file system that `dir` stands on; one call for a whole staged tree. */
export function syncFileSystem(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    const result = syncfs(fd);
    if (result < 0) throw new StrataError('IO', `cannot write ${dir} back to the disk (errno ${-result})`);
  } finally {
    closeSync(fd);
  }
}

/**
 * Before a change that must not be on the disk without those before it. Where the file system keeps names in one journal, in the order of the changes, there is
 * nothing to do; else all is written back.
 */
export function keepOrder(dir: string): void {
  if (!keepsOrder(dir)) syncFileSystem(dir);
}

/**
 * In a thread: the content of a file is on the disk before any later change of a name is, on a file system that keeps order. Waits for the disk, but not for the journal.
 * Nothing to do when it is gone.
 */
export async function writeOutAside(path: string): Promise<void> {
  await withOpen(path, async ({ fd }) => {
    const result = await cleanPagesAside(fd);
    if (result < 0) throw new StrataError('IO', `cannot write ${path} to the disk (errno ${-result})`);
  });
}

/** Before a record that names new files below `dir`: what they hold is on the disk when the record is. Waits for no more than that, where names keep their order. */
export async function bringOutAside(dir: string, files: readonly string[]): Promise<void> {
  if (keepsOrder(dir)) await Promise.all(files.map(writeOutAside));
  else await syncFileSystemAside(dir);
}

/** As syncFileSystem, for a file system on which appliances may be writing: this process does not stand still meanwhile. */
export async function syncFileSystemAside(dir: string): Promise<void> {
  try {
    await promisify(execFile)('sync', ['-f', dir]);
  } catch (error) {
    throw new StrataError('IO', `cannot write ${dir} back to the disk`, { cause: error });
  }
}

/** A new file with its content on the disk; its name is durable only after syncDirectory of the parent. */
export function writeNewFile(path: string, content: string | Uint8Array, sync = true): void {
  const fd = openSync(path, 'wx', 0o644);
  try {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    if (sync) fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Brings a file or directory to the disk in a thread; nothing to do when it is gone. */
export function syncAside(path: string): Promise<void> {
  return withOpen(path, (handle) => handle.sync());
}

async function withOpen(path: string, use: (handle: FileHandle) => Promise<void>): Promise<void> {
  try {
    const handle = await open(path, 'r');
    try {
      await use(handle);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/**
 * Replaces a file's content in one step. The content is on the disk before that unless `sync` is false, and the name after it unless `syncParent` is (then the
 * caller does it).
 */
export function replaceFile(
  path: string,
  content: string | Uint8Array,
  { sync = true, syncParent = true }: { sync?: boolean; syncParent?: boolean } = {},
): void {
  const temporary = join(dirname(path), `.tmp-${basename(path)}-${process.pid}`);
  if (isThere(temporary)) rmSync(temporary);
  try {
    writeNewFile(temporary, content, sync);
    if (sync) renameSync(temporary, path);
    else putInPlace(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw asStrataError(error);
  }
  if (syncParent) syncDirectory(dirname(path));
}

function putInPlace(temporary: string, path: string): void {
  const put = replaceName(nameFromText(temporary), nameFromText(path));
  if (put < 0) throw new StrataError('IO', `cannot write ${path}: ${errnoName(put)}`);
}

/** Points a symbolic link at `target` in one step, whatever stood at `path` before (but a directory). */
export function replaceLink(path: string, target: string): void {
  if (!isThere(path)) {
    symlinkSync(target, path);
    return;
  }
  const temporary = join(dirname(path), `.tmp-${basename(path)}-${process.pid}`);
  rmSync(temporary, { force: true });
  symlinkSync(target, temporary);
  renameSync(temporary, path);
}

/** The text of a file, or null when there is none. */
export function readTextIfThere(path: string): string | null {
  try {
    // An error costs more than the look.
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** A JSON file as an object, or null when there is none; BAD_FORMAT when it is not JSON. */
export function readJsonIfThere(path: string): Record<string, unknown> | null {
  const text = readTextIfThere(path);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (error) {
    throw new StrataError('BAD_FORMAT', `${path} is not JSON`, { cause: error });
  }
  throw new StrataError('BAD_FORMAT', `${path} is not a JSON object`);
}

export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** Whether something (also a dangling link) stands at `path`. */
export function isThere(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Names in a directory; [] when it does not exist. */
export function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

export function makeDirectory(dir: string, mode = 0o755): void {
  mkdirSync(dir, { recursive: true, mode });
}

/** Removes what stands at `path` with all below it, however deep; nothing to do when it is not there. */
export function removeTree(path: string): void {
  removeEntry(AT_FDCWD, latin1(path));
}
