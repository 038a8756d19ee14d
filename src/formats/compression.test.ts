/** The decoders against the field's compressors: whole, concatenated, truncated anywhere, damaged, bombs, memory. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { FormatError, StrataError } from '../base/index.ts';
import { until } from '../base/until.test-support.ts';
import { type Compression, decompress, detectCompression } from './compression.ts';
import { readWhole, stream } from './test-support.ts';

const COMMANDS: Record<Exclude<Compression, 'none'>, string[]> = {
  gz: ['gzip', '-c'],
  xz: ['xz', '-c'],
  zst: ['zstd', '-q', '-c'],
  lzma: ['xz', '--format=lzma', '-c'],
};
const KINDS = Object.keys(COMMANDS) as (keyof typeof COMMANDS)[];

function compress(kind: keyof typeof COMMANDS, bytes: Buffer, ...more: string[]): Buffer {
  const [command, ...args] = COMMANDS[kind];
  return execFileSync(command!, [...args, ...more], { input: bytes, maxBuffer: 2 ** 28 });
}

const SAMPLE = Buffer.concat([randomBytes(300_000), Buffer.alloc(500_000, 'layer '), randomBytes(1000)]);

test('every compression gives the bytes back, in pieces of any size', async () => {
  for (const kind of KINDS) {
    const packed = compress(kind, SAMPLE);
    assert.equal(detectCompression(packed), kind);
    for (const piece of [997, 65536, packed.length])
      assert.ok((await readWhole(decompress(stream(packed, piece)))).equals(SAMPLE), `${kind} by ${piece}`);
    assert.equal((await readWhole(decompress(stream(compress(kind, Buffer.alloc(0)), 1)))).length, 0);
  }
  assert.ok((await readWhole(decompress(stream(SAMPLE)))).equals(SAMPLE));
  assert.equal((await readWhole(decompress(stream(Buffer.alloc(0))))).length, 0);
});

test('concatenated streams are read to the end, garbage behind them is refused', async () => {
  for (const kind of ['gz', 'xz', 'zst'] as const) {
    const packed = compress(kind, SAMPLE);
    const twice = await readWhole(decompress(stream(Buffer.concat([packed, packed]), 5000)));
    assert.ok(twice.equals(Buffer.concat([SAMPLE, SAMPLE])), kind);
    const garbage = Buffer.concat([packed, Buffer.from('this is no archive')]);
    await assert.rejects(readWhole(decompress(stream(garbage))), FormatError, kind);
  }
  const skippable = Buffer.from('502a4d18030000007879', 'hex');
  const frames = Buffer.concat([compress('zst', SAMPLE), skippable, Buffer.from('z')]);
  assert.ok((await readWhole(decompress(stream(frames, 3000)))).equals(SAMPLE));
});

test('truncation at every byte is noticed', async () => {
  const small = Buffer.from('a layer is a layer is a layer, '.repeat(8));
  for (const kind of KINDS) {
    const packed = compress(kind, small);
    for (let length = 0; length < packed.length; length++) {
      const rest = packed.subarray(0, length);
      await assert.rejects(
        readWhole(decompress(stream(rest), { compression: kind })),
        FormatError,
        `${kind} cut at ${length} of ${packed.length}`,
      );
    }
  }
});

test('damage is noticed', async () => {
  for (const kind of ['gz', 'xz', 'zst'] as const) {
    const packed = compress(kind, SAMPLE, ...(kind === 'zst' ? ['--check'] : []));
    for (const place of [packed.length >> 2, packed.length >> 1, packed.length - 5]) {
      const damaged = Buffer.from(packed);
      damaged[place]! ^= 0x10;
      await assert.rejects(readWhole(decompress(stream(damaged))), StrataError, `${kind} at ${place}`);
    }
  }
});

test('bombs and too large output end with LIMIT, unsupported kinds say so', async () => {
  const zeros = Buffer.alloc(2 ** 27);
  for (const kind of ['xz', 'zst'] as const) {
    const bomb = compress(kind, zeros);
    assert.ok(zeros.length / bomb.length > 2000);
    await assert.rejects(readWhole(decompress(stream(bomb))), (e: StrataError) => e.code === 'LIMIT');
  }
  const packed = compress('gz', SAMPLE);
  await assert.rejects(
    readWhole(decompress(stream(packed), { maxBytes: SAMPLE.length - 1 })),
    (e: StrataError) => e.code === 'LIMIT',
  );
  await assert.rejects(
    readWhole(decompress(stream(Buffer.from('BZh91AY')))),
    (e: StrataError) => e.code === 'UNSUPPORTED',
  );
});

test('leaving early lets everything go', async () => {
  for (const kind of KINDS) {
    let closed = false;
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        yield* stream(compress(kind, SAMPLE), 1000);
      } finally {
        closed = true;
      }
    }
    for await (const piece of decompress(source())) {
      assert.ok(piece.length > 0);
      break;
    }
    // zlib's stream closes its source in a later tick.
    await until(`the source of ${kind} is closed`, () => closed);
  }
});
