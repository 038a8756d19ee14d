/** Descriptors and names: the *at family, data calls, locks. All return >= 0 or a negative errno. */
import { AT_EMPTY_PATH, AT_FDCWD, RENAME_EXCHANGE } from './constants.ts';
import { cstr, cstr2, libc, orErrno } from './libc.ts';

const c = {
  openat: libc.func('int openat(int dirfd, const void *path, int flags, unsigned int mode)'),
  close: libc.func('int close(int fd)'),
  dup: libc.func('int fcntl(int fd, int cmd, long arg)'),
  mkdirat: libc.func('int mkdirat(int dirfd, const void *path, unsigned int mode)'),
  mknodat: libc.func('int mknodat(int dirfd, const void *path, unsigned int mode, uint64_t dev)'),
  unlinkat: libc.func('int unlinkat(int dirfd, const void *path, int flags)'),
  renameat2: libc.func('int renameat2(int od, const void *op, int nd, const void *np, unsigned int flags)'),
  linkat: libc.func('int linkat(int od, const void *op, int nd, const void *np, int flags)'),
  symlinkat: libc.func('int symlinkat(const void *target, int dirfd, const void *path)'),
  readlinkat: libc.func('long readlinkat(int dirfd, const void *path, void *out, unsigned long size)'),
  fchmod: libc.func('int fchmod(int fd, unsigned int mode)'),
  fchmodat: libc.func('int fchmodat(int dirfd, const void *path, unsigned int mode, int flags)'),
  fchown: libc.func('int fchown(int fd, unsigned int uid, unsigned int gid)'),
  fchownat: libc.func(
    'int fchownat(int dirfd, const void *path, unsigned int uid, unsigned int gid, int flags)',
  ),
  utimensat: libc.func('int utimensat(int dirfd, const void *path, const void *times, int flags)'),
  futimens: libc.func('int futimens(int fd, const void *times)'),
  ftruncate: libc.func('int ftruncate(int fd, int64_t size)'),
  pread: libc.func('long pread(int fd, void *into, unsigned long size, int64_t offset)'),
  pwrite: libc.func('long pwrite(int fd, const void *from, unsigned long size, int64_t offset)'),
  read: libc.func('long read(int fd, void *into, unsigned long size)'),
  write: libc.func('long write(int fd, const void *from, unsigned long size)'),
  readAddress: libc.func('read', 'int64_t', ['int', 'size_t', 'size_t']),
  writeAddress: libc.func('write', 'int64_t', ['int', 'size_t', 'size_t']),
  lseek: libc.func('int64_t lseek(int fd, int64_t offset, int whence)'),
  fsync: libc.func('int fsync(int fd)'),
  fdatasync: libc.func('int fdatasync(int fd)'),
  syncfs: libc.func('int syncfs(int fd)'),
  fallocate: libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
  copyFileRange: libc.func(
    'long copy_file_range(int in, void *offIn, int out, void *offOut, unsigned long size, unsigned int flags)',
  ),
  ioctlLong: libc.func('ioctl', 'int', ['int', 'ulong', 'long']),
  ioctlPointer: libc.func('ioctl', 'int', ['int', 'ulong', 'void *']),
  flock: libc.func('int flock(int fd, int operation)'),
  openat2: libc.func('syscall', 'long', ['long', 'long', 'void *', 'void *', 'long']),
};

export function openat(dirfd: number, name: string, flags: number, mode = 0): number {
  return orErrno(c.openat(dirfd, cstr(name), flags, mode));
}

const how = new BigUint64Array(3);

/** openat2(2): `resolve` takes RESOLVE_* bits; a path escape is EXDEV, a symlink ELOOP. */
export function openat2(dirfd: number, path: string, flags: number, mode: number, resolve: number): number {
  how[0] = BigInt(flags);
  how[1] = BigInt(mode);
  how[2] = BigInt(resolve);
  return orErrno(Number(c.openat2(437, dirfd, cstr(path), how, 24)));
}

export function close(fd: number): number {
  return orErrno(c.close(fd));
}

/** A duplicate with close-on-exec. */
export function dup(fd: number): number {
  return orErrno(c.dup(fd, 1030 /* F_DUPFD_CLOEXEC */, 3));
}

/** Sets or clears O_NONBLOCK and the like (F_SETFL). */
export function setFlags(fd: number, flags: number): number {
  return orErrno(c.dup(fd, 4 /* F_SETFL */, flags));
}

export function mkdirat(dirfd: number, name: string, mode: number): number {
  return orErrno(c.mkdirat(dirfd, cstr(name), mode));
}

/** `dev` in new_encode_dev form (the same as glibc's for major < 4096, minor < 2^20). */
export function mknodat(dirfd: number, name: string, mode: number, dev: number): number {
  return orErrno(c.mknodat(dirfd, cstr(name), mode, dev));
}

export function unlinkat(dirfd: number, name: string, flags = 0): number {
  return orErrno(c.unlinkat(dirfd, cstr(name), flags));
}

export function renameat2(fromDir: number, from: string, toDir: number, to: string, flags = 0): number {
  return orErrno(c.renameat2(fromDir, cstr(from), toDir, cstr2(to), flags));
}

/**
 * Puts a file into the place of another one, if there is one, in one step. What is renamed over another file ext4 begins to write out at once, and waits for the disk's queue;
 * what changes places stays in the page cache. So this is for content that a power cut may take.
 */
export function replaceName(from: string, to: string): number {
  const exchanged = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE);
  return exchanged === 0 ? unlinkat(AT_FDCWD, from) : renameat2(AT_FDCWD, from, AT_FDCWD, to);
}

export function linkat(fromDir: number, from: string, toDir: number, to: string, flags = 0): number {
  return orErrno(c.linkat(fromDir, cstr(from), toDir, cstr2(to), flags));
}

/** Gives an open descriptor (O_TMPFILE or O_PATH) a name. */
export function linkFd(fd: number, toDir: number, to: string): number {
  return orErrno(c.linkat(fd, cstr(''), toDir, cstr2(to), AT_EMPTY_PATH));
}

export function symlinkat(target: string, dirfd: number, name: string): number {
  return orErrno(c.symlinkat(cstr(target), dirfd, cstr2(name)));
}

const linkBuffer = Buffer.alloc(4096);

/** The target (latin1), or a negative errno. An empty name reads an O_PATH descriptor of a symlink. */
export function readlinkat(dirfd: number, name: string): string | number {
  const length = orErrno(Number(c.readlinkat(dirfd, cstr(name), linkBuffer, linkBuffer.length)));
  return length < 0 ? length : linkBuffer.latin1Slice(0, length);
}

export function fchmod(fd: number, mode: number): number {
  return orErrno(c.fchmod(fd, mode));
}

/** chmod of a name; follows a symlink (Linux has no lchmod), so only for names known not to be one. */
export function fchmodat(dirfd: number, name: string, mode: number): number {
  return orErrno(c.fchmodat(dirfd, cstr(name), mode, 0));
}

/** chmod through an O_PATH descriptor. */
export function chmodPathFd(fd: number, mode: number): number {
  return orErrno(c.fchmodat(-100, cstr(`/proc/self/fd/${fd}`), mode, 0));
}

/** uid or gid 0xffffffff leaves it. */
export function fchown(fd: number, uid: number, gid: number): number {
  return orErrno(c.fchown(fd, uid >>> 0, gid >>> 0));
}

/** lchown of a name; with an empty name and AT_EMPTY_PATH of an O_PATH descriptor. */
export function fchownat(dirfd: number, name: string, uid: number, gid: number, flags = 0x100): number {
  return orErrno(c.fchownat(dirfd, cstr(name), uid >>> 0, gid >>> 0, flags));
}

const times = new BigInt64Array(4);

function setTimes(atimeSec: number, atimeNsec: number, mtimeSec: number, mtimeNsec: number): BigInt64Array {
  times[0] = BigInt(atimeSec);
  times[1] = BigInt(atimeNsec);
  times[2] = BigInt(mtimeSec);
  times[3] = BigInt(mtimeNsec);
  return times;
}

/** lutimes of a name, to the nanosecond; nsec may be UTIME_NOW or UTIME_OMIT. */
export function utimensat(
  dirfd: number,
  name: string,
  atimeSec: number,
  atimeNsec: number,
  mtimeSec: number,
  mtimeNsec: number,
  flags = 0x100,
): number {
  return orErrno(c.utimensat(dirfd, cstr(name), setTimes(atimeSec, atimeNsec, mtimeSec, mtimeNsec), flags));
}

export function futimens(
  fd: number,
  atimeSec: number,
  atimeNsec: number,
  mtimeSec: number,
  mtimeNsec: number,
): number {
  return orErrno(c.futimens(fd, setTimes(atimeSec, atimeNsec, mtimeSec, mtimeNsec)));
}

export function ftruncate(fd: number, size: number): number {
  return orErrno(c.ftruncate(fd, size));
}

export function pread(fd: number, into: Uint8Array, size: number, offset: number): number {
  return orErrno(Number(c.pread(fd, into, size, offset)));
}

export function pwrite(fd: number, from: Uint8Array, size: number, offset: number): number {
  return orErrno(Number(c.pwrite(fd, from, size, offset)));
}

export function read(fd: number, into: Uint8Array, size: number): number {
  return orErrno(Number(c.read(fd, into, size)));
}

export function write(fd: number, from: Uint8Array, size: number): number {
  return orErrno(Number(c.write(fd, from, size)));
}

/** read into memory at an address (addressOf). */
export function readAddress(fd: number, address: number, size: number): number {
  return orErrno(Number(c.readAddress(fd, address, size)));
}

/** write of memory at an address (addressOf). */
export function writeAddress(fd: number, address: number, size: number): number {
  return orErrno(Number(c.writeAddress(fd, address, size)));
}

export function lseek(fd: number, offset: number, whence: number): number {
  return orErrno(Number(c.lseek(fd, offset, whence)));
}

export function fsync(fd: number): number {
  return orErrno(c.fsync(fd));
}

export function fdatasync(fd: number): number {
  return orErrno(c.fdatasync(fd));
}

export function syncfs(fd: number): number {
  return orErrno(c.syncfs(fd));
}

export function fallocate(fd: number, mode: number, offset: number, length: number): number {
  return orErrno(c.fallocate(fd, mode, offset, length));
}

const offIn = new BigInt64Array(1);
const offOut = new BigInt64Array(1);

/** copy_file_range(2) at explicit offsets; bytes copied. */
export function copyFileRange(
  fromFd: number,
  fromOffset: number,
  toFd: number,
  toOffset: number,
  size: number,
): number {
  offIn[0] = BigInt(fromOffset);
  offOut[0] = BigInt(toOffset);
  return orErrno(Number(c.copyFileRange(fromFd, offIn, toFd, offOut, size, 0)));
}

/** FICLONE: the whole of `fromFd` into `toFd` by sharing blocks; EOPNOTSUPP or EXDEV where the file system cannot. */
export function ficlone(toFd: number, fromFd: number): number {
  return orErrno(c.ioctlLong(toFd, 0x40049409, fromFd));
}

/** ioctl with a number as argument. */
export function ioctl(fd: number, request: number, argument: number): number {
  return orErrno(c.ioctlLong(fd, request, argument));
}

/** ioctl with a structure as argument. */
export function ioctlBuffer(fd: number, request: number, argument: Uint8Array): number {
  return orErrno(c.ioctlPointer(fd, request, argument));
}

/** flock(2): LOCK_SH 1, LOCK_EX 2, LOCK_NB 4, LOCK_UN 8. */
export function flock(fd: number, operation: number): number {
  return orErrno(c.flock(fd, operation));
}

const FICLONERANGE = 0x4020940d;

/** Lets the first `size` bytes of a file share their blocks with another one's; never copies. */
export function ficloneRange(toFd: number, fromFd: number, size: number): number {
  const argument = Buffer.alloc(32);
  argument.writeBigInt64LE(BigInt(fromFd), 0);
  argument.writeBigUInt64LE(BigInt(size), 16);
  return ioctlBuffer(toFd, FICLONERANGE, argument);
}
