/**
 * What a tree takes on disk, told so that several trees can be put together: bytes of inodes whose names are all in the tree, those that have names elsewhere one by one,
 * and blocks that a file shares with others (reflinks), which the deletion of one does not free.
 */
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fstatfs,
  ioctlBuffer,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  type Stat,
  statAt,
} from '../../sys/index.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { walkEntries } from './walk-entries.ts';

export interface Space {
  /** Allocated, each inode once; directories too. */
  bytes: number;
  /** Of `bytes`: what nobody else has, by names or by blocks. */
  ownBytes: number;
  /** Inodes with names elsewhere, six numbers each: device, inode, bytes that it does not share, names here, all names, bytes. Their bytes are no part of ownBytes. */
  linked: Float64Array;
}

const XFS_MAGIC = 0x58465342;
const BTRFS_MAGIC = 0x9123683e;

const NUMBERS = 6;

interface Walk {
  bytes: number;
  ownBytes: number;
  links: Map<string, number[]>;
  mayShare: boolean;
}

/** What stands at `dir`; nothing when it is not there. */
export function spaceOf(dir: string): Space {
  const walk: Walk = { bytes: 0, ownBytes: 0, links: new Map(), mayShare: false };
  const fd = openDirectory(AT_FDCWD, nameFromText(dir));
  if (fd >= 0) {
    const fs = {
      type: 0,
      bsize: 0,
      blocks: 0,
      bfree: 0,
      bavail: 0,
      files: 0,
      ffree: 0,
      namelen: 0,
      frsize: 0,
    };
    walk.mayShare = fstatfs(fd, fs) === 0 && (fs.type === XFS_MAGIC || fs.type === BTRFS_MAGIC);
    const stat = newStat();
    if (statAt(fd, '.', stat) === 0) walk.bytes = walk.ownBytes = stat.blocks * 512;
    addTree(fd, walk);
    close(fd);
  }
  const elsewhere: number[] = [];
  for (const link of walk.links.values()) {
    if (link[3] === link[4]) walk.ownBytes += link[2]!;
    else elsewhere.push(...link);
  }
  return { bytes: walk.bytes, ownBytes: walk.ownBytes, linked: Float64Array.from(elsewhere) };
}

function addTree(root: number, walk: Walk): void {
  const stat = newStat();
  for (const { dirfd, name } of walkEntries(root, { lenient: true })) {
    if (statAt(dirfd, name, stat) !== 0) continue;
    const bytes = stat.blocks * 512;
    if ((stat.mode & S_IFMT) === S_IFDIR) {
      walk.bytes += bytes;
      walk.ownBytes += bytes;
    } else if (stat.nlink === 1) {
      walk.bytes += bytes;
      walk.ownBytes += bytes - sharedBlocks(dirfd, name, stat, walk);
    } else {
      const key = `${stat.dev}:${stat.ino}`;
      const known = walk.links.get(key);
      if (known !== undefined) known[3]!++;
      else {
        walk.bytes += bytes;
        const own = bytes - sharedBlocks(dirfd, name, stat, walk);
        walk.links.set(key, [stat.dev, stat.ino, own, 1, stat.nlink, bytes]);
      }
    }
  }
}

const FS_IOC_FIEMAP = 0xc020660b;
const HEADER = 32;
const EXTENT = 56;
const EXTENTS = 128;
const LAST = 0x1;
const SHARED = 0x2000;
const map = Buffer.alloc(HEADER + EXTENTS * EXTENT);

/** Bytes of a file's blocks that other files have too. */
function sharedBlocks(dirfd: number, name: string, stat: Stat, walk: Walk): number {
  if (!walk.mayShare || (stat.mode & S_IFMT) !== S_IFREG || stat.blocks === 0) return 0;
  const fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return 0;
  let shared = 0;
  for (let start = 0, ended = false; !ended; ) {
    map.fill(0, 0, HEADER);
    map.writeBigUInt64LE(BigInt(start), 0);
    map.writeBigUInt64LE(2n ** 63n - 1n - BigInt(start), 8);
    map.writeUInt32LE(EXTENTS, 24);
    if (ioctlBuffer(fd, FS_IOC_FIEMAP, map) < 0) break;
    const mapped = map.readUInt32LE(20);
    ended = mapped === 0;
    for (let i = 0; i < mapped; i++) {
      const at = HEADER + i * EXTENT;
      const length = Number(map.readBigUInt64LE(at + 16));
      const flags = map.readUInt32LE(at + 40);
      if (flags & SHARED) shared += length;
      start = Number(map.readBigUInt64LE(at)) + length;
      if (flags & LAST) ended = true;
    }
  }
  close(fd);
  return Math.min(shared, stat.blocks * 512);
}

/** What goes when all of these trees are deleted together. */
export function freedBytes(trees: readonly Space[]): number {
  let bytes = 0;
  const links = new Map<string, { bytes: number; left: number }>();
  for (const { ownBytes, linked } of trees) {
    bytes += ownBytes;
    for (let i = 0; i < linked.length; i += NUMBERS) {
      const key = `${linked[i]}:${linked[i + 1]}`;
      const known = links.get(key) ?? { bytes: linked[i + 2]!, left: linked[i + 4]! };
      known.left -= linked[i + 3]!;
      links.set(key, known);
    }
  }
  for (const link of links.values()) if (link.left <= 0) bytes += link.bytes;
  return bytes;
}

/** Bytes of all of these trees, each inode once. */
export function takenBytes(trees: readonly Space[]): number {
  let bytes = 0;
  const seen = new Set<string>();
  for (const tree of trees) {
    bytes += tree.bytes;
    for (let i = 0; i < tree.linked.length; i += NUMBERS) {
      const key = `${tree.linked[i]}:${tree.linked[i + 1]}`;
      if (seen.has(key)) bytes -= tree.linked[i + 5]!;
      seen.add(key);
    }
  }
  return bytes;
}
