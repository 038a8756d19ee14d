/**
 * Reading the binary tree index. Opening costs one read (or one mmap above 64 KiB) and the header's checks, whatever the size;
 * a value of an entry is checked when it is used, so damaged bytes give a FormatError and never a crash, an endless walk or a
 * read outside. Must not modify the bytes.
 */
import { closeSync, fstatSync, readSync, type Stats } from 'node:fs';
import { crc32 } from 'node:zlib';
import type { Digest, Name } from '../base/index.ts';
import { FormatError } from '../base/index.ts';
import { mapFile, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../sys/index.ts';
import type { EntryNumber, TreeIndex } from './contract.ts';
import { openPlainFile } from './plain-file.ts';
import {
  DIGEST_BYTES,
  FORMAT,
  H,
  HEADER_BYTES,
  LINK_BYTES,
  MAGIC,
  MAJOR,
  R,
  RECORD_BYTES,
} from './tree-index-format.ts';

const MAP_FROM_BYTES = 64 * 1024;
/** Of a file that is read into memory. */
const MOST_BYTES = 1 << 30;
const NO_XATTRS: ReadonlyMap<Name, Uint8Array> = new Map();

/** Opens an index file. Throws FormatError when it is not one (or is cut off), and the system's error when it cannot be read. */
export function openTreeIndex(file: string): TreeIndex {
  const fd = openPlainFile(file);
  try {
    const stat = fstatSync(fd);
    const { size } = stat;
    if (size > MAP_FROM_BYTES && isRootsAlone(stat)) {
      const mapped = mapFile(fd, size);
      if (typeof mapped !== 'number') return new MappedTreeIndex(Buffer.from(mapped));
    }
    if (size > MOST_BYTES) throw new FormatError(FORMAT, 0, `is larger than ${MOST_BYTES} bytes`);
    const bytes = Buffer.allocUnsafeSlow(size);
    let filled = 0;
    while (filled < size) {
      const got = readSync(fd, bytes, filled, size - filled, filled);
      if (got === 0) break;
      filled += got;
    }
    return new MappedTreeIndex(bytes.subarray(0, filled));
  } finally {
    closeSync(fd);
  }
}

/** Whoever else can write to a file can make it shorter, and a read behind the end of a mapped file ends the process (SIGBUS). */
function isRootsAlone({ uid, mode }: Stats): boolean {
  return uid === 0 && (mode & 0o022) === 0;
}

/** As openTreeIndex, over bytes in memory; they must not change afterwards. */
export function treeIndexFromBytes(bytes: Uint8Array): TreeIndex {
  return new MappedTreeIndex(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

function u64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

class MappedTreeIndex implements TreeIndex {
  readonly entryCount: number;
  readonly totalBytes: number;
  readonly #bytes: Buffer;
  readonly #view: DataView;
  readonly #recordsAt: number;
  readonly #linksAt: number;
  readonly #linkCount: number;
  readonly #digestsAt: number;
  readonly #digestCount: number;
  readonly #namesAt: number;
  readonly #namesBytes: number;
  readonly #xattrsAt: number;
  readonly #xattrsBytes: number;

  constructor(bytes: Buffer) {
    if (bytes.length < HEADER_BYTES) throw new FormatError(FORMAT, bytes.length, 'shorter than its header');
    if (bytes.latin1Slice(0, 8) !== MAGIC) throw new FormatError(FORMAT, 0, 'not a tree index');
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (view.getUint16(H.major, true) !== MAJOR || view.getUint32(H.features, true) !== 0) {
      throw new FormatError(FORMAT, H.major, 'made by a newer version of Strata', {
        hint: 'use that version, or remove the layer unit and import it again',
      });
    }
    const header = Buffer.from(bytes.subarray(0, HEADER_BYTES));
    header.writeUInt32LE(0, H.headerCrc);
    if (crc32(header) !== view.getUint32(H.headerCrc, true)) {
      throw new FormatError(FORMAT, H.headerCrc, 'the header is damaged', {
        hint: 'remove the layer unit and import it again',
      });
    }
    if (u64(view, H.fileBytes) !== bytes.length) {
      throw new FormatError(FORMAT, bytes.length, `cut off: ${u64(view, H.fileBytes)} bytes were written`);
    }
    this.#bytes = bytes;
    this.#view = view;
    this.entryCount = view.getUint32(H.entryCount, true);
    this.totalBytes = u64(view, H.totalBytes);
    this.#linkCount = view.getUint32(H.linkCount, true);
    this.#digestCount = view.getUint32(H.digestCount, true);
    this.#namesBytes = u64(view, H.namesBytes);
    this.#xattrsBytes = u64(view, H.xattrsBytes);
    this.#recordsAt = this.#section(H.recordsAt, this.entryCount * RECORD_BYTES);
    this.#linksAt = this.#section(H.linksAt, this.#linkCount * LINK_BYTES);
    this.#digestsAt = this.#section(H.digestsAt, this.#digestCount * DIGEST_BYTES);
    this.#namesAt = this.#section(H.namesAt, this.#namesBytes);
    this.#xattrsAt = this.#section(H.xattrsAt, this.#xattrsBytes);
    if (this.entryCount === 0) throw new FormatError(FORMAT, H.entryCount, 'has no root directory');
    if (view.getUint32(H.recordBytes, true) !== RECORD_BYTES || !this.#isDirectory(0)) {
      throw new FormatError(FORMAT, this.#recordsAt, 'the root is not a directory');
    }
  }

  /** The offset a header field holds, when a section of that size fits behind it. */
  #section(field: number, size: number): number {
    const at = u64(this.#view, field);
    if (at < HEADER_BYTES || at + size > this.#bytes.length) {
      throw new FormatError(FORMAT, field, 'a section lies outside the file');
    }
    return at;
  }

  #word(entry: EntryNumber, field: number): number {
    return this.#view.getUint32(this.#recordsAt + entry * RECORD_BYTES + field, true);
  }

  #bad(entry: EntryNumber, field: number, what: string): FormatError {
    return new FormatError(
      FORMAT,
      this.#recordsAt + entry * RECORD_BYTES + field,
      `entry ${entry}: ${what}`,
      {
        hint: 'check it with: strata layer verify',
      },
    );
  }

  #isDirectory(entry: EntryNumber): boolean {
    return (this.#word(entry, R.mode) & S_IFMT) === S_IFDIR;
  }

  /** Start of the entry's name in the file, its length checked. */
  #nameStart(entry: EntryNumber): number {
    const at = this.#word(entry, R.nameAt);
    if (at + (this.#word(entry, R.nameLength) & 0xff) > this.#namesBytes) {
      throw this.#bad(entry, R.nameAt, 'its name lies outside the names');
    }
    return this.#namesAt + at;
  }

  #compareName(entry: EntryNumber, name: string): number {
    const start = this.#nameStart(entry);
    const length = this.#word(entry, R.nameLength) & 0xff;
    const common = length < name.length ? length : name.length;
    for (let i = 0; i < common; i++) {
      const difference = this.#bytes[start + i]! - name.charCodeAt(i);
      if (difference !== 0) return difference;
    }
    return length - name.length;
  }

  child(directory: EntryNumber, name: Name): EntryNumber {
    let low = this.firstChild(directory);
    let high = low + this.childCount(directory) - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const order = this.#compareName(middle, name);
      if (order === 0) {
        if (this.#word(middle, R.parent) !== directory) throw this.#bad(middle, R.parent, 'wrong parent');
        return middle;
      }
      if (order < 0) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  find(path: string): EntryNumber {
    let entry = 0;
    for (let at = 0; at < path.length; ) {
      const slash = path.indexOf('/', at);
      const end = slash < 0 ? path.length : slash;
      if (end > at) {
        entry = this.child(entry, path.slice(at, end) as Name);
        if (entry < 0) return -1;
      }
      at = end + 1;
    }
    return entry;
  }

  firstChild(entry: EntryNumber): EntryNumber {
    return this.childCount(entry) === 0 ? 0 : this.#word(entry, R.a);
  }

  childCount(entry: EntryNumber): number {
    if (!this.#isDirectory(entry)) return 0;
    const count = this.#word(entry, R.b);
    if (count === 0) return 0;
    const first = this.#word(entry, R.a);
    // Children come after their directory, so every walk ends; the first and last name it as their parent, so ranges do not overlap.
    if (
      first <= entry ||
      first + count > this.entryCount ||
      this.#word(first, R.parent) !== entry ||
      this.#word(first + count - 1, R.parent) !== entry
    ) {
      throw this.#bad(entry, R.a, 'its children lie outside');
    }
    return count;
  }

  parent(entry: EntryNumber): EntryNumber {
    const parent = this.#word(entry, R.parent);
    if (entry !== 0 && parent >= entry) throw this.#bad(entry, R.parent, 'its parent comes after it');
    return entry === 0 ? 0 : parent;
  }

  name(entry: EntryNumber): Name {
    const start = this.#nameStart(entry);
    const name = this.#bytes.latin1Slice(start, start + (this.#word(entry, R.nameLength) & 0xff));
    if (entry === 0) return '' as Name;
    if (name === '' || name === '.' || name === '..' || name.includes('/') || name.includes('\0')) {
      throw this.#bad(entry, R.nameAt, 'not a file name');
    }
    return name as Name;
  }

  path(entry: EntryNumber): Name {
    let path = this.name(entry) as string;
    for (let at = this.parent(entry); at !== 0; at = this.parent(at)) path = `${this.name(at)}/${path}`;
    return path as Name;
  }

  kind(entry: EntryNumber): number {
    return this.#word(entry, R.mode) & S_IFMT;
  }

  mode(entry: EntryNumber): number {
    return this.#word(entry, R.mode);
  }

  uid(entry: EntryNumber): number {
    return this.#word(entry, R.uid);
  }

  gid(entry: EntryNumber): number {
    return this.#word(entry, R.gid);
  }

  size(entry: EntryNumber): number {
    const high = this.#word(entry, R.sizeHigh);
    if (high >= 2 ** 21) throw this.#bad(entry, R.sizeHigh, 'its size is out of range');
    return high * 2 ** 32 + this.#word(entry, R.sizeLow);
  }

  blocks(entry: EntryNumber): number {
    return this.#word(entry, R.blocks);
  }

  mtimeSec(entry: EntryNumber): number {
    const high = this.#word(entry, R.mtimeSecHigh) | 0;
    if (high >= 2 ** 21 || high < -(2 ** 21))
      throw this.#bad(entry, R.mtimeSecHigh, 'its time is out of range');
    return high * 2 ** 32 + this.#word(entry, R.mtimeSecLow);
  }

  mtimeNsec(entry: EntryNumber): number {
    const nsec = this.#word(entry, R.mtimeNsec);
    if (nsec > 999_999_999) throw this.#bad(entry, R.mtimeNsec, 'its time is out of range');
    return nsec;
  }

  rdev(entry: EntryNumber): number {
    const type = this.#word(entry, R.mode) & S_IFMT;
    return type === S_IFCHR || type === S_IFBLK ? this.#word(entry, R.a) : 0;
  }

  /** Offset of the entry's link record in the file, or 0 when it has one name. */
  #link(entry: EntryNumber): number {
    const slot = this.#isDirectory(entry) ? 0 : this.#word(entry, R.c);
    if (slot === 0) return 0;
    if (slot > this.#linkCount) throw this.#bad(entry, R.c, 'its link record lies outside');
    return this.#linksAt + (slot - 1) * LINK_BYTES;
  }

  nlink(entry: EntryNumber): number {
    if (this.#isDirectory(entry)) return 2 + this.#word(entry, R.c);
    const link = this.#link(entry);
    return link === 0 ? 1 : this.#view.getUint32(link + 8, true);
  }

  /** An entry number out of a link record: another name of the same inode, so it must have the same type. */
  #linked(entry: EntryNumber, at: number): EntryNumber {
    const other = this.#view.getUint32(at, true);
    if (other >= this.entryCount || this.#word(other, R.mode) !== this.#word(entry, R.mode)) {
      throw this.#bad(entry, R.c, 'its hard links lead elsewhere');
    }
    return other;
  }

  hardLinkLeader(entry: EntryNumber): EntryNumber {
    const link = this.#link(entry);
    return link === 0 ? entry : this.#linked(entry, link);
  }

  hardLinkNext(entry: EntryNumber): EntryNumber {
    const link = this.#link(entry);
    return link === 0 ? entry : this.#linked(entry, link + 4);
  }

  symlinkTarget(entry: EntryNumber): Name {
    if ((this.#word(entry, R.mode) & S_IFMT) !== S_IFLNK) return '' as Name;
    const at = this.#word(entry, R.a);
    const length = this.#word(entry, R.b);
    if (length > 4095 || at + length > this.#namesBytes) {
      throw this.#bad(entry, R.a, 'its link target lies outside the names');
    }
    return this.#bytes.latin1Slice(this.#namesAt + at, this.#namesAt + at + length) as Name;
  }

  digest(entry: EntryNumber): Digest | null {
    if ((this.#word(entry, R.mode) & S_IFMT) !== S_IFREG) return null;
    const number = this.#word(entry, R.a);
    if (number === 0) return null;
    if (number > this.#digestCount) throw this.#bad(entry, R.a, 'its digest lies outside');
    const at = this.#digestsAt + (number - 1) * DIGEST_BYTES;
    return this.#bytes.toString('hex', at, at + DIGEST_BYTES) as Digest;
  }

  hasXattrs(entry: EntryNumber): boolean {
    return this.#word(entry, R.xattrs) !== 0;
  }

  xattrs(entry: EntryNumber): ReadonlyMap<Name, Uint8Array> {
    const reference = this.#word(entry, R.xattrs);
    if (reference === 0) return NO_XATTRS;
    const end = this.#xattrsAt + this.#xattrsBytes;
    let at = this.#xattrsAt + reference - 1;
    const take = (size: number): number => {
      if (at + size > end) throw this.#bad(entry, R.xattrs, 'its extended attributes lie outside');
      at += size;
      return at - size;
    };
    const result = new Map<Name, Uint8Array>();
    for (let left = this.#view.getUint16(take(2), true); left > 0; left--) {
      const nameLength = this.#view.getUint16(take(2), true);
      const valueLength = this.#view.getUint32(take(4), true);
      const nameAt = take(nameLength);
      const valueAt = take(valueLength);
      const name = this.#bytes.latin1Slice(nameAt, nameAt + nameLength) as Name;
      result.set(name, new Uint8Array(this.#bytes.subarray(valueAt, valueAt + valueLength)));
    }
    return result;
  }
}
