/** sync_file_range(2): starting the write-out of a file's dirty pages without waiting for the disk. */
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
