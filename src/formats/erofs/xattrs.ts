/**
 * Extended attributes of an image: each inode's own ones stand behind it, equal ones of several inodes stand once in the shared area. A
 * filter of 32 bits tells at once, for most names, that an inode does not have them.
 */
import type { Name } from '../../base/index.ts';
import { StrataError } from '../../base/index.ts';
import { xxh32 } from './checksums.ts';
import type { ErofsInode } from './contract.ts';
import {
  XATTR_ENTRY_BYTES,
  XATTR_FILTER_SEED,
  XATTR_HEADER_BYTES,
  XATTR_INLINE_MAX,
  XATTR_PREFIXES,
  XATTR_SHARED_MAX,
  XATTR_VALUE_MAX,
} from './layout.ts';

/** Shorter ones are read faster in their place than shared. */
const SHARE_FROM_BYTES = 24;
/** A value of this size would push the rest of the inode away. */
const ALWAYS_SHARE_BYTES = 1024;

interface KnownName {
  index: number;
  suffix: string;
  filterBit: number;
}

interface Entry extends KnownName {
  value: Uint8Array;
  bytes: number;
  /** In the shared area. */
  shared: SharedEntry | null;
}

interface SharedEntry {
  entry: Entry;
  uses: number;
  /** Offset in the image / 4; -1 while it has no place. */
  id: number;
}

/** The attributes of one inode. */
export interface InodeXattrs {
  entries: Entry[];
  /** Bytes behind the inode. */
  bytes: number;
}

export interface XattrTable {
  /** null: no attributes. */
  of(inode: ErofsInode): InodeXattrs | null;
  /** Bytes of the shared area. */
  sharedBytes: number;
  /** Writes the shared area and gives its entries their numbers. Before writeInline. */
  writeShared(image: Buffer, at: number): void;
  writeInline(image: Buffer, at: number, xattrs: InodeXattrs): void;
}

function padded(bytes: number): number {
  return (bytes + 3) & ~3;
}

function splitName(name: Name): KnownName {
  for (const [prefix, index] of XATTR_PREFIXES) {
    const isWhole = !prefix.endsWith('.');
    if (isWhole ? name !== prefix : !name.startsWith(prefix)) continue;
    const suffix = isWhole ? '' : name.slice(prefix.length);
    if (suffix.length > 255 || suffix.includes('\0')) break;
    const hash = xxh32(Buffer.from(suffix, 'latin1'), (XATTR_FILTER_SEED + index) >>> 0);
    return { index, suffix, filterBit: hash & 31 };
  }
  throw new StrataError('UNSUPPORTED', `EROFS cannot hold the extended attribute ${JSON.stringify(name)}`);
}

/** Decides for all inodes which attributes are shared. Throws UNSUPPORTED or LIMIT for what the format cannot hold. */
export function planXattrs(inodes: Iterable<ErofsInode>): XattrTable {
  const names = new Map<Name, KnownName>();
  const shared = new Map<string, SharedEntry>();
  const byInode = new Map<ErofsInode, InodeXattrs>();
  for (const inode of inodes) {
    if (inode.xattrs === undefined || inode.xattrs.size === 0) continue;
    const entries: Entry[] = [];
    for (const [name, value] of inode.xattrs) {
      const known = names.get(name) ?? splitName(name);
      names.set(name, known);
      if (value.length > XATTR_VALUE_MAX) {
        throw new StrataError(
          'LIMIT',
          `the extended attribute ${JSON.stringify(name)} is too large for EROFS`,
        );
      }
      const bytes = padded(XATTR_ENTRY_BYTES + known.suffix.length + value.length);
      const entry: Entry = { ...known, value, bytes, shared: null };
      if (bytes >= SHARE_FROM_BYTES) countUse(shared, entry);
      entries.push(entry);
    }
    byInode.set(inode, { entries, bytes: 0 });
  }
  for (const xattrs of byInode.values()) measure(xattrs);
  const area = [...shared.values()].filter(isShared);
  return {
    of: (inode) => byInode.get(inode) ?? null,
    sharedBytes: area.reduce((sum, { entry }) => sum + entry.bytes, 0),
    writeShared(image, start) {
      let at = start;
      for (const one of area) {
        one.id = at / 4;
        at = writeEntry(image, at, one.entry);
      }
    },
    writeInline,
  };
}

function countUse(shared: Map<string, SharedEntry>, entry: Entry): void {
  const { index, suffix, value } = entry;
  const key = `${index}\0${suffix}\0${Buffer.from(value.buffer, value.byteOffset, value.length).latin1Slice()}`;
  const known = shared.get(key);
  if (known === undefined) {
    entry.shared = { entry, uses: 1, id: -1 };
    shared.set(key, entry.shared);
  } else {
    known.uses++;
    entry.shared = known;
  }
}

function isShared(one: SharedEntry): boolean {
  return one.uses > 1 || one.entry.value.length > ALWAYS_SHARE_BYTES;
}

function measure(xattrs: InodeXattrs): void {
  let bytes = XATTR_HEADER_BYTES;
  let sharedCount = 0;
  for (const entry of xattrs.entries) {
    if (entry.shared !== null && isShared(entry.shared) && sharedCount < XATTR_SHARED_MAX) {
      sharedCount++;
      bytes += 4;
    } else {
      entry.shared = null;
      bytes += entry.bytes;
    }
  }
  if (bytes > XATTR_INLINE_MAX) {
    throw new StrataError('LIMIT', 'the extended attributes of one file are too many for EROFS');
  }
  xattrs.bytes = bytes;
}

function writeEntry(image: Buffer, at: number, entry: Entry): number {
  image[at] = entry.suffix.length;
  image[at + 1] = entry.index;
  image.writeUInt16LE(entry.value.length, at + 2);
  image.latin1Write(entry.suffix, at + XATTR_ENTRY_BYTES);
  image.set(entry.value, at + XATTR_ENTRY_BYTES + entry.suffix.length);
  return at + entry.bytes;
}

function writeInline(image: Buffer, start: number, { entries }: InodeXattrs): void {
  let filter = 0xffffffff;
  let sharedCount = 0;
  for (const entry of entries) {
    filter &= ~(1 << entry.filterBit);
    if (entry.shared === null) continue;
    image.writeUInt32LE(entry.shared.id, start + XATTR_HEADER_BYTES + 4 * sharedCount);
    sharedCount++;
  }
  image.writeUInt32LE(filter >>> 0, start);
  image[start + 4] = sharedCount;
  let at = start + XATTR_HEADER_BYTES + 4 * sharedCount;
  for (const entry of entries) if (entry.shared === null) at = writeEntry(image, at, entry);
}
