/**
 * Random FUSE requests that know the protocol: fields where they belong, node numbers and handles that earlier replies gave (or never were),
 * names that lead out, sizes and offsets at their limits; now and then cut, too long, or with a length that lies. From one seed
 * always the same.
 */
import { FUSE_OPCODE as OP } from '../abi/constants.ts';
import * as L from '../abi/layout.ts';
import { putU64 } from '../server/buffers.ts';

export interface Random {
  /** An integer below n. */
  below(n: number): number;
  /** True once in n times. */
  once(n: number): boolean;
  pick<T>(values: readonly T[]): T;
}

export function randomFrom(seed: number): Random {
  let state = seed >>> 0 || 1;
  const below = (n: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
  return { below, once: (n) => below(n) === 0, pick: (values) => values[below(values.length)]! };
}

/** What the replies so far gave. */
export interface Known {
  nodes: number[];
  /** Those of them that are directories. */
  directories: number[];
  handles: number[];
}

export interface FuzzRequest {
  opcode: number;
  node: number;
  uid: number;
  body: Buffer;
  /** Added to the length that the header tells. */
  lie: number;
  extlen: number;
}

const LONG = 'x'.repeat(255);
const NAMES = [
  'a',
  'b',
  'c',
  'd',
  'e',
  'etc',
  'usr',
  'link',
  'up',
  'conf',
  'large',
  'twin',
  'hard',
  'sub',
  'file',
  '\xff\xfe',
];
const ODD_NAMES = [
  LONG,
  `${LONG}x`,
  '',
  '.',
  '..',
  'a/b',
  '../outside',
  '/etc/passwd',
  '.wh.a',
  'a\nb',
  '#0',
  't0',
  'work',
];
const TARGETS = [
  'a',
  '..',
  '../../outside/canary',
  '/etc/passwd',
  '/proc/self/root',
  'y'.repeat(4095),
  'z'.repeat(5000),
];
const XATTRS = [
  'user.a',
  'user.b',
  'trusted.a',
  'security.capability',
  'system.posix_acl_access',
  'system.posix_acl_default',
  'trusted.overlay.opaque',
  'trusted.overlay.redirect',
  'trusted.overlay.metacopy',
  'trusted.overlay.overlay.opaque',
  'trusted.strata.ino',
  'trusted.strata.links',
  'trusted.strata.redirects',
  'bad',
  LONG,
];
const OFFSETS = [
  0,
  1,
  4095,
  4096,
  65_536,
  1 << 20,
  2 ** 31,
  2 ** 32,
  2 ** 40,
  2 ** 44,
  2 ** 53 - 1,
  -1,
  -4096,
];
const SIZES = [0, 1, 8, 24, 512, 4096, 65_536, 1 << 20, (1 << 20) + 1, 2 ** 31, 2 ** 32 - 1];
const MODES = [
  0o644,
  0o755,
  0o7777,
  0o4755,
  0o100644,
  0o40755,
  0o20666,
  0o60666,
  0o10644,
  0o140755,
  0o120777,
  0,
  2 ** 32 - 1,
];
const FLAGS = [0, 1, 2, 3, 0o1000, 0o1001, 0o1002, 0o2001, 0o200, 0o100, 0o300, 0o40000, 2 ** 32 - 1];
/** Their node is a directory. */
const NAMED = new Set<number>([
  ...[
    OP.LOOKUP,
    OP.CREATE,
    OP.MKDIR,
    OP.MKNOD,
    OP.SYMLINK,
    OP.LINK,
    OP.UNLINK,
    OP.RMDIR,
    OP.RENAME,
    OP.RENAME2,
  ],
  ...[OP.TMPFILE, OP.READDIR, OP.READDIRPLUS, OP.FSYNCDIR],
]);
/** Tried often: what changes the tree. */
const COMMON = [
  OP.LOOKUP,
  OP.CREATE,
  OP.OPEN,
  OP.MKDIR,
  OP.RENAME2,
  OP.UNLINK,
  OP.LINK,
  OP.WRITE,
  OP.SETATTR,
  OP.RELEASE,
];
const OPCODES = Object.values(OP).filter((op) => op !== OP.INIT && op !== OP.DESTROY);

export function fuzzRequest(r: Random, known: Known): FuzzRequest {
  const opcode = r.once(200) ? r.below(2 ** 31) : r.pick(r.once(2) ? COMMON : OPCODES);
  let body = bodyOf(r, opcode, known);
  if (r.once(40)) body = body.subarray(0, r.below(body.length + 1));
  if (r.once(40)) body = Buffer.concat([body, Buffer.alloc(r.below(64), r.below(256))]);
  if (r.once(40) && body.length > 0) body[r.below(body.length)] = r.below(256);
  return {
    opcode,
    node: r.once(8) || !NAMED.has(opcode) ? nodeOf(r, known) : r.pick(known.directories),
    uid: r.once(3) ? 1000 : 0,
    body,
    lie: r.once(100) ? r.below(200) - 100 : 0,
    extlen: r.once(100) ? r.below(65_536) : 0,
  };
}

function nodeOf(r: Random, known: Known): number {
  if (r.once(30)) return r.pick([0, -1, 2, 99_999, 2 ** 32, 2 ** 53 - 1]);
  return r.once(4) ? 1 : r.pick(known.nodes);
}

function handleOf(r: Random, known: Known): number {
  if (r.once(15) || known.handles.length === 0) return r.pick([0, 1, 7, 1000, 2 ** 31, 2 ** 53 - 1, -1]);
  return r.pick(known.handles);
}

const nameOf = (r: Random): string => (r.once(12) ? r.pick(ODD_NAMES) : r.pick(NAMES));
const text = (...parts: string[]): Buffer => Buffer.from(`${parts.join('\0')}\0`, 'latin1');

/** A structure of `size` bytes from [offset, width, value]. */
function struct(size: number, fields: [at: number, width: 4 | 8, value: number][]): Buffer {
  const bytes = Buffer.alloc(size);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (const [at, width, value] of fields) {
    if (width === 8) putU64(view, at, value);
    else view.setUint32(at, value >>> 0, true);
  }
  return bytes;
}

function bodyOf(r: Random, opcode: number, known: Known): Buffer {
  const fh = handleOf(r, known);
  const offset = r.pick(OFFSETS);
  const size = r.pick(SIZES);
  const mode = r.pick(MODES);
  const umask = r.pick([0, 0o22, 0o777]);
  switch (opcode) {
    case OP.LOOKUP:
    case OP.UNLINK:
    case OP.RMDIR:
      return text(nameOf(r));
    case OP.REMOVEXATTR:
      return text(r.pick(XATTRS));
    case OP.FORGET:
      return struct(L.FORGET_IN.size, [[0, 8, r.pick([0, 1, 1, 2, -1])]]);
    case OP.BATCH_FORGET: {
      const count = r.below(4);
      const items = Array.from({ length: count }, () =>
        struct(16, [
          [0, 8, nodeOf(r, known)],
          [8, 8, r.below(3)],
        ]),
      );
      return Buffer.concat([struct(8, [[0, 4, r.once(5) ? 2 ** 32 - 1 : count]]), ...items]);
    }
    case OP.GETATTR:
    case OP.STATX:
      return struct(24, [
        [0, 4, r.below(2)],
        [8, 8, fh],
      ]);
    case OP.SETATTR: {
      const { valid, size_, atime, mtime, atimensec, uid, gid } = L.SETATTR_IN;
      return struct(L.SETATTR_IN.size, [
        [valid, 4, r.below(1 << 12)],
        [L.SETATTR_IN.fh, 8, fh],
        [size_, 8, offset],
        [atime, 8, r.pick(OFFSETS)],
        [mtime, 8, r.pick(OFFSETS)],
        [atimensec, 4, r.pick([0, 999_999_999, 2 ** 30])],
        [L.SETATTR_IN.mode, 4, mode],
        [uid, 4, r.below(3)],
        [gid, 4, r.pick([0, 2 ** 32 - 1])],
      ]);
    }
    case OP.SYMLINK:
      return text(nameOf(r), r.pick(TARGETS));
    case OP.MKNOD:
      return Buffer.concat([
        struct(16, [
          [0, 4, mode],
          [4, 4, r.pick([0, 0x103, 0x800, 0xffffffff])],
          [8, 4, umask],
        ]),
        text(nameOf(r)),
      ]);
    case OP.MKDIR:
      return Buffer.concat([
        struct(8, [
          [0, 4, mode],
          [4, 4, umask],
        ]),
        text(nameOf(r)),
      ]);
    case OP.RENAME:
      return Buffer.concat([struct(8, [[0, 8, r.pick(known.directories)]]), text(nameOf(r), nameOf(r))]);
    case OP.RENAME2:
      return Buffer.concat([
        struct(16, [
          [0, 8, nodeOf(r, known)],
          [8, 4, r.below(8)],
        ]),
        text(nameOf(r), nameOf(r)),
      ]);
    case OP.LINK:
      return Buffer.concat([struct(8, [[0, 8, nodeOf(r, known)]]), text(nameOf(r))]);
    case OP.OPEN:
    case OP.OPENDIR:
      return struct(8, [
        [0, 4, r.pick(FLAGS)],
        [4, 4, r.below(2)],
      ]);
    case OP.CREATE:
    case OP.TMPFILE:
      return Buffer.concat([
        struct(16, [
          [0, 4, r.pick(FLAGS)],
          [4, 4, mode],
          [8, 4, umask],
          [12, 4, r.below(2)],
        ]),
        text(nameOf(r)),
      ]);
    case OP.WRITE: {
      const data = Buffer.alloc(r.pick([0, 1, 100, 5000]), r.below(256));
      const told = r.once(20) ? size : data.length;
      return Buffer.concat([
        struct(L.WRITE_IN.size, [
          [0, 8, fh],
          [8, 8, offset],
          [16, 4, told],
          [20, 4, r.below(8)],
        ]),
        data,
      ]);
    }
    case OP.SETXATTR: {
      const data = Buffer.alloc(r.pick([0, 1, 8, 300, 65_536, 70_000]), r.below(256));
      const told = r.once(20) ? size : data.length;
      return Buffer.concat([
        struct(16, [
          [0, 4, told],
          [4, 4, r.below(4)],
          [8, 4, r.below(2)],
        ]),
        text(r.pick(XATTRS)),
        data,
      ]);
    }
    case OP.GETXATTR:
      return Buffer.concat([struct(8, [[0, 4, size]]), text(r.pick(XATTRS))]);
    case OP.COPY_FILE_RANGE:
    case OP.COPY_FILE_RANGE_64:
      return struct(L.COPY_FILE_RANGE_IN.size, [
        [0, 8, fh],
        [8, 8, offset],
        [16, 8, nodeOf(r, known)],
        [24, 8, handleOf(r, known)],
        [32, 8, r.pick(OFFSETS)],
        [40, 8, r.pick([0, 1, 4096, 1 << 20, 2 ** 24, -1])],
      ]);
    default:
      // The others begin with a handle, an offset, and a size or a mode.
      return struct(40, [
        [0, 8, fh],
        [8, 8, offset],
        [16, 8, size],
        [24, 4, r.below(64)],
        [28, 4, r.below(2 ** 31)],
      ]);
  }
}
