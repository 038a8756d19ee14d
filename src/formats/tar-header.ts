/**
 * One 512-byte tar header block <-> its fields: v7, ustar (POSIX 1003.1) and old GNU ('ustar  '), with base-256 numbers. Nothing is
 * interpreted here beyond the fields; the checksum is always verified. Text is latin1: one character a byte.
 */
import { FormatError } from '../base/index.ts';

export const BLOCK_BYTES = 512;

export interface TarHeader {
  /** Name, with the ustar prefix put before it. */
  name: string;
  mode: number;
  uid: number;
  gid: number;
  sizeBytes: number;
  mtimeSec: number;
  /** One character; '0' for v7's NUL. */
  typeflag: string;
  linkName: string;
  userName: string;
  groupName: string;
  devMajor: number;
  devMinor: number;
  dialect: 'v7' | 'ustar' | 'gnu';
}

export interface SparseExtent {
  offset: number;
  length: number;
}

/** Text up to the first NUL. */
function text(block: Buffer, start: number, length: number): string {
  let end = start;
  while (end < start + length && block[end] !== 0) end++;
  return block.latin1Slice(start, end);
}

/** An octal or base-256 number. `offset` is the block's place, for errors. Empty fields are 0. */
export function tarNumber(
  block: Buffer,
  start: number,
  length: number,
  at: { format: string; offset: number },
  what: string,
): number {
  const first = block[start]!;
  const bad = (): never => {
    throw new FormatError(at.format, at.offset + start, `a bad ${what} in a tar header`);
  };
  if (first === 0x80 || first === 0xff) {
    // Two's complement, big-endian, the first bit only marks the form.
    let value = first === 0xff ? -1n : 0n;
    for (let i = start + 1; i < start + length; i++) value = (value << 8n) | BigInt(block[i]!);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : bad();
  }
  let i = start;
  const end = start + length;
  while (i < end && block[i] === 0x20) i++;
  let value = 0;
  for (; i < end; i++) {
    const c = block[i]!;
    if (c === 0 || c === 0x20) break;
    if (c < 0x30 || c > 0x37) bad();
    value = value * 8 + (c - 0x30);
  }
  for (; i < end; i++) if (block[i] !== 0 && block[i] !== 0x20) bad();
  return Number.isSafeInteger(value) ? value : bad();
}

export function isZeroBlock(block: Buffer): boolean {
  for (let i = 0; i < BLOCK_BYTES; i++) if (block[i] !== 0) return false;
  return true;
}

/** Sum of the header's bytes with the checksum field as spaces; historic tars summed signed bytes. */
function checksums(block: Buffer): { unsigned: number; signed: number } {
  let unsigned = 8 * 0x20;
  let high = 0;
  for (let i = 0; i < BLOCK_BYTES; i++) {
    if (i === 148) i = 156;
    const c = block[i]!;
    unsigned += c;
    if (c >= 0x80) high++;
  }
  return { unsigned, signed: unsigned - high * 256 };
}

/** Parses a header block that is not all zeros. */
export function parseTarHeader(block: Buffer, at: { format: string; offset: number }): TarHeader {
  const sum = checksums(block);
  const stored = tarNumber(block, 148, 8, at, 'checksum');
  if (stored !== sum.unsigned && stored !== sum.signed)
    throw new FormatError(at.format, at.offset, 'a tar header with a wrong checksum');
  const magic = block.latin1Slice(257, 265);
  const dialect = magic === 'ustar  \0' ? 'gnu' : magic.startsWith('ustar') ? 'ustar' : 'v7';
  const prefix = dialect === 'ustar' ? text(block, 345, 155) : '';
  const name = text(block, 0, 100);
  const flag = block[156]!;
  const named = dialect !== 'v7';
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    mode: tarNumber(block, 100, 8, at, 'mode'),
    uid: tarNumber(block, 108, 8, at, 'owner'),
    gid: tarNumber(block, 116, 8, at, 'group'),
    sizeBytes: tarNumber(block, 124, 12, at, 'size'),
    mtimeSec: tarNumber(block, 136, 12, at, 'time'),
    typeflag: flag === 0 ? '0' : String.fromCharCode(flag),
    linkName: text(block, 157, 100),
    userName: named ? text(block, 265, 32) : '',
    groupName: named ? text(block, 297, 32) : '',
    devMajor: named ? tarNumber(block, 329, 8, at, 'device number') : 0,
    devMinor: named ? tarNumber(block, 337, 8, at, 'device number') : 0,
    dialect,
  };
}

/** Reads `count` old-GNU sparse records of 24 bytes at `start`; empty records end the list. */
export function gnuSparseRecords(
  block: Buffer,
  start: number,
  count: number,
  at: { format: string; offset: number },
): SparseExtent[] {
  const extents: SparseExtent[] = [];
  for (let i = 0; i < count; i++) {
    const pos = start + i * 24;
    if (block[pos] === 0) break;
    extents.push({
      offset: tarNumber(block, pos, 12, at, 'sparse map'),
      length: tarNumber(block, pos + 12, 12, at, 'sparse map'),
    });
  }
  return extents;
}

/** Whether a value fits an octal field of `width` bytes (one of them the end mark). */
export function fitsOctal(value: number, width: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 8 ** (width - 1);
}

/** A ustar header block. Every field must fit (fitsOctal; name 100 bytes, prefix 155). */
export function formatTarHeader(h: Omit<TarHeader, 'dialect'> & { prefix: string }): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, start: number, width: number): void => {
    block.latin1Write(value.toString(8).padStart(width - 1, '0'), start, width - 1);
  };
  block.latin1Write(h.name, 0, 100);
  octal(h.mode, 100, 8);
  octal(h.uid, 108, 8);
  octal(h.gid, 116, 8);
  octal(h.sizeBytes, 124, 12);
  octal(h.mtimeSec, 136, 12);
  block.latin1Write(h.typeflag, 156, 1);
  block.latin1Write(h.linkName, 157, 100);
  block.latin1Write('ustar\x0000', 257, 8);
  block.latin1Write(h.userName, 265, 32);
  block.latin1Write(h.groupName, 297, 32);
  octal(h.devMajor, 329, 8);
  octal(h.devMinor, 337, 8);
  block.latin1Write(h.prefix, 345, 155);
  octal(checksums(block).unsigned, 148, 7);
  block[155] = 0x20;
  return block;
}
