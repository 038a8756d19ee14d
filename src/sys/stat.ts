/** statx(2) and statfs(2), decoded into reusable records. statx has one layout on every architecture. */
import { AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW } from './constants.ts';
import { addressOf, cstrAddress, libc, orErrno } from './libc.ts';

/** Times in seconds and nanoseconds; rdev and dev as the kernel's new_encode_dev (what FUSE and st_rdev hold for 12+20 bits). */
export interface Stat {
  dev: number;
  ino: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  size: number;
  blocks: number;
  blksize: number;
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
  ctimeSec: number;
  ctimeNsec: number;
}

export function newStat(): Stat {
  return {
    dev: 0,
    ino: 0,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    size: 0,
    blocks: 0,
    blksize: 4096,
    atimeSec: 0,
    atimeNsec: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    ctimeSec: 0,
    ctimeNsec: 0,
  };
}

const statxCall = libc.func('statx', 'int', ['int', 'size_t', 'int', 'uint', 'size_t']);
const STATX_BASIC_STATS = 0x7ff;
const AT_STATX_DONT_SYNC = 0x4000;
const buffer = new Uint8Array(256);
const view = new DataView(buffer.buffer);
const bufferAddress = addressOf(buffer);

/** new_encode_dev of linux/kdev_t.h. */
export function encodeDev(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

export function majorOf(dev: number): number {
  return (dev >>> 8) & 0xfff;
}

export function minorOf(dev: number): number {
  return (dev & 0xff) | ((dev >>> 12) & 0xfff00);
}

function u64(offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

function s64(offset: number): number {
  return view.getUint32(offset, true) + view.getInt32(offset + 4, true) * 2 ** 32;
}

function decode(out: Stat): void {
  out.blksize = view.getUint32(4, true);
  out.nlink = view.getUint32(16, true);
  out.uid = view.getUint32(20, true);
  out.gid = view.getUint32(24, true);
  out.mode = view.getUint16(28, true);
  out.ino = u64(32);
  out.size = u64(40);
  out.blocks = u64(48);
  out.atimeSec = s64(64);
  out.atimeNsec = view.getUint32(72, true);
  out.ctimeSec = s64(96);
  out.ctimeNsec = view.getUint32(104, true);
  out.mtimeSec = s64(112);
  out.mtimeNsec = view.getUint32(120, true);
  out.rdev = encodeDev(view.getUint32(128, true), view.getUint32(132, true));
  out.dev = encodeDev(view.getUint32(136, true), view.getUint32(140, true));
}

/** lstat of `name` in `dirfd`, into `out`. */
export function statAt(dirfd: number, name: string, out: Stat): number {
  const result = statxCall(dirfd, cstrAddress(name), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, bufferAddress);
  if (result < 0) return orErrno(result);
  decode(out);
  return 0;
}

/** fstat, also of O_PATH descriptors. */
export function fstat(fd: number, out: Stat): number {
  const result = statxCall(fd, cstrAddress(''), AT_EMPTY_PATH, STATX_BASIC_STATS, bufferAddress);
  if (result < 0) return orErrno(result);
  decode(out);
  return 0;
}

const device = newStat();

/** The device number of a mountpoint, by a statx that asks no file server for anything; a negative errno. */
export function deviceAt(path: string): number {
  const result = statxCall(
    AT_FDCWD,
    cstrAddress(path),
    AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC,
    0,
    bufferAddress,
  );
  if (result < 0) return orErrno(result);
  decode(device);
  return device.dev;
}

export interface StatFs {
  type: number;
  bsize: number;
  blocks: number;
  bfree: number;
  bavail: number;
  files: number;
  ffree: number;
  namelen: number;
  frsize: number;
}

const fstatfsCall = libc.func('int fstatfs(int fd, void *out)');

/** fstatfs(2); also of O_PATH descriptors. */
export function fstatfs(fd: number, out: StatFs): number {
  const result = fstatfsCall(fd, buffer);
  if (result < 0) return orErrno(result);
  out.type = u64(0);
  out.bsize = u64(8);
  out.blocks = u64(16);
  out.bfree = u64(24);
  out.bavail = u64(32);
  out.files = u64(40);
  out.ffree = u64(48);
  out.namelen = u64(64);
  out.frsize = u64(72) || out.bsize;
  return 0;
}
