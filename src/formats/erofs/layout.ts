/** Numbers of the EROFS on-disk format (linux/fs/erofs/erofs_fs.h); docs/formats/erofs.md says which part of it is written here. */

export const BLOCK_BITS = 12;
export const BLOCK_BYTES = 1 << BLOCK_BITS;
/** An inode's number (nid) is its offset in slots of this size. */
export const SLOT_BYTES = 32;

export const SUPER_OFFSET = 1024;
export const SUPER_BYTES = 128;
export const SUPER_MAGIC = 0xe0f5e1e2;

/** Byte offsets in the superblock. */
export const SB = {
  magic: 0,
  checksum: 4,
  featureCompat: 8,
  blockBits: 12,
  rootNid: 14,
  inos: 16,
  buildTime: 24,
  buildTimeNsec: 32,
  blocks: 36,
  metaBlock: 40,
  xattrBlock: 44,
  uuid: 48,
  volumeName: 64,
  featureIncompat: 80,
} as const;

/** EROFS_FEATURE_COMPAT_*: superblock checksum, times are modification times, filters of attribute names. */
export const FEATURE_COMPAT = 0x1 | 0x2 | 0x4;
/** EROFS_FEATURE_INCOMPAT_CHUNKED_FILE. */
export const FEATURE_CHUNKED_FILE = 0x4;

/** i_format: data layout in bits 1 to 3, bit 0 tells the extended inode. */
export const FLAT_PLAIN = 0;
export const FLAT_INLINE = 2;
export const CHUNK_BASED = 4;
export const COMPACT_BYTES = 32;
export const EXTENDED_BYTES = 64;

/** Byte offsets that both inode forms share. */
export const INODE = { format: 0, xattrCount: 2, mode: 4, union: 16, ino: 20 } as const;
export const COMPACT = { nlink: 6, size: 8, uid: 24, gid: 26 } as const;
export const EXTENDED = { size: 8, uid: 24, gid: 28, mtime: 32, mtimeNsec: 40, nlink: 44 } as const;

/** A chunk is at most 2^(31 + 12) bytes: EROFS_CHUNK_FORMAT_BLKBITS_MASK. */
export const CHUNK_BITS_MAX = 31 + BLOCK_BITS;
/** In a chunk's map: nothing but zeros. */
export const NULL_BLOCK = 0xffffffff;
export const MAP_ENTRY_BYTES = 4;

export const DIRENT_BYTES = 12;

/** Header of the inline attributes: name filter, count of shared ones, then their numbers. */
export const XATTR_HEADER_BYTES = 12;
export const XATTR_ENTRY_BYTES = 4;
/** i_xattr_icount is 16 bits: (bytes - 12) / 4 + 1. */
export const XATTR_INLINE_MAX = XATTR_HEADER_BYTES + 4 * 0xfffe;
export const XATTR_SHARED_MAX = 255;
export const XATTR_VALUE_MAX = 0xffff;
export const XATTR_FILTER_SEED = 0x25bbe08f;

/** Name prefixes by number; the longer ones first. */
export const XATTR_PREFIXES: readonly (readonly [string, number])[] = [
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['security.', 6],
  ['trusted.', 4],
  ['user.', 1],
];

/** FT_* of linux/fs_types.h by S_IFMT: regular, directory, character and block device, fifo, socket, symlink. */
export const FILE_TYPES: ReadonlyMap<number, number> = new Map([
  [0o100000, 1],
  [0o040000, 2],
  [0o020000, 3],
  [0o060000, 4],
  [0o010000, 5],
  [0o140000, 6],
  [0o120000, 7],
]);
