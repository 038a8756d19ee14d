/**
 * The log of a disk: records of a 16-byte header (offset u64, length u64) and that many bytes; SYNC as offset is a flush. What a power cut
 * leaves of it: everything that was written before the last flush, and any part, block by block, of what was written after it.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

/** Offset of a record that is a flush. */
export const SYNC = Number.MAX_SAFE_INTEGER;
const HEADER_BYTES = 16;
/** What a disk writes whole. */
const BLOCK_BYTES = 4096;

export function writeHeader(offset: number, length: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeBigUInt64LE(BigInt(offset), 0);
  header.writeBigUInt64LE(BigInt(length), 8);
  return header;
}

export interface LogRecord {
  /** SYNC: a flush. */
  offset: number;
  length: number;
  /** Where its bytes are in the log. */
  dataAt: number;
  /** Position in the log after it. */
  end: number;
  /** It commits a transaction of the file system's journal (jbd2). */
  isCommit: boolean;
}

const JBD2_MAGIC = 0xc03b3998;
const JBD2_COMMIT_BLOCK = 2;

/** All whole records of a log of `bytes` bytes. */
export function readLog(fd: number, bytes: number): LogRecord[] {
  const records: LogRecord[] = [];
  const header = Buffer.alloc(HEADER_BYTES);
  const start = Buffer.alloc(8);
  for (let at = 0; at + HEADER_BYTES <= bytes; ) {
    readSync(fd, header, 0, HEADER_BYTES, at);
    const length = Number(header.readBigUInt64LE(8));
    const dataAt = at + HEADER_BYTES;
    at = dataAt + length;
    if (at > bytes) break;
    readSync(fd, start, 0, start.length, dataAt);
    const isCommit =
      length === BLOCK_BYTES &&
      start.readUInt32BE(0) === JBD2_MAGIC &&
      start.readUInt32BE(4) === JBD2_COMMIT_BLOCK;
    records.push({ offset: Number(header.readBigUInt64LE(0)), length, dataAt, end: at, isCommit });
  }
  return records;
}

/** Writes records (of the log `logFd`) into an image; `keeps` decides block by block. */
export function applyRecords(
  imageFile: string,
  logFd: number,
  records: readonly LogRecord[],
  keeps: () => boolean = () => true,
): void {
  const image = openSync(imageFile, 'r+');
  try {
    for (const { offset, length, dataAt } of records) {
      if (offset === SYNC) continue;
      const data = Buffer.alloc(length);
      readSync(logFd, data, 0, length, dataAt);
      for (let at = 0; at < length; at += BLOCK_BYTES) {
        if (keeps()) writeSync(image, data, at, Math.min(BLOCK_BYTES, length - at), offset + at);
      }
    }
  } finally {
    closeSync(image);
  }
}

/** One power cut: the log up to `at` records was sent; of those since the last flush, `part` reached the disk. */
export interface Cut {
  /** Number of records that were sent. */
  at: number;
  /** 'all', or the seed of a random choice. */
  part: 'all' | number;
}

/** Pseudo-random numbers from 0 to 1 (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
