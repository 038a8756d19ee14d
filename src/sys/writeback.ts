/** sync_file_range(2) and cachestat(2): writing a file's dirty pages, and whether there are any. */
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

const cachestat = libc.func('syscall', 'long', ['long', 'long', 'void *', 'void *', 'long']);
const SYS_CACHESTAT = 451;
const whole = new BigUint64Array(2);
const counts = new BigUint64Array(5);

/** Pages of the file in the page cache that are dirty or being written; a negative errno before Linux 6.5. */
export function dirtyPages(fd: number): number {
  const result = orErrno(Number(cachestat(SYS_CACHESTAT, fd, whole, counts, 0)));
  return result < 0 ? result : Number(counts[1]! + counts[2]!);
}
