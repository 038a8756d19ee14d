/**
 * Where everything goes in an image: the superblock, the root inode (its number has 16 bits), the shared attributes, all other inodes with the
 * children of a directory side by side, whole blocks of data at the end. Keeps true: inline data never crosses a block, which the kernel refuses.
 */
import type { Name } from '../../base/index.ts';
import { LIMITS, StrataError } from '../../base/index.ts';
import type { ErofsChild, ErofsInode } from './contract.ts';
import {
  BLOCK_BITS,
  BLOCK_BYTES,
  CHUNK_BASED,
  CHUNK_BITS_MAX,
  COMPACT_BYTES,
  DIRENT_BYTES,
  EXTENDED_BYTES,
  FILE_TYPES,
  FLAT_INLINE,
  FLAT_PLAIN,
  MAP_ENTRY_BYTES,
  SLOT_BYTES,
  SUPER_BYTES,
  SUPER_OFFSET,
} from './layout.ts';
import { type InodeXattrs, planXattrs, type XattrTable } from './xattrs.ts';

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
/** A longer rest is cheaper in a block of its own than in a hole before it. */
const INLINE_BYTES = 2048;

/** One name in a directory's data, '.' and '..' among them. */
export interface Dirent {
  name: Name;
  to: PlacedInode;
}

export interface PlacedInode {
  inode: ErofsInode;
  /** Its place in the order of the image, from 1 on. */
  number: number;
  nlink: number;
  xattrs: InodeXattrs | null;
  /** Offset in the image. */
  at: number;
  inodeBytes: number;
  layout: number;
  sizeBytes: number;
  /** Chunk-based: log2 of a chunk's bytes. */
  chunkBits: number;
  /** First whole block of data. */
  block: number;
  /** Directories: names in order, and how many of them each block takes. */
  dirents: Dirent[];
  perBlock: number[];
}

export interface ImagePlan {
  inodes: PlacedInode[];
  root: PlacedInode;
  xattrs: XattrTable;
  sharedAt: number;
  /** Inodes with this time can be written in their short form. */
  epoch: { sec: number; nsec: number };
  /** A multiple of the block size. */
  bytes: number;
}

/** Throws LIMIT, UNSUPPORTED or BAD_FORMAT for a tree that EROFS cannot hold. */
export function planImage(root: ErofsInode): ImagePlan {
  const inodes = collect(root);
  const xattrs = planXattrs(inodes.map(({ inode }) => inode));
  for (const placed of inodes) placed.xattrs = xattrs.of(placed.inode);
  const epoch = commonTime(inodes);
  for (const placed of inodes) measure(placed, epoch);
  const rootAt = settle(inodes[0]!, SUPER_OFFSET + SUPER_BYTES);
  const sharedAt = rootAt;
  let at = roundUp(sharedAt + xattrs.sharedBytes, SLOT_BYTES);
  for (let i = 1; i < inodes.length; i++) at = settle(inodes[i]!, at);
  let block = roundUp(at, BLOCK_BYTES) / BLOCK_BYTES;
  for (const placed of inodes) {
    if (placed.layout === CHUNK_BASED || !hasData(placed)) continue;
    placed.block = block;
    const whole = placed.layout === FLAT_PLAIN ? Math.ceil : Math.floor;
    block += whole(placed.sizeBytes / BLOCK_BYTES);
  }
  return { inodes, root: inodes[0]!, xattrs, sharedAt, epoch, bytes: block * BLOCK_BYTES };
}

export function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

function typeOf(inode: ErofsInode): number {
  return inode.mode & S_IFMT;
}

export function hasData(placed: PlacedInode): boolean {
  const type = typeOf(placed.inode);
  return type === S_IFDIR || type === S_IFLNK;
}

function bad(what: string): StrataError {
  return new StrataError('BAD_FORMAT', `an EROFS image cannot be made: ${what}`);
}

/** All inodes, each once: a directory's children side by side, then what is below them. Directories get their names. */
function collect(root: ErofsInode): PlacedInode[] {
  if (typeOf(root) !== S_IFDIR) throw bad('the root is not a directory');
  const known = new Map<ErofsInode, PlacedInode>();
  const inodes: PlacedInode[] = [];
  const add = (inode: ErofsInode): PlacedInode => {
    checkNumbers(inode);
    const placed: PlacedInode = {
      inode,
      number: inodes.length + 1,
      nlink: 0,
      xattrs: null,
      at: 0,
      inodeBytes: EXTENDED_BYTES,
      layout: FLAT_PLAIN,
      sizeBytes: 0,
      chunkBits: 0,
      block: 0,
      dirents: [],
      perBlock: [],
    };
    inodes.push(placed);
    known.set(inode, placed);
    return placed;
  };
  const top = add(root);
  const pending: { directory: PlacedInode; parent: PlacedInode }[] = [{ directory: top, parent: top }];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const { directory, parent } = at;
    const below: typeof pending = [];
    const dirents: Dirent[] = [
      { name: '.' as Name, to: directory },
      { name: '..' as Name, to: parent },
    ];
    directory.nlink += 2;
    for (const child of directory.inode.children ?? []) {
      checkName(child);
      let to = known.get(child.inode);
      if (typeOf(child.inode) === S_IFDIR) {
        if (to !== undefined) throw bad(`the directory ${JSON.stringify(child.name)} stands twice`);
        to = add(child.inode);
        directory.nlink++;
        below.push({ directory: to, parent: directory });
      } else {
        to ??= add(child.inode);
        to.nlink++;
      }
      dirents.push({ name: child.name, to });
    }
    directory.dirents = dirents.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    for (let i = 1; i < dirents.length; i++) {
      if (dirents[i]!.name === dirents[i - 1]!.name)
        throw bad(`a directory has ${JSON.stringify(dirents[i]!.name)} twice`);
    }
    for (const one of below.reverse()) pending.push(one);
  }
  return inodes;
}

function checkNumbers({ mode, uid, gid, rdev = 0, mtimeSec, mtimeNsec }: ErofsInode): void {
  if (!(mode >= 0 && mode <= 0xffff && FILE_TYPES.has(mode & S_IFMT)))
    throw bad(`mode ${mode.toString(8)} has no type`);
  for (const value of [uid, gid, rdev])
    if (!Number.isInteger(value) || value < 0 || value > 0xffffffff)
      throw bad(`${value} is not an owner or a device`);
  if (!Number.isSafeInteger(mtimeSec) || !(mtimeNsec >= 0 && mtimeNsec < 1e9))
    throw bad(`${mtimeSec} s, ${mtimeNsec} ns is not a time`);
}

function checkName({ name }: ErofsChild): void {
  if (name.length > LIMITS.nameBytes || !/^[\u0001-\u002e\u0030-\u00ff]+$/.test(name)) {
    throw bad(`${JSON.stringify(name.slice(0, 300))} is not a file name`);
  }
}

/** The time that most inodes have. */
function commonTime(inodes: readonly PlacedInode[]): { sec: number; nsec: number } {
  const counts = new Map<string, { sec: number; nsec: number; count: number }>();
  let best = { sec: 0, nsec: 0, count: 0 };
  for (const { inode } of inodes) {
    const key = `${inode.mtimeSec}.${inode.mtimeNsec}`;
    const known = counts.get(key) ?? { sec: inode.mtimeSec, nsec: inode.mtimeNsec, count: 0 };
    counts.set(key, known);
    known.count++;
    if (known.count > best.count) best = known;
  }
  return { sec: best.sec, nsec: best.nsec };
}

function measure(placed: PlacedInode, epoch: { sec: number; nsec: number }): void {
  const { inode } = placed;
  const type = typeOf(inode);
  if (type === S_IFDIR) measureDirectory(placed);
  else if (type === S_IFLNK) {
    placed.sizeBytes = inode.target?.length ?? 0;
    const isPossible = /^[\u0001-\u00ff]+$/.test(inode.target ?? '');
    if (!isPossible || placed.sizeBytes > LIMITS.symlinkBytes)
      throw bad('a symbolic link has no possible target');
  } else if (type === S_IFREG) {
    placed.sizeBytes = inode.size ?? 0;
    if (!Number.isSafeInteger(placed.sizeBytes) || placed.sizeBytes < 0)
      throw bad('a file has no possible size');
  }
  const isShort =
    inode.mtimeSec === epoch.sec &&
    inode.mtimeNsec === epoch.nsec &&
    inode.uid <= 0xffff &&
    inode.gid <= 0xffff &&
    placed.nlink <= 0xffff &&
    placed.sizeBytes <= 0xffffffff;
  placed.inodeBytes = isShort ? COMPACT_BYTES : EXTENDED_BYTES;
  if (type === S_IFREG && placed.sizeBytes > 0) {
    placed.layout = CHUNK_BASED;
    const bits = Math.ceil(Math.log2(placed.sizeBytes));
    placed.chunkBits = Math.min(Math.max(bits, BLOCK_BITS), CHUNK_BITS_MAX);
  } else if (hasData(placed)) {
    const rest = placed.sizeBytes % BLOCK_BYTES;
    placed.layout = rest > 0 && rest <= INLINE_BYTES ? FLAT_INLINE : FLAT_PLAIN;
  }
}

/** How many names each block of a directory takes. */
function measureDirectory(placed: PlacedInode): void {
  let used = 0;
  let names = 0;
  for (const { name } of placed.dirents) {
    const bytes = DIRENT_BYTES + name.length;
    if (used + bytes > BLOCK_BYTES) {
      placed.perBlock.push(names);
      used = names = 0;
    }
    used += bytes;
    names++;
  }
  placed.sizeBytes = placed.perBlock.length * BLOCK_BYTES + used;
  placed.perBlock.push(names);
}

/** Offset of what follows an inode and its attributes: inline data or the map of chunks. */
export function tailAt(placed: PlacedInode): number {
  return placed.at + placed.inodeBytes + (placed.xattrs?.bytes ?? 0);
}

/** Entries in the map of a chunk-based file. */
export function chunkCount(placed: PlacedInode): number {
  return Math.ceil(placed.sizeBytes / 2 ** placed.chunkBits);
}

/** Gives an inode its place at `from` or soon after; returns where the next one may begin. */
function settle(placed: PlacedInode, from: number): number {
  placed.at = from;
  let tail = 0;
  if (placed.layout === CHUNK_BASED) tail = chunkCount(placed) * MAP_ENTRY_BYTES;
  else if (placed.layout === FLAT_INLINE) {
    tail = placed.sizeBytes % BLOCK_BYTES;
    const rest = BLOCK_BYTES - (tailAt(placed) % BLOCK_BYTES);
    // The tail goes on at the beginning of the next block, or as near to it as slots allow.
    if (rest < tail) placed.at += roundUp(rest, SLOT_BYTES);
  }
  return roundUp(tailAt(placed) + tail, SLOT_BYTES);
}
