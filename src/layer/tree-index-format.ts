/**
 * The numbers of the binary tree index; docs/formats/tree-index.md is the description. All integers are little-endian. A change
 * that old readers cannot ignore raises MAJOR or sets a bit of `features`; readers refuse what they do not know.
 */

export const FORMAT = 'tree index';
export const MAGIC = 'StrataIx';
export const MAJOR = 1;
export const MINOR = 0;

export const HEADER_BYTES = 192;

/** Byte offsets in the header. u64 fields hold safe integers. */
export const H = {
  magic: 0,
  major: 8,
  minor: 10,
  headerBytes: 12,
  headerCrc: 16,
  features: 20,
  entryCount: 24,
  linkCount: 28,
  digestCount: 32,
  recordBytes: 36,
  fileBytes: 40,
  totalBytes: 48,
  recordsAt: 56,
  linksAt: 64,
  digestsAt: 72,
  namesAt: 80,
  namesBytes: 88,
  xattrsAt: 96,
  xattrsBytes: 104,
  bodySha256: 112,
} as const;

export const RECORD_BYTES = 64;

/** Byte offsets in an entry's record. */
export const R = {
  nameAt: 0,
  /** u8; the three bytes after it are zero. */
  nameLength: 4,
  parent: 8,
  mode: 12,
  uid: 16,
  gid: 20,
  sizeLow: 24,
  sizeHigh: 28,
  mtimeSecLow: 32,
  mtimeSecHigh: 36,
  mtimeNsec: 40,
  blocks: 44,
  /** Directory: first child. File: digest number + 1, or 0. Symlink: offset of the target. Device: rdev. */
  a: 48,
  /** Directory: number of children. Symlink: bytes of the target. */
  b: 52,
  /** Directory: number of child directories. Others: number of the link record + 1, or 0. */
  c: 56,
  /** Offset in the xattr section + 1, or 0. */
  xattrs: 60,
} as const;

/** One record for each entry that shares its inode: leader, next (a ring, by entry number), number of names. */
export const LINK_BYTES = 12;
export const DIGEST_BYTES = 32;
