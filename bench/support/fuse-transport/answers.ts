/**
 * A file system of one file in memory, as little as a FUSE server can be: what it costs is what its transport costs. Names other than `file` are looked up anew each time, the file's
 * attributes hold for no time, and its data bypasses the page cache: each call of a program is one request.
 */
import { FOPEN, FUSE_INIT, FUSE_INIT2, FUSE_OPCODE } from '../../../src/fuse/abi/constants.ts';
import { INIT_OUT, OPEN_OUT, READ_IN, WRITE_IN, WRITE_OUT } from '../../../src/fuse/abi/layout.ts';
import { getU64 } from '../../../src/fuse/server/buffers.ts';
import { newAttr, newEntryOut, putAttrOut, putEntry } from '../../../src/fuse/server/encode.ts';
import * as sys from '../../../src/sys/index.ts';

/** Largest data of a request. */
export const DATA_BYTES = 128 * 1024;
const MAX_PAGES = DATA_BYTES / 4096;
const FILE_NODE = 2;
/** A lookup of this name is never answered by the process that gets it first. */
export const STALL = 'stall';
const FOR_LONG_MS = 3_600_000;

/** Where the parts of a request are, and of its reply. */
export interface Packet {
  in: DataView;
  inBytes: Buffer;
  /** The fixed part of the request's body, and what follows it (names, data). */
  body: number;
  rest: number;
  out: DataView;
  outBytes: Buffer;
  /** Of the reply. */
  payload: number;
}

/** `stalled` is called for a lookup of STALL, which is then never answered; null: as other names. */
export function createAnswers(stalled: (() => void) | null) {
  const file = Buffer.alloc(1 << 20, 'x');
  const root = { ...newAttr(), ino: 1, mode: sys.S_IFDIR | 0o755, nlink: 2 };
  const attr = { ...newAttr(), ino: FILE_NODE, mode: sys.S_IFREG | 0o644, nlink: 1, size: file.length };
  const entry = { ...newEntryOut(), nodeId: FILE_NODE, attr, entryValidMs: FOR_LONG_MS };

  function lookup(p: Packet): number {
    const name = p.inBytes.latin1Slice(p.rest, p.inBytes.indexOf(0, p.rest));
    if (name === STALL && stalled !== null) {
      stalled();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    }
    return name === 'file' ? putEntry(p.out, p.payload, entry) : -sys.E.NOENT;
  }

  function write(p: Packet): number {
    const size = p.in.getUint32(p.body + WRITE_IN.size_, true);
    p.inBytes.copy(file, getU64(p.in, p.body + WRITE_IN.offset), p.rest, p.rest + size);
    p.out.setUint32(p.payload + WRITE_OUT.size_, size, true);
    p.out.setUint32(p.payload + 4, 0, true);
    return WRITE_OUT.size;
  }

  return {
    /** The reply to FUSE_INIT. */
    init(p: Packet, overRing: boolean): number {
      p.outBytes.fill(0, p.payload, p.payload + INIT_OUT.size);
      const { out, payload } = p;
      out.setUint32(payload + INIT_OUT.major, 7, true);
      out.setUint32(payload + INIT_OUT.minor, 45, true);
      const flags =
        FUSE_INIT.INIT_EXT | FUSE_INIT.BIG_WRITES | FUSE_INIT.MAX_PAGES | FUSE_INIT.PARALLEL_DIROPS;
      out.setUint32(payload + INIT_OUT.flags, flags, true);
      const flags2 = FUSE_INIT2.HAS_RESEND | (overRing ? FUSE_INIT2.OVER_IO_URING : 0);
      out.setUint32(payload + INIT_OUT.flags2, flags2, true);
      out.setUint16(payload + INIT_OUT.max_background, 16, true);
      out.setUint32(payload + INIT_OUT.max_write, DATA_BYTES, true);
      out.setUint32(payload + INIT_OUT.time_gran, 1, true);
      out.setUint16(payload + INIT_OUT.max_pages, MAX_PAGES, true);
      return INIT_OUT.size;
    },
    /** The length of the payload, a negative errno, or null when the request wants no answer. */
    answer(opcode: number, node: number, p: Packet): number | null {
      switch (opcode) {
        case FUSE_OPCODE.LOOKUP:
          return lookup(p);
        case FUSE_OPCODE.GETATTR:
          return node === FILE_NODE
            ? putAttrOut(p.out, p.payload, attr, 0)
            : putAttrOut(p.out, p.payload, root, FOR_LONG_MS);
        case FUSE_OPCODE.OPEN:
          p.outBytes.fill(0, p.payload, p.payload + OPEN_OUT.size);
          p.out.setUint32(p.payload + OPEN_OUT.open_flags, FOPEN.DIRECT_IO | FOPEN.NOFLUSH, true);
          return OPEN_OUT.size;
        case FUSE_OPCODE.READ: {
          const offset = getU64(p.in, p.body + READ_IN.offset);
          const size = p.in.getUint32(p.body + READ_IN.size_, true);
          return file.copy(p.outBytes, p.payload, offset, Math.min(file.length, offset + size));
        }
        case FUSE_OPCODE.WRITE:
          return write(p);
        case FUSE_OPCODE.RELEASE:
          return 0;
        case FUSE_OPCODE.FORGET:
        case FUSE_OPCODE.BATCH_FORGET:
        case FUSE_OPCODE.INTERRUPT:
          return null;
        default:
          return -sys.E.NOSYS;
      }
    },
  };
}

/** The fixed part of a request's body, where something follows that is looked at. */
export const fixedSize = (opcode: number): number => (opcode === FUSE_OPCODE.WRITE ? WRITE_IN.size : 0);
