/**
 * The sparse maps of GNU tar in all their forms: old GNU (records in header blocks), PAX 0.0 and 0.1 (in extended headers), PAX 1.0 (before the
 * data). Every map is checked against the file's and the stored size before it is used.
 */
import { FormatError, StrataError } from '../base/index.ts';
import type { ByteReader } from './byte-reader.ts';
import { BLOCK_BYTES, gnuSparseRecords, type SparseExtent, tarNumber } from './tar-header.ts';
import { paxInteger, SPARSE_MAX_EXTENTS } from './tar-pax.ts';

/** The map of GNU sparse 0.1: `offset,length,offset,length`. */
export function parseSparseMap(value: string, format: string, offset: number): SparseExtent[] {
  const numbers = value.split(',');
  if (numbers.length % 2 !== 0 || numbers.length / 2 > SPARSE_MAX_EXTENTS)
    throw new FormatError(format, offset, 'a bad sparse map');
  const extents: SparseExtent[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    extents.push({
      offset: paxInteger(numbers[i]!, format, offset, 'GNU.sparse.map'),
      length: paxInteger(numbers[i + 1]!, format, offset, 'GNU.sparse.map'),
    });
  }
  return extents;
}

/** Checks that extents rise, do not overlap, lie in the file and are together exactly the stored bytes; drops empty ones. */
export function checkSparse(
  extents: SparseExtent[],
  realBytes: number,
  storedBytes: number,
  format: string,
  offset: number,
): SparseExtent[] {
  let end = 0;
  let stored = 0;
  for (const extent of extents) {
    if (extent.offset < end || extent.offset + extent.length > realBytes)
      throw new FormatError(format, offset, 'a sparse map out of order or beyond the file');
    end = extent.offset + extent.length;
    stored += extent.length;
  }
  if (stored !== storedBytes)
    throw new FormatError(format, offset, 'a sparse map that does not fit the stored size');
  return extents.filter((extent) => extent.length > 0);
}

/** The map of an old-GNU sparse file: four records in the header, then blocks of 21 records. */
export async function gnuSparse(
  reader: ByteReader,
  block: Buffer,
  storedBytes: number,
  at: { format: string; offset: number },
): Promise<{ realBytes: number; extents: SparseExtent[] }> {
  const extents = gnuSparseRecords(block, 386, 4, at);
  const realBytes = tarNumber(block, 483, 12, at, 'size');
  for (let extended = block[482] !== 0; extended; ) {
    const offset = reader.offset;
    const next = await reader.read(BLOCK_BYTES, 'a sparse map');
    extents.push(...gnuSparseRecords(next, 0, 21, { format: at.format, offset }));
    if (extents.length > SPARSE_MAX_EXTENTS)
      throw new StrataError('LIMIT', `${at.format}: a sparse map of more than ${SPARSE_MAX_EXTENTS} extents`);
    extended = next[504] !== 0;
  }
  return { realBytes, extents: checkSparse(extents, realBytes, storedBytes, at.format, at.offset) };
}

/** The map of GNU sparse 1.0: decimal lines before the data (count, then offset and length of each), padded to a block. */
export async function sparseMapInData(
  reader: ByteReader,
  tapeBytes: number,
  at: { format: string; offset: number },
): Promise<{ mapBytes: number; extents: SparseExtent[] }> {
  const refuse = (): never => {
    throw new FormatError(at.format, at.offset, 'a bad sparse map');
  };
  const numbers: number[] = [];
  let wanted = 1;
  let mapBytes = 0;
  let value = 0;
  let digits = 0;
  while (numbers.length < wanted) {
    mapBytes += BLOCK_BYTES;
    if (mapBytes > tapeBytes) refuse();
    const block = await reader.read(BLOCK_BYTES, 'a sparse map');
    for (let i = 0; i < BLOCK_BYTES && numbers.length < wanted; i++) {
      const c = block[i]!;
      if (c >= 0x30 && c <= 0x39 && digits < 16) {
        value = value * 10 + (c - 0x30);
        digits++;
        continue;
      }
      if (c !== 0x0a || digits === 0 || !Number.isSafeInteger(value)) refuse();
      if (numbers.length === 0) {
        if (value > SPARSE_MAX_EXTENTS) refuse();
        wanted = 1 + 2 * value;
      }
      numbers.push(value);
      value = 0;
      digits = 0;
    }
  }
  const extents: SparseExtent[] = [];
  for (let i = 1; i < numbers.length; i += 2) extents.push({ offset: numbers[i]!, length: numbers[i + 1]! });
  return { mapBytes, extents };
}
