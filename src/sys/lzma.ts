/**
 * Streaming xz and lzma decoding through liblzma.so.5 (lzma/base.h, lzma/container.h). The work of each call runs in koffi's thread pool, so the event
 * loop goes on. The library is loaded when first used. liblzma checks its input and keeps to the memory limit; the caller bounds the output.
 */
import koffi, { type KoffiFunc } from 'koffi';

/** lzma_ret, as far as a decoder gives it. */
export const LZMA = {
  OK: 0,
  STREAM_END: 1,
  MEM_ERROR: 5,
  MEMLIMIT_ERROR: 6,
  FORMAT_ERROR: 7,
  OPTIONS_ERROR: 8,
  DATA_ERROR: 9,
  BUF_ERROR: 10,
} as const;

const LZMA_RUN = 0;
const LZMA_FINISH = 3;
const LZMA_CONCATENATED = 0x08;

/** struct lzma_stream on 64-bit machines: 136 bytes; next_in, avail_in, total_in, next_out, avail_out, total_out, ... */
const STREAM_BYTES = 136;
const NEXT_IN = 0;
const AVAIL_IN = 8;
const NEXT_OUT = 24;
const AVAIL_OUT = 32;

interface Liblzma {
  streamDecoder: (stream: Buffer, memoryLimit: bigint, flags: number) => number;
  aloneDecoder: (stream: Buffer, memoryLimit: bigint) => number;
  code: KoffiFunc<(stream: Buffer, action: number) => number>;
  end: (stream: Buffer) => void;
}

let loaded: Liblzma | undefined;

function liblzma(): Liblzma {
  if (loaded === undefined) {
    const lib = koffi.load('liblzma.so.5');
    loaded = {
      streamDecoder: lib.func('int lzma_stream_decoder(void *strm, uint64_t memlimit, uint32_t flags)'),
      aloneDecoder: lib.func('int lzma_alone_decoder(void *strm, uint64_t memlimit)'),
      code: lib.func('int lzma_code(void *strm, int action)') as Liblzma['code'],
      end: lib.func('void lzma_end(void *strm)'),
    };
  }
  return loaded;
}

export interface LzmaStep {
  /** One of LZMA. */
  status: number;
  /** Bytes taken from the input and put into the output. */
  consumed: number;
  produced: number;
}

export interface LzmaDecoder {
  /** Decodes from `input` into `output` until one of them is used up. `finish`: no input comes after this. One call at a time. */
  code(input: Uint8Array, output: Uint8Array, finish: boolean): Promise<LzmaStep>;
  /** Frees the decoder's memory. Not while a call runs. */
  close(): void;
}

/** Opens a decoder for `.xz` (concatenated streams too) or the older `.lzma`. Throws an Error when liblzma is missing or refuses. */
export function openLzmaDecoder(options: { format: 'xz' | 'lzma'; memoryLimitBytes: number }): LzmaDecoder {
  const lib = liblzma();
  const stream = Buffer.alloc(STREAM_BYTES);
  const limit = BigInt(options.memoryLimitBytes);
  const status =
    options.format === 'xz'
      ? lib.streamDecoder(stream, limit, LZMA_CONCATENATED)
      : lib.aloneDecoder(stream, limit);
  if (status !== LZMA.OK) throw new Error(`liblzma refuses to start a decoder (status ${status})`);
  let open = true;
  return {
    code(input, output, finish) {
      stream.writeBigUInt64LE(input.length === 0 ? 0n : koffi.address(input), NEXT_IN);
      stream.writeBigUInt64LE(BigInt(input.length), AVAIL_IN);
      stream.writeBigUInt64LE(koffi.address(output), NEXT_OUT);
      stream.writeBigUInt64LE(BigInt(output.length), AVAIL_OUT);
      return new Promise((resolve, reject) => {
        lib.code.async(stream, finish ? LZMA_FINISH : LZMA_RUN, (error: Error | null, result: number) => {
          if (error) return reject(error);
          // input and output are used here, so that they live as long as the call.
          resolve({
            status: result,
            consumed: input.length - Number(stream.readBigUInt64LE(AVAIL_IN)),
            produced: output.length - Number(stream.readBigUInt64LE(AVAIL_OUT)),
          });
        });
      });
    },
    close() {
      if (open) lib.end(stream);
      open = false;
    },
  };
}
