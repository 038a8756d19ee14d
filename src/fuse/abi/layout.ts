/**
 * Structures of linux/fuse.h as byte offsets: [field]: offset, and `size`. All are little-endian on the machines we serve.
 * The header's field names are kept; a test compares offsets and sizes with a C program over the installed header.
 */

export const IN_HEADER = {
  len: 0,
  opcode: 4,
  unique: 8,
  nodeid: 16,
  uid: 24,
  gid: 28,
  pid: 32,
  total_extlen: 36,
  size: 40,
} as const;
export const OUT_HEADER = { len: 0, error: 4, unique: 8, size: 16 } as const;

export const ATTR = {
  ino: 0,
  size_: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
  size: 88,
} as const;

export const ENTRY_OUT = {
  nodeid: 0,
  generation: 8,
  entry_valid: 16,
  attr_valid: 24,
  entry_valid_nsec: 32,
  attr_valid_nsec: 36,
  attr: 40,
  size: 128,
} as const;

export const ATTR_OUT = { attr_valid: 0, attr_valid_nsec: 8, attr: 16, size: 104 } as const;
export const FORGET_IN = { nlookup: 0, size: 8 } as const;
export const FORGET_ONE = { nodeid: 0, nlookup: 8, size: 16 } as const;
export const BATCH_FORGET_IN = { count: 0, size: 8 } as const;
export const GETATTR_IN = { getattr_flags: 0, fh: 8, size: 16 } as const;
export const MKNOD_IN = { mode: 0, rdev: 4, umask: 8, size: 16 } as const;
export const MKDIR_IN = { mode: 0, umask: 4, size: 8 } as const;
export const RENAME_IN = { newdir: 0, size: 8 } as const;
export const RENAME2_IN = { newdir: 0, flags: 8, size: 16 } as const;
export const LINK_IN = { oldnodeid: 0, size: 8 } as const;

export const SETATTR_IN = {
  valid: 0,
  fh: 8,
  size_: 16,
  lock_owner: 24,
  atime: 32,
  mtime: 40,
  ctime: 48,
  atimensec: 56,
  mtimensec: 60,
  ctimensec: 64,
  mode: 68,
  uid: 76,
  gid: 80,
  size: 88,
} as const;

export const OPEN_IN = { flags: 0, open_flags: 4, size: 8 } as const;
export const CREATE_IN = { flags: 0, mode: 4, umask: 8, open_flags: 12, size: 16 } as const;
/** backing_id took the place of the padding in 7.40. */
export const OPEN_OUT = { fh: 0, open_flags: 8, backing_id: 12, size: 16 } as const;
export const RELEASE_IN = { fh: 0, flags: 8, release_flags: 12, lock_owner: 16, size: 24 } as const;
export const READ_IN = {
  fh: 0,
  offset: 8,
  size_: 16,
  read_flags: 20,
  lock_owner: 24,
  flags: 32,
  size: 40,
} as const;
export const WRITE_IN = {
  fh: 0,
  offset: 8,
  size_: 16,
  write_flags: 20,
  lock_owner: 24,
  flags: 32,
  size: 40,
} as const;
export const WRITE_OUT = { size_: 0, size: 8 } as const;

export const KSTATFS = {
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
  size: 80,
} as const;

export const FSYNC_IN = { fh: 0, fsync_flags: 8, size: 16 } as const;
/** The first 8 bytes only, without FUSE_SETXATTR_EXT. */
export const SETXATTR_IN = { size_: 0, flags: 4, setxattr_flags: 8, size: 16 } as const;
export const COMPAT_SETXATTR_IN_SIZE = 8;
export const GETXATTR_IN = { size_: 0, size: 8 } as const;
export const GETXATTR_OUT = { size_: 0, size: 8 } as const;

export const INIT_IN = { major: 0, minor: 4, max_readahead: 8, flags: 12, flags2: 16, size: 64 } as const;
/** What kernels before 7.36 send. */
export const COMPAT_INIT_IN_SIZE = 16;
/** max_stack_depth took unused space in 7.40. */
export const INIT_OUT = {
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  max_background: 16,
  congestion_threshold: 18,
  max_write: 20,
  time_gran: 24,
  max_pages: 28,
  map_alignment: 30,
  flags2: 32,
  max_stack_depth: 36,
  size: 64,
} as const;

export const FALLOCATE_IN = { fh: 0, offset: 8, length: 16, mode: 24, size: 32 } as const;
export const LSEEK_IN = { fh: 0, offset: 8, whence: 16, size: 24 } as const;
export const IOCTL_IN = { fh: 0, flags: 8, cmd: 12, arg: 16, in_size: 24, out_size: 28, size: 32 } as const;
export const IOCTL_OUT = { result: 0, flags: 4, in_iovs: 8, out_iovs: 12, size: 16 } as const;
export const LSEEK_OUT = { offset: 0, size: 8 } as const;
export const COPY_FILE_RANGE_IN = {
  fh_in: 0,
  off_in: 8,
  nodeid_out: 16,
  fh_out: 24,
  off_out: 32,
  len: 40,
  flags: 48,
  size: 56,
} as const;
/** 7.45 */
export const COPY_FILE_RANGE_OUT = { bytes_copied: 0, size: 8 } as const;

export const DIRENT = { ino: 0, off: 8, namelen: 16, type: 20, name: 24 } as const;
export const DIRENTPLUS = { entry_out: 0, dirent: 128, name: 152 } as const;

export const NOTIFY_INVAL_INODE_OUT = { ino: 0, off: 8, len: 16, size: 24 } as const;
export const NOTIFY_INVAL_ENTRY_OUT = { parent: 0, namelen: 8, flags: 12, size: 16 } as const;
export const NOTIFY_DELETE_OUT = { parent: 0, child: 8, namelen: 16, size: 24 } as const;

/** 7.45; node ids follow. */
export const NOTIFY_PRUNE_OUT = { count: 0, size: 16 } as const;

/** 7.39 */
export const STATX_IN = { getattr_flags: 0, fh: 8, sx_flags: 16, sx_mask: 20, size: 24 } as const;
/** fuse_statx_out with its fuse_statx at 32 (offsets of the latter include that). */
export const STATX_OUT = {
  attr_valid: 0,
  attr_valid_nsec: 8,
  mask: 32,
  blksize: 36,
  nlink: 48,
  uid: 52,
  gid: 56,
  mode: 60,
  ino: 64,
  size_: 72,
  blocks: 80,
  atime: 96,
  btime: 112,
  ctime: 128,
  mtime: 144,
  rdev_major: 160,
  rdev_minor: 164,
  size: 288,
} as const;

/** 7.40 */
export const BACKING_MAP = { fd: 0, flags: 4, size: 16 } as const;

/** Length of a directory record with its padding. */
export function direntSize(fixed: number, nameLength: number): number {
  return (fixed + nameLength + 7) & ~7;
}
