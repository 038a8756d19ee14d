/** sync_file_range(2) and cachestat(2): writing a file's dirty pages, and whether there are any; and what of the order of changes a power cut keeps. */
import { statfsSync } from 'node:fs';
import { libc, orErrno } from './libc.ts';

const syncFileRange = libc.func(
  'int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)',
);

const SYNC_FILE_RANGE_WRITE = 2;
const SYNC_FILE_RANGE_ALL = 7;

/** Starts writing all dirty pages of the file. Its blocks are then allocated, so an ordered journal writes them before a later rename. */
export function startWriteback(fd: number): number {
  return orErrno(syncFileRange(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
}

/** Writes all dirty pages of the file and waits for them. A store through a mapping that comes later changes the file's times again. */
export function cleanPages(fd: number): number {
  return orErrno(syncFileRange(fd, 0, 0, SYNC_FILE_RANGE_ALL));
}

/** As cleanPages, of several files at once. 0 or a negative errno. */
export function writeOut(fds: readonly number[]): number {
  for (const fd of fds) startWriteback(fd);
  for (const fd of fds) {
    const result = cleanPages(fd);
    if (result < 0) return result;
  }
  return 0;
}

/** As cleanPages, in a thread; 0 or -EIO. The descriptor stays open until then. */
export function cleanPagesAside(fd: number): Promise<number> {
  return new Promise((resolve) => {
    syncFileRange.async(fd, 0, 0, SYNC_FILE_RANGE_ALL, (error: unknown, result: number) =>
      // The number of the error is the other thread's.
      resolve(error === null && result >= 0 ? 0 : -5),
    );
  });
}

const EXT4 = 0xef53;
const XFS = 0x58465342;

/**
 * Whether the file system at `path` keeps names, link targets, attributes and sizes in one journal, in the order of their changes: after a power cut, who finds a
 * change finds all before it, and the content that cleanPages had written before it.
 */
export function keepsOrder(path: string): boolean {
  const { type } = statfsSync(path);
  return type === EXT4 || type === XFS;
}

const cachestat = libc.func('syscall', 'long', ['long', 'long', 'void *', 'void *', 'long']);
const SYS_CACHESTAT = 451;
const whole = new BigUint64Array(2);
const counts = new BigUint64Array(5);

/** Pages of the file in the page cache that are dirty or being written; a negative errno before Linux 6.5. */
export function dirtyPages(fd: number): number {
  const result = count(fd);
  return result < 0 ? result : Number(counts[1]! + counts[2]!);
}

/** Pages of the file in the page cache that were stored to since they were last about to be written; a negative errno before Linux 6.5. */
export function storedPages(fd: number): number {
  const result = count(fd);
  return result < 0 ? result : Number(counts[1]!);
}

function count(fd: number): number {
  return orErrno(Number(cachestat(SYS_CACHESTAT, fd, whole, counts, 0)));
}
