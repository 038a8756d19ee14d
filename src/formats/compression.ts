/**
 * Streaming decoders for gzip, xz, lzma and zstd, chosen by the magic number (or told). Whatever the input, memory is bounded: chunks
 * of 256 KiB and the decoder's window. An expansion bomb ends with code LIMIT; damaged or truncated input with FormatError.
 */
import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { FormatError, LIMITS, StrataError } from '../base/index.ts';
import { LZMA, openLzmaDecoder } from '../sys/index.ts';
import { ByteReader } from './byte-reader.ts';
import { zstdFrames } from './zstd-frames.ts';

export type Compression = 'none' | 'gz' | 'xz' | 'zst' | 'lzma';

export interface DecompressOptions {
  /** Default: by the magic number; no known magic is 'none'. */
  compression?: Compression;
  /** Named in errors. */
  format?: string;
  /** Most bytes that may come out; more is LIMIT. */
  maxBytes?: number;
}

const CHUNK_BYTES = 256 * 1024;
/** Below this much output the ratio does not count. */
const FREE_BYTES = 64 * 2 ** 20;
/** xz -9 needs 65 MiB; larger dictionaries than 192 MiB do not occur in packages. */
const LZMA_MEMORY_BYTES = 256 * 2 ** 20;

/** The compression that a file's first bytes (6 suffice) say; 'bz2' is only recognised to be refused. */
export function detectCompression(head: Uint8Array): Compression | 'bz2' {
  const is = (...magic: number[]): boolean =>
    head.length >= magic.length && magic.every((b, i) => head[i] === b);
  if (is(0x1f, 0x8b)) return 'gz';
  if (is(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return 'xz';
  if (is(0x28, 0xb5, 0x2f, 0xfd)) return 'zst';
  if (is(0x42, 0x5a, 0x68)) return 'bz2';
  if (is(0x5d, 0x00, 0x00)) return 'lzma';
  return 'none';
}

/** The decompressed bytes of `source`. Chunks are fresh and may be kept. */
export async function* decompress(
  source: AsyncIterable<Uint8Array>,
  options: DecompressOptions = {},
): AsyncGenerator<Uint8Array> {
  const format = options.format ?? 'archive';
  const reader = new ByteReader(source, format);
  try {
    const head = await reader.readUpTo(6);
    const found = detectCompression(head);
    const kind = options.compression ?? found;
    if (kind === 'bz2') {
      throw new StrataError('UNSUPPORTED', `${format}: bzip2 is not supported`, {
        hint: 'pack it again with gzip, xz or zstd',
      });
    }
    if (kind !== 'none' && kind !== found) throw new FormatError(format, 0, `this is no ${kind} data`);
    const counted = { bytes: 0 };
    const input = countInput(head, reader, counted);
    const maxBytes = options.maxBytes ?? LIMITS.layerBytes;
    let total = 0;
    for await (const piece of decoder(kind, input, format, counted)) {
      total += piece.length;
      if (total > maxBytes)
        throw new StrataError('LIMIT', `${format}: it unpacks to more than ${maxBytes} bytes`);
      if (kind !== 'none' && total > FREE_BYTES && total > counted.bytes * LIMITS.expansionRatio) {
        throw new StrataError(
          'LIMIT',
          `${format}: it grows more than ${LIMITS.expansionRatio} times when unpacked (${total} bytes of ${counted.bytes})`,
          { hint: 'this looks like a decompression bomb' },
        );
      }
      yield piece;
    }
  } finally {
    await reader.close();
  }
}

async function* countInput(
  head: Buffer,
  reader: ByteReader,
  counted: { bytes: number },
): AsyncGenerator<Uint8Array> {
  if (head.length > 0) {
    counted.bytes += head.length;
    yield head;
  }
  while (!(await reader.atEnd())) {
    const piece = await reader.readSome(CHUNK_BYTES, 'the data');
    counted.bytes += piece.length;
    yield piece;
  }
}

function decoder(
  kind: Compression,
  input: AsyncIterable<Uint8Array>,
  format: string,
  counted: { bytes: number },
): AsyncIterable<Uint8Array> {
  switch (kind) {
    case 'none':
      return input;
    case 'gz':
      return throughZlib(createGunzip({ chunkSize: CHUNK_BYTES }), input, format, counted);
    case 'zst':
      return throughZstd(input, format, counted);
    case 'xz':
    case 'lzma':
      return throughLzma(kind, input, format, counted);
  }
}

async function* throughZlib(
  transform: Transform,
  input: AsyncIterable<Uint8Array>,
  format: string,
  counted: { bytes: number },
): AsyncGenerator<Uint8Array> {
  // pipeline destroys both when one fails; the error comes out of the iteration below.
  pipeline(Readable.from(input, { objectMode: false, highWaterMark: CHUNK_BYTES }), transform, () => {});
  try {
    yield* transform as AsyncIterable<Uint8Array>;
  } catch (error) {
    const code = String((error as NodeJS.ErrnoException).code ?? '');
    if (/^(Z_|ZSTD_)/.test(code)) {
      throw new FormatError(
        format,
        counted.bytes,
        `damaged or truncated data (${(error as Error).message})`,
        {
          hint: 'get the file again',
          cause: error,
        },
      );
    }
    throw error;
  }
}

async function* throughZstd(
  input: AsyncIterable<Uint8Array>,
  format: string,
  counted: { bytes: number },
): AsyncGenerator<Uint8Array> {
  for await (const frame of zstdFrames(new ByteReader(input, format)))
    yield* throughZlib(createZstdDecompress({ chunkSize: CHUNK_BYTES }), frame, format, counted);
}

const LZMA_PROBLEMS: Record<number, string> = {
  [LZMA.MEM_ERROR]: 'there is not enough memory to unpack it',
  [LZMA.MEMLIMIT_ERROR]: `unpacking it needs more than ${LZMA_MEMORY_BYTES / 2 ** 20} MiB of memory`,
  [LZMA.FORMAT_ERROR]: 'damaged data (not xz)',
  [LZMA.OPTIONS_ERROR]: 'xz options that are not supported',
  [LZMA.DATA_ERROR]: 'damaged data (a checksum or code is wrong)',
  [LZMA.BUF_ERROR]: 'the data is truncated',
};

async function* throughLzma(
  kind: 'xz' | 'lzma',
  input: AsyncIterable<Uint8Array>,
  format: string,
  counted: { bytes: number },
): AsyncGenerator<Uint8Array> {
  const lzma = openLzmaDecoder({ format: kind, memoryLimitBytes: LZMA_MEMORY_BYTES });
  let ended = false;

  /** Decodes one piece of input wholly. */
  async function* run(piece: Uint8Array, finish: boolean): AsyncGenerator<Uint8Array> {
    let pos = 0;
    while (!ended) {
      const output = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      const { status, consumed, produced } = await lzma.code(piece.subarray(pos), output, finish);
      pos += consumed;
      if (produced > 0) yield output.subarray(0, produced);
      if (status === LZMA.STREAM_END) ended = true;
      else if (status === LZMA.MEM_ERROR || status === LZMA.MEMLIMIT_ERROR)
        throw new StrataError('LIMIT', `${format}: ${LZMA_PROBLEMS[status]}`);
      else if (status !== LZMA.OK && (finish || status !== LZMA.BUF_ERROR))
        throw new FormatError(format, counted.bytes, LZMA_PROBLEMS[status] ?? `liblzma status ${status}`, {
          hint: 'get the file again',
        });
      else if (!finish && pos >= piece.length && produced < CHUNK_BYTES) return;
    }
    if (pos < piece.length) throw new FormatError(format, counted.bytes, `garbage after the ${kind} data`);
  }

  try {
    for await (const piece of input) yield* run(piece, false);
    yield* run(Buffer.alloc(0), true);
  } finally {
    lzma.close();
  }
}
