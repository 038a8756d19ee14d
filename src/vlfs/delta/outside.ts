/**
 * Partial files for those who read or copy private layers without opening a VLFS, and completing all of a private layer before something else
 * (the kernel's overlayfs, a config layer) is to hold them. The unit below is found through the list on private/.
 */
import { setImmediate as breathe } from 'node:timers/promises';
import { nameFromText, nameToText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  DT_DIR,
  E,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fallocate,
  fgetxattr,
  fremovexattr,
  fstat,
  fsync,
  ftruncate,
  futimens,
  getxattrAt,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TMPFILE,
  openat,
  openat2,
  pwrite,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
} from '../../sys/index.ts';
import { systemFailure } from '../failure.ts';
import { walkEntries } from '../private-layer/walk-entries.ts';
import { forgetUsage } from '../quota/usage-file.ts';
import { BLOCK, gaps } from './block-map.ts';
import { checkMap, newPartial, type Partial } from './partial-file.ts';
import { BASES_XATTR, decodePartial, dropPartial, PARTIAL_XATTR, readBases } from './partial-form.ts';
import { readPartial } from './partial-io.ts';

const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
/** Bytes between two breaths. */
const SLICE_BYTES = 8 << 20;
const CHUNK_BYTES = 1 << 20;

export interface PartialSource {
  fd: number;
  baseFd: number;
  partial: Partial;
}

/** The units that partial files of a private layer need, by id, with their trees; empty for nearly every one. */
export function basesOf(privateDir: string): Map<string, string> {
  const fd = openat(AT_FDCWD, nameFromText(privateDir), DIRECTORY);
  if (fd < 0) return new Map();
  const bases = readBases(fd, privateDir);
  close(fd);
  return bases;
}

/**
 * What an open private file shows beside its own blocks; null for an ordinary file. Throws IO when the file below is not what it was. The caller closes
 * `baseFd`.
 */
export function partialSource(fd: number, bases: ReadonlyMap<string, string>): PartialSource | null {
  const value = fgetxattr(fd, PARTIAL_XATTR);
  if (value === -E.NODATA || value === -E.OPNOTSUPP) return null;
  const form = typeof value === 'number' ? null : decodePartial(value);
  if (form === null) throw new StrataError('IO', 'a private file has a damaged map of its blocks');
  checkMap(fd, form);
  const baseFd = openBelow(bases.get(form.unit), form.path);
  const stat = newStat();
  if (baseFd >= 0 && fstat(baseFd, stat) === 0 && stat.size === form.baseSize)
    return { fd, baseFd, partial: newPartial(form) };
  if (baseFd >= 0) close(baseFd);
  throw new StrataError(
    'IO',
    `${nameToText(form.path as never)} of ${form.unit}, which a private file still shows, is gone or was changed`,
    { hint: 'bring that version of the layer back' },
  );
}

function openBelow(treeDir: string | undefined, path: string): number {
  if (treeDir === undefined) return -E.NOENT;
  const root = openat(AT_FDCWD, nameFromText(treeDir), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return root;
  const fd = openat2(root, path, O_RDONLY | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  close(root);
  return fd;
}

/** All that a private file shows, when it is partial and no larger than `mostBytes`; null: it is an ordinary file, or too large. */
export function readWhole(privateDir: string, fd: number, mostBytes: number): Buffer | null {
  if (typeof fgetxattr(fd, PARTIAL_XATTR) === 'number') return null;
  const source = partialSource(fd, basesOf(privateDir));
  if (source === null) return null;
  const stat = newStat();
  try {
    if (fstat(fd, stat) < 0 || stat.size > mostBytes) return null;
    const bytes = Buffer.alloc(stat.size);
    return bytes.subarray(0, Math.max(0, readPartial(source, source.partial, 0, bytes)));
  } finally {
    close(source.baseFd);
  }
}

/** Copies what a partial file shows into an empty file; zeros stay holes. */
export async function copyPartial(source: PartialSource, toFd: number): Promise<void> {
  const stat = newStat();
  must(fstat(source.fd, stat));
  must(ftruncate(toFd, stat.size));
  const chunk = Buffer.alloc(CHUNK_BYTES);
  for (let at = 0; at < stat.size; ) {
    const got = must(readPartial(source, source.partial, at, chunk));
    if (got === 0) return;
    writeData(toFd, chunk.subarray(0, got), at);
    at += got;
    if (at % SLICE_BYTES === 0) await breathe();
  }
}

const zeros = Buffer.alloc(BLOCK);

/** Writes the blocks that are not zero. */
function writeData(fd: number, data: Buffer, offset: number): void {
  for (let at = 0; at < data.length; ) {
    let end = at;
    while (end < data.length && !isZero(data.subarray(end, end + BLOCK))) end += BLOCK;
    end = Math.min(end, data.length);
    for (let done = at; done < end; )
      done += must(pwrite(fd, data.subarray(done, end), end - done, offset + done));
    at = end + BLOCK;
  }
}

const isZero = (block: Buffer): boolean => block.equals(zeros.subarray(0, block.length));

function must(result: number): number {
  if (result < 0) throw systemFailure(result, 'complete a private file');
  return result;
}

/**
 * Makes every partial file of a private layer that nobody has mounted an ordinary one, and forgets the units below them. Killed at any point it can be
 * repeated. Returns how many there were.
 */
export async function completePrivate(privateDir: string): Promise<number> {
  const bases = basesOf(privateDir);
  if (bases.size === 0) return 0;
  forgetUsage(privateDir);
  const root = must(openat(AT_FDCWD, nameFromText(privateDir), DIRECTORY));
  try {
    let done = 0;
    for (const { dirfd, name, type } of walkEntries(root)) {
      if (type === DT_DIR || typeof getxattrAt(dirfd, name, PARTIAL_XATTR) === 'number') continue;
      const file = must(openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
      try {
        if (await completeFile(file, bases)) done++;
      } finally {
        close(file);
      }
    }
    must(fsync(root));
    fremovexattr(root, BASES_XATTR);
    return done;
  } finally {
    close(root);
  }
}

async function completeFile(fd: number, bases: ReadonlyMap<string, string>): Promise<boolean> {
  const source = partialSource(fd, bases);
  if (source === null) return false;
  const before = newStat();
  try {
    must(fstat(fd, before));
    const { form } = source.partial;
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (const [from, to] of gaps(form.map, 0, form.limit)) {
      const end = Math.min(to * BLOCK, before.size);
      must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from * BLOCK, (to - from) * BLOCK));
      for (let at = from * BLOCK; at < end; at += chunk.length) {
        const got = must(readPartial(source, source.partial, at, chunk.subarray(0, end - at)));
        writeData(fd, chunk.subarray(0, got), at);
        if (at % SLICE_BYTES === 0) await breathe();
      }
    }
    const { atimeSec, atimeNsec, mtimeSec, mtimeNsec } = before;
    must(futimens(fd, atimeSec, atimeNsec, mtimeSec, mtimeNsec));
    must(fsync(fd));
    must(dropPartial(fd));
    return true;
  } finally {
    close(source.baseFd);
  }
}

/**
 * What a partial file shows, open for reading: the file below when nothing but attributes was changed, else a copy without a name beside it. null for an
 * ordinary file; a negative errno. Throws IO when the file below is gone.
 */
export function openShown(fd: number, bases: ReadonlyMap<string, string>, privateDir: string): number | null {
  const source = partialSource(fd, bases);
  if (source === null) return null;
  if (source.partial.form.meta) return source.baseFd;
  const to = openat(AT_FDCWD, nameFromText(privateDir), O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600);
  try {
    if (to < 0) return to;
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let at = 0; ; ) {
      const got = must(readPartial(source, source.partial, at, chunk));
      if (got === 0) return to;
      writeData(to, chunk.subarray(0, got), at);
      at += got;
      must(ftruncate(to, at));
    }
  } catch (error) {
    if (to >= 0) close(to);
    throw error;
  } finally {
    close(source.baseFd);
  }
}
