/**
 * Building the binary tree index from entries in any order. Equal trees give equal bytes, whatever order the entries came in:
 * breadth first, children of a directory consecutive and sorted by bytes, every table filled in entry order.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Digest, Name } from '../base/index.ts';
import { assert, compareNames, LIMITS, StrataError } from '../base/index.ts';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../sys/index.ts';
import {
  DIGEST_BYTES,
  H,
  HEADER_BYTES,
  LINK_BYTES,
  MAGIC,
  MAJOR,
  MINOR,
  R,
  RECORD_BYTES,
} from './tree-index-format.ts';

/** One entry of a tree, as a scan or an import found it. */
export interface TreeEntry {
  /** '' is the root. */
  path: Name;
  /** Full st_mode. */
  mode: number;
  uid: number;
  gid: number;
  /** Regular files: bytes. Symlinks: length of the target. Else 0. */
  size: number;
  /** Regular files with holes: 512-byte units really allocated; absent: as many as the size needs. */
  blocks?: number;
  mtimeSec: number;
  mtimeNsec: number;
  /** Devices: new_encode_dev. */
  rdev?: number;
  linkTarget?: Name;
  /** Regular files. */
  digest?: Digest;
  xattrs?: ReadonlyMap<Name, Uint8Array>;
  /** Entries with the same key (not undefined) are names of one inode. */
  inode?: string | number;
}

interface Node {
  entry: TreeEntry;
  name: string;
  parent: number;
  children: Node[];
  number: number;
}

/** 512-byte units of a file without holes, in 4 KiB pages: what most file systems would say, and the same everywhere. */
export function blocksFor(sizeBytes: number): number {
  return Math.ceil(sizeBytes / 4096) * 8;
}

/** The bytes of the index. Every directory on the way to an entry must be among the entries, each path once. */
export function buildTreeIndex(entries: Iterable<TreeEntry>): Buffer {
  const nodes = inOrder(entries);
  const names = new StringTable();
  const digests: Digest[] = [];
  const digestOf = new Map<string | number, number>();
  const xattrs = new XattrTable();
  const links = linkRecords(nodes);
  const records = Buffer.alloc(nodes.length * RECORD_BYTES);
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
  let totalBytes = 0;

  for (const node of nodes) {
    const { entry } = node;
    const at = node.number * RECORD_BYTES;
    const type = entry.mode & S_IFMT;
    const put = (field: number, value: number): void => view.setUint32(at + field, value, true);
    put(R.nameAt, names.add(node.name));
    put(R.nameLength, node.name.length);
    put(R.parent, node.parent);
    put(R.mode, entry.mode);
    put(R.uid, entry.uid);
    put(R.gid, entry.gid);
    put(R.mtimeSecLow, entry.mtimeSec % 2 ** 32);
    put(R.mtimeSecHigh, Math.floor(entry.mtimeSec / 2 ** 32));
    put(R.mtimeNsec, entry.mtimeNsec);
    put(R.xattrs, xattrs.add(entry.xattrs));
    const size = type === S_IFDIR ? 4096 : type === S_IFREG || type === S_IFLNK ? entry.size : 0;
    put(R.sizeLow, size % 2 ** 32);
    put(R.sizeHigh, Math.floor(size / 2 ** 32));
    if (type === S_IFDIR) {
      put(R.blocks, 8);
      put(R.a, node.children[0]?.number ?? 0);
      put(R.b, node.children.length);
      put(R.c, node.children.filter((child) => (child.entry.mode & S_IFMT) === S_IFDIR).length);
      continue;
    }
    const link = links.slot.get(node.number);
    if (link !== undefined) put(R.c, link + 1);
    const isLeader = link === undefined || links.records[link]![0] === node.number;
    if (type === S_IFREG) {
      put(R.blocks, Math.min(entry.blocks ?? blocksFor(size), 0xffff_ffff));
      if (isLeader) totalBytes += size;
      if (entry.digest !== undefined) {
        let number = entry.inode === undefined ? undefined : digestOf.get(entry.inode);
        if (number === undefined) {
          number = digests.push(entry.digest);
          if (entry.inode !== undefined) digestOf.set(entry.inode, number);
        }
        put(R.a, number);
      }
    } else if (type === S_IFLNK) {
      const target = entry.linkTarget ?? ('' as Name);
      assert(target.length <= LIMITS.symlinkBytes, 'symlink target within its limit');
      put(R.a, names.add(target));
      put(R.b, target.length);
    } else if (type === S_IFCHR || type === S_IFBLK) {
      put(R.a, entry.rdev ?? 0);
    }
  }
  return assemble({
    records,
    links: links.records,
    digests,
    names: names.bytes(),
    xattrs: xattrs.bytes(),
    totalBytes,
  });
}

/** Nodes breadth first, numbered, children sorted by bytes. */
function inOrder(entries: Iterable<TreeEntry>): Node[] {
  const byPath = new Map<string, Node>();
  for (const entry of entries) {
    const slash = entry.path.lastIndexOf('/');
    const name = entry.path.slice(slash + 1);
    assert(name.length <= LIMITS.nameBytes, 'file name within its limit');
    assert(!byPath.has(entry.path), `path ${entry.path} once`);
    byPath.set(entry.path, { entry, name, parent: 0, children: [], number: 0 });
    if (byPath.size > LIMITS.layerEntries) {
      throw new StrataError('LIMIT', `the tree has more than ${LIMITS.layerEntries} entries`);
    }
  }
  const root = byPath.get('');
  assert(root !== undefined && (root.entry.mode & S_IFMT) === S_IFDIR, 'the tree has a root directory');
  for (const [path, node] of byPath) {
    if (node === root) continue;
    const slash = path.lastIndexOf('/');
    const parent = byPath.get(slash < 0 ? '' : path.slice(0, slash));
    assert(
      parent !== undefined && (parent.entry.mode & S_IFMT) === S_IFDIR,
      `parent of ${path} is a directory`,
    );
    parent.children.push(node);
  }
  const order: Node[] = [root];
  for (let i = 0; i < order.length; i++) {
    const directory = order[i]!;
    directory.children.sort((a, b) => compareNames(a.name, b.name));
    for (const child of directory.children) {
      child.parent = i;
      child.number = order.length;
      order.push(child);
    }
  }
  return order;
}

/** Rings of the inodes with several names: slot by entry number, and [leader, next, names] by slot. */
function linkRecords(nodes: Node[]): { slot: Map<number, number>; records: [number, number, number][] } {
  const groups = new Map<string | number, number[]>();
  for (const { entry, number } of nodes) {
    if (entry.inode === undefined || (entry.mode & S_IFMT) === S_IFDIR) continue;
    const group = groups.get(entry.inode);
    if (group) group.push(number);
    else groups.set(entry.inode, [number]);
  }
  const slot = new Map<number, number>();
  const records: [number, number, number][] = [];
  for (const group of groups.values()) {
    if (group.length < 2) continue;
    for (const [i, number] of group.entries()) {
      slot.set(number, records.length);
      records.push([group[0]!, group[(i + 1) % group.length]!, group.length]);
    }
  }
  return { slot, records };
}

/** Byte strings one after the other, each kept once. */
class StringTable {
  readonly #at = new Map<string, number>();
  readonly #parts: string[] = [];
  #length = 0;

  add(text: string): number {
    const known = this.#at.get(text);
    if (known !== undefined) return known;
    const at = this.#length;
    this.#at.set(text, at);
    this.#parts.push(text);
    this.#length += text.length;
    if (this.#length > 0xffff_ffff) throw new StrataError('LIMIT', 'the names of the tree exceed 4 GiB');
    return at;
  }

  bytes(): Buffer {
    const result = Buffer.allocUnsafeSlow(this.#length);
    let at = 0;
    for (const part of this.#parts) at += result.latin1Write(part, at);
    return result;
  }
}

/** Sets of extended attributes, each kept once, names sorted by bytes. */
class XattrTable {
  readonly #at = new Map<string, number>();
  readonly #parts: Buffer[] = [];
  #length = 0;

  /** Reference for a record: offset + 1, or 0 for none. */
  add(xattrs: ReadonlyMap<Name, Uint8Array> | undefined): number {
    if (xattrs === undefined || xattrs.size === 0) return 0;
    const pieces: Buffer[] = [Buffer.alloc(2)];
    pieces[0]!.writeUInt16LE(xattrs.size);
    for (const [name, value] of [...xattrs].sort(([a], [b]) => compareNames(a, b))) {
      const lengths = Buffer.alloc(6);
      lengths.writeUInt16LE(name.length, 0);
      lengths.writeUInt32LE(value.length, 2);
      pieces.push(lengths, Buffer.from(name, 'latin1'), Buffer.from(value));
    }
    const set = Buffer.concat(pieces);
    const key = set.latin1Slice();
    const known = this.#at.get(key);
    if (known !== undefined) return known + 1;
    const at = this.#length;
    this.#at.set(key, at);
    this.#parts.push(set);
    this.#length += set.length;
    if (this.#length > 0xffff_fffe) throw new StrataError('LIMIT', 'the extended attributes exceed 4 GiB');
    return at + 1;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

interface Sections {
  records: Buffer;
  links: [number, number, number][];
  digests: Digest[];
  names: Buffer;
  xattrs: Buffer;
  totalBytes: number;
}

function assemble(s: Sections): Buffer {
  const links = Buffer.alloc(s.links.length * LINK_BYTES);
  for (const [i, record] of s.links.entries()) {
    for (const [j, value] of record.entries()) links.writeUInt32LE(value, i * LINK_BYTES + j * 4);
  }
  const digests = Buffer.from(s.digests.join(''), 'hex');
  assert(digests.length === s.digests.length * DIGEST_BYTES, 'digests are SHA-256');
  const header = Buffer.alloc(HEADER_BYTES);
  const u64 = (field: number, value: number): void => {
    header.writeUInt32LE(value % 2 ** 32, field);
    header.writeUInt32LE(Math.floor(value / 2 ** 32), field + 4);
  };
  let at = HEADER_BYTES;
  const place = (field: number, section: Buffer): void => {
    u64(field, at);
    at += section.length;
  };
  header.latin1Write(MAGIC, H.magic);
  header.writeUInt16LE(MAJOR, H.major);
  header.writeUInt16LE(MINOR, H.minor);
  header.writeUInt32LE(HEADER_BYTES, H.headerBytes);
  header.writeUInt32LE(s.records.length / RECORD_BYTES, H.entryCount);
  header.writeUInt32LE(s.links.length, H.linkCount);
  header.writeUInt32LE(s.digests.length, H.digestCount);
  header.writeUInt32LE(RECORD_BYTES, H.recordBytes);
  u64(H.totalBytes, s.totalBytes);
  place(H.recordsAt, s.records);
  place(H.linksAt, links);
  place(H.digestsAt, digests);
  place(H.namesAt, s.names);
  u64(H.namesBytes, s.names.length);
  place(H.xattrsAt, s.xattrs);
  u64(H.xattrsBytes, s.xattrs.length);
  u64(H.fileBytes, at);
  const body = [s.records, links, digests, s.names, s.xattrs];
  const hash = createHash('sha256');
  for (const section of body) hash.update(section);
  hash.digest().copy(header, H.bodySha256);
  header.writeUInt32LE(crc32(header), H.headerCrc);
  return Buffer.concat([header, ...body]);
}
