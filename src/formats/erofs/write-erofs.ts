/**
 * Writes an EROFS image: a tree of inodes in, the bytes of a read-only file system out. Metadata only: regular files have a size and one
 * hole. Equal trees and options give equal bytes. The kernel (5.15 and later) and fsck.erofs read it; docs/formats/erofs.md describes it.
 */
import { StrataError } from '../../base/index.ts';
import { crc32cRaw } from './checksums.ts';
import type { ErofsInode, ErofsOptions } from './contract.ts';
import {
  BLOCK_BITS,
  BLOCK_BYTES,
  CHUNK_BASED,
  COMPACT,
  COMPACT_BYTES,
  DIRENT_BYTES,
  EXTENDED,
  EXTENDED_BYTES,
  FEATURE_CHUNKED_FILE,
  FEATURE_COMPAT,
  FILE_TYPES,
  FLAT_INLINE,
  INODE,
  MAP_ENTRY_BYTES,
  NULL_BLOCK,
  SB,
  SLOT_BYTES,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_HEADER_BYTES,
} from './layout.ts';
import {
  chunkCount,
  type Dirent,
  hasData,
  type ImagePlan,
  type PlacedInode,
  planImage,
  tailAt,
} from './plan.ts';

/** An image is made in memory. About ten million files with long paths. */
const MAX_BYTES = 2 ** 31;

/** The image. Throws BAD_FORMAT, LIMIT or UNSUPPORTED for a tree that EROFS cannot hold. */
export function writeErofs(root: ErofsInode, options: ErofsOptions): Buffer {
  const plan = planImage(root);
  if (plan.bytes > MAX_BYTES) {
    throw new StrataError('LIMIT', `the tree needs an image of ${plan.bytes} bytes, more than ${MAX_BYTES}`);
  }
  const image = Buffer.alloc(plan.bytes);
  plan.xattrs.writeShared(image, plan.sharedAt);
  for (const placed of plan.inodes) {
    writeInode(image, placed);
    if (placed.xattrs !== null) plan.xattrs.writeInline(image, placed.at + placed.inodeBytes, placed.xattrs);
    if (placed.layout === CHUNK_BASED) writeHoles(image, placed);
    else if (hasData(placed)) writeData(image, placed);
  }
  writeSuper(image, plan, options);
  return image;
}

function nidOf(placed: PlacedInode): number {
  return placed.at / SLOT_BYTES;
}

function writeU64(image: Buffer, value: number, at: number): void {
  image.writeUInt32LE(((value % 2 ** 32) + 2 ** 32) % 2 ** 32, at);
  image.writeInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function writeInode(image: Buffer, placed: PlacedInode): void {
  const { inode, at } = placed;
  const isExtended = placed.inodeBytes === EXTENDED_BYTES;
  image.writeUInt16LE((placed.layout << 1) | (isExtended ? 1 : 0), at + INODE.format);
  const xattrBytes = placed.xattrs?.bytes ?? 0;
  if (xattrBytes > 0) {
    image.writeUInt16LE((xattrBytes - XATTR_HEADER_BYTES) / 4 + 1, at + INODE.xattrCount);
  }
  image.writeUInt16LE(inode.mode, at + INODE.mode);
  image.writeUInt32LE(unionOf(placed), at + INODE.union);
  image.writeUInt32LE(placed.number, at + INODE.ino);
  if (placed.inodeBytes === COMPACT_BYTES) {
    image.writeUInt16LE(placed.nlink, at + COMPACT.nlink);
    image.writeUInt32LE(placed.sizeBytes, at + COMPACT.size);
    image.writeUInt16LE(inode.uid, at + COMPACT.uid);
    image.writeUInt16LE(inode.gid, at + COMPACT.gid);
    return;
  }
  writeU64(image, placed.sizeBytes, at + EXTENDED.size);
  image.writeUInt32LE(inode.uid, at + EXTENDED.uid);
  image.writeUInt32LE(inode.gid, at + EXTENDED.gid);
  writeU64(image, inode.mtimeSec, at + EXTENDED.mtime);
  image.writeUInt32LE(inode.mtimeNsec, at + EXTENDED.mtimeNsec);
  image.writeUInt32LE(placed.nlink, at + EXTENDED.nlink);
}

/** i_u: the form of the chunks, the first block, or the device's number. */
function unionOf(placed: PlacedInode): number {
  if (placed.layout === CHUNK_BASED) return placed.chunkBits - BLOCK_BITS;
  return hasData(placed) ? placed.block : (placed.inode.rdev ?? 0);
}

function writeHoles(image: Buffer, placed: PlacedInode): void {
  let at = tailAt(placed);
  for (let left = chunkCount(placed); left > 0; left--, at += MAP_ENTRY_BYTES)
    image.writeUInt32LE(NULL_BLOCK, at);
}

/** Data of directories and symlinks: whole blocks, then the rest behind the inode. */
function writeData(image: Buffer, placed: PlacedInode): void {
  const lastBlock = Math.ceil(placed.sizeBytes / BLOCK_BYTES) - 1;
  const blockAt = (i: number): number =>
    placed.layout === FLAT_INLINE && i === lastBlock ? tailAt(placed) : (placed.block + i) * BLOCK_BYTES;
  if (placed.inode.target !== undefined) {
    image.latin1Write(placed.inode.target, blockAt(0));
    return;
  }
  let first = 0;
  for (const [i, count] of placed.perBlock.entries()) {
    writeDirents(image, blockAt(i), placed.dirents, first, count);
    first += count;
  }
}

function writeDirents(image: Buffer, start: number, dirents: Dirent[], first: number, count: number): void {
  let at = start;
  let nameOffset = count * DIRENT_BYTES;
  for (let i = first; i < first + count; i++, at += DIRENT_BYTES) {
    const { name, to } = dirents[i]!;
    writeU64(image, nidOf(to), at);
    image.writeUInt16LE(nameOffset, at + 8);
    image[at + 10] = FILE_TYPES.get(to.inode.mode & 0o170000)!;
    nameOffset += image.latin1Write(name, start + nameOffset);
  }
}

function writeSuper(image: Buffer, plan: ImagePlan, options: ErofsOptions): void {
  if (options.uuid.length !== 16) throw new Error('a UUID has 16 bytes');
  const superblock = image.subarray(SUPER_OFFSET, BLOCK_BYTES);
  superblock.writeUInt32LE(SUPER_MAGIC, SB.magic);
  superblock.writeUInt32LE(FEATURE_COMPAT, SB.featureCompat);
  superblock[SB.blockBits] = BLOCK_BITS;
  superblock.writeUInt16LE(nidOf(plan.root), SB.rootNid);
  writeU64(superblock, plan.inodes.length, SB.inos);
  writeU64(superblock, plan.epoch.sec, SB.buildTime);
  superblock.writeUInt32LE(plan.epoch.nsec, SB.buildTimeNsec);
  superblock.writeUInt32LE(plan.bytes / BLOCK_BYTES, SB.blocks);
  superblock.set(options.uuid, SB.uuid);
  superblock.latin1Write((options.volumeName ?? '').slice(0, 16), SB.volumeName);
  superblock.writeUInt32LE(FEATURE_CHUNKED_FILE, SB.featureIncompat);
  superblock.writeUInt32LE(crc32cRaw(superblock), SB.checksum);
}
