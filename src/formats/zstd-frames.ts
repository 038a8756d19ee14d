/**
 * Finds where each zstd frame ends (RFC 8878, section 3.1), because node's decoder stops silently after the first one, and
 * what follows would be lost. Skippable frames are passed over; anything else after a frame is refused.
 */
import { FormatError } from '../base/index.ts';
import type { ByteReader } from './byte-reader.ts';

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

/** The frames of a zstd file one after the other, each as the stream of its bytes. Each must be read before the next is asked for. */
export async function* zstdFrames(reader: ByteReader): AsyncGenerator<AsyncIterable<Uint8Array>> {
  let frames = 0;
  while (frames === 0 || !(await reader.atEnd())) {
    const start = reader.offset;
    const magic = await reader.read(4, 'a zstd frame header');
    const number = magic.readUInt32LE(0);
    if (number >>> 4 === SKIPPABLE_MAGIC >>> 4) {
      const size = (await reader.read(4, 'a zstd frame header')).readUInt32LE(0);
      await reader.skip(size, 'a skippable zstd frame');
    } else if (number === FRAME_MAGIC) {
      frames++;
      yield frame(reader, magic);
    } else throw new FormatError(reader.format, start, 'garbage after the zstd data');
  }
}

async function* frame(reader: ByteReader, magic: Buffer): AsyncGenerator<Uint8Array> {
  yield magic;
  const descriptor = await reader.read(1, 'a zstd frame header');
  yield descriptor;
  const flags = descriptor[0]!;
  const singleSegment = (flags & 0x20) !== 0;
  const hasChecksum = (flags & 0x04) !== 0;
  const contentSizeBytes = flags >> 6 === 0 ? (singleSegment ? 1 : 0) : CONTENT_SIZE_BYTES[flags >> 6]!;
  const rest = (singleSegment ? 0 : 1) + DICTIONARY_ID_BYTES[flags & 3]! + contentSizeBytes;
  if (rest > 0) yield await reader.read(rest, 'a zstd frame header');
  for (let last = false; !last; ) {
    const header = await reader.read(3, 'a zstd block header');
    yield header;
    const bits = header.readUIntLE(0, 3);
    last = (bits & 1) === 1;
    const type = (bits >> 1) & 3;
    if (type === RESERVED_BLOCK) throw new FormatError(reader.format, reader.offset - 3, 'a bad zstd block');
    for (let left = type === RLE_BLOCK ? 1 : bits >> 3; left > 0; ) {
      const piece = await reader.readSome(left, 'a zstd block');
      left -= piece.length;
      yield piece;
    }
  }
  if (hasChecksum) yield await reader.read(4, 'a zstd checksum');
}
