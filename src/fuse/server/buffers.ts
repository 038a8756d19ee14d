/**
 * The two long-lived buffers of a serving thread: one for the request, one for the reply. A thread handles one request at a time,
 * so all its mounts share one pair. u64 fields are read and written as two u32 (a BigInt costs ten times as much).
 */
import { addressOf } from '../../sys/index.ts';
import { IN_HEADER, OUT_HEADER, WRITE_IN } from '../abi/layout.ts';

/** Largest data of one WRITE or READ: 256 pages. */
export const MAX_WRITE_BYTES = 1 << 20;
export const MAX_PAGES = 256;

/** The kernel refuses to read (EINVAL) into less than max_write and the headers. */
const REQUEST_BYTES = MAX_WRITE_BYTES + 4096;
const REPLY_BYTES = MAX_WRITE_BYTES + 4096;
const CACHED_SLICES = 64;

/** Returned by getU64 for a number that JavaScript cannot hold exactly; no valid field has it. */
export const NOT_SAFE = -1;

export interface FuseBuffers {
  readonly request: Buffer;
  readonly requestView: DataView;
  readonly reply: Buffer;
  readonly replyView: DataView;
  /** Where the two lie, for system calls. */
  readonly requestAddress: number;
  readonly replyAddress: number;
  /** The data of a WRITE request. */
  writeData(size: number): Uint8Array;
  /** Room for the data of a READ reply. */
  readRoom(size: number): Uint8Array;
}

/** The views of `buffer` from `start`, remembered by size: the kernel uses few sizes again and again. */
function slices(buffer: Buffer, start: number): (size: number) => Uint8Array {
  const known = new Map<number, Uint8Array>();
  return (size) => {
    const found = known.get(size);
    if (found !== undefined) return found;
    const made = new Uint8Array(buffer.buffer, buffer.byteOffset + start, size);
    if (known.size < CACHED_SLICES) known.set(size, made);
    return made;
  };
}

export function createFuseBuffers(): FuseBuffers {
  // Touched, so that its pages are there: a read that a kill cuts off in a page fault fails the request.
  const request = Buffer.alloc(REQUEST_BYTES, 1);
  const reply = Buffer.alloc(REPLY_BYTES);
  return {
    request,
    requestView: new DataView(request.buffer, request.byteOffset, request.length),
    reply,
    requestAddress: addressOf(request),
    replyAddress: addressOf(reply),
    replyView: new DataView(reply.buffer, reply.byteOffset, reply.length),
    writeData: slices(request, IN_HEADER.size + WRITE_IN.size),
    readRoom: slices(reply, OUT_HEADER.size),
  };
}

/** An unsigned 64-bit number, or NOT_SAFE above 2^53. */
export function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  const low = view.getUint32(at, true);
  if (high === 0) return low;
  return high > 0x1fffff ? NOT_SAFE : high * 0x1_0000_0000 + low;
}

/** A signed 64-bit number (times before 1970); saturates beyond 2^53. */
export function getI64(view: DataView, at: number): number {
  const value = view.getInt32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
  return Math.max(Number.MIN_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, value));
}

/** A safe integer, signed or not, as 64 bits. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000) >>> 0, true);
}
