/** getdents64(2): raw directory entries with byte names. */
import { libc, orErrno } from './libc.ts';

const getdents = libc.func('long getdents64(int fd, void *out, unsigned long size)');

export interface DirectoryEntry {
  /** latin1, one character a byte. */
  name: string;
  ino: number;
  /** DT_*. */
  type: number;
}

const buffer = Buffer.alloc(1 << 16);

/** All entries of an open directory but '.' and '..', from its present position; or a negative errno. */
export function readDirectory(fd: number): DirectoryEntry[] | number {
  const entries: DirectoryEntry[] = [];
  for (;;) {
    const more = readSomeEntries(fd, entries);
    if (more < 0) return more;
    if (more === 0) return entries;
  }
}

/**
 * Adds the next entries (as many as fit into `bytes`, at most and by default 64 KiB, but not '.' and '..') to `into`. 0 at the end of the directory, 1
 * before it, or a negative errno.
 */
export function readSomeEntries(fd: number, into: DirectoryEntry[], bytes: number = buffer.length): number {
  const length = orErrno(Number(getdents(fd, buffer, Math.min(bytes, buffer.length))));
  if (length <= 0) return length;
  for (let at = 0; at < length; ) {
    const size = buffer.readUInt16LE(at + 16);
    let end = at + 19;
    while (buffer[end] !== 0) end++;
    const name = buffer.latin1Slice(at + 19, end);
    if (name !== '.' && name !== '..') {
      const ino = buffer.readUInt32LE(at) + buffer.readUInt32LE(at + 4) * 2 ** 32;
      into.push({ name, ino, type: buffer[at + 18]! });
    }
    at += size;
  }
  return 1;
}
