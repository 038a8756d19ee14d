/**
 * PAX extended headers (POSIX 1003.1 pax, GNU tar's and libarchive's vendor keys) <-> records. Keys and values are latin1: raw bytes.
 * Lengths are checked before use; the sum of all extended attributes is bounded.
 */
import { FormatError, LIMITS, type Name, StrataError } from '../base/index.ts';
import type { SparseExtent } from './tar-header.ts';

/** Bytes of one extended header; xattrs, a path, a link path and a sparse map fit. */
export const PAX_MAX_BYTES = 16 * 2 ** 20;
/** Extents of one sparse file. */
export const SPARSE_MAX_EXTENTS = 1_000_000;

/** What extended headers say. Later records win; an empty value takes a key back, as POSIX says. */
export interface PaxFields {
  values: Map<string, string>;
  xattrs: Map<Name, Uint8Array>;
  /** GNU sparse 0.0: repeated offset and numbytes keys, in order. */
  sparse00: SparseExtent[];
}

export function emptyPax(): PaxFields {
  return { values: new Map(), xattrs: new Map(), sparse00: [] };
}

const SCHILY_XATTR = 'SCHILY.xattr.';
const LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.';

/** A decimal number of bytes or ids from a PAX value. */
export function paxInteger(value: string, format: string, offset: number, key: string): number {
  const number = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(number)) throw new FormatError(format, offset, `a bad value of ${key}`);
  return number;
}

/** `1234.5` or `-0.25` as whole seconds (rounded down) and nanoseconds 0..999999999. */
export function paxTime(value: string, format: string, offset: number): { sec: number; nsec: number } {
  const m = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(value);
  if (m === null) throw new FormatError(format, offset, 'a bad time');
  const nsec = Number((m[3] ?? '').slice(0, 9).padEnd(9, '0'));
  const sec = Number(m[2]);
  if (m[1] === '') return { sec, nsec };
  return nsec === 0 ? { sec: sec === 0 ? 0 : -sec, nsec: 0 } : { sec: -sec - 1, nsec: 1e9 - nsec };
}

function addXattr(fields: PaxFields, name: string, value: Uint8Array, format: string, offset: number): void {
  if (name === '' || name.length > LIMITS.nameBytes || name.includes('\0'))
    throw new FormatError(format, offset, 'a bad name of an extended attribute');
  fields.xattrs.set(name as Name, value);
  let total = 0;
  for (const [key, bytes] of fields.xattrs) total += key.length + bytes.length;
  if (value.length > LIMITS.xattrValueBytes || total > LIMITS.xattrTotalBytes)
    throw new StrataError('LIMIT', `${format}: extended attributes too large (at byte ${offset})`);
}

/** libarchive writes attribute names with %XX for what is not plain. */
function percentDecoded(name: string): string {
  return name.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}

/** Adds the records of one extended header's data to `fields`. `offset` is where the data begins in the archive. */
export function parsePax(data: Buffer, fields: PaxFields, format: string, offset: number): void {
  const schily = new Set<string>();
  let openOffset: number | undefined;
  for (let pos = 0; pos < data.length; ) {
    const space = data.indexOf(0x20, pos);
    const digits = space === -1 || space - pos > 8 ? '' : data.latin1Slice(pos, space);
    const length = /^[1-9]\d*$/.test(digits) ? Number(digits) : 0;
    const end = pos + length;
    if (length < digits.length + 3 || end > data.length || data[end - 1] !== 0x0a)
      throw new FormatError(format, offset + pos, 'a damaged extended header record');
    const equals = data.indexOf(0x3d, space + 1);
    if (equals === -1 || equals >= end) throw new FormatError(format, offset + pos, 'a record without =');
    const key = data.latin1Slice(space + 1, equals);
    const value = data.subarray(equals + 1, end - 1);
    if (key.startsWith(SCHILY_XATTR)) {
      const name = key.slice(SCHILY_XATTR.length);
      schily.add(name);
      addXattr(fields, name, Uint8Array.from(value), format, offset + pos);
    } else if (key.startsWith(LIBARCHIVE_XATTR)) {
      const name = percentDecoded(key.slice(LIBARCHIVE_XATTR.length));
      const bytes = Uint8Array.from(Buffer.from(value.latin1Slice(), 'base64'));
      if (!schily.has(name)) addXattr(fields, name, bytes, format, offset + pos);
    } else if (key === 'GNU.sparse.offset') {
      openOffset = paxInteger(value.latin1Slice(), format, offset + pos, key);
    } else if (key === 'GNU.sparse.numbytes') {
      if (openOffset === undefined || fields.sparse00.length >= SPARSE_MAX_EXTENTS)
        throw new FormatError(format, offset + pos, 'a bad sparse map');
      const extent = paxInteger(value.latin1Slice(), format, offset + pos, key);
      fields.sparse00.push({ offset: openOffset, length: extent });
      openOffset = undefined;
    } else if (value.length === 0) fields.values.delete(key);
    else fields.values.set(key, value.latin1Slice());
    pos = end;
  }
  if (openOffset !== undefined) throw new FormatError(format, offset, 'a bad sparse map');
}

/** One `LENGTH KEY=VALUE\n` record. */
export function formatPaxRecord(key: string, value: string | Uint8Array): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'latin1') : value;
  const body = key.length + bytes.length + 3;
  let length = body + String(body).length;
  if (String(length).length !== String(body).length) length = body + String(length).length;
  return Buffer.concat([Buffer.from(`${length} ${key}=`, 'latin1'), bytes, Buffer.from('\n')]);
}
