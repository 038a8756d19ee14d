/**
 * fsx: one file, random writes, reads, truncations, holes, mapped reads and writes, copies within the file, fsync and reopening, each compared with a
 * model in memory. `node fsx.ts FILE SEED MILLISECONDS`; prints the number of operations. Any difference is an error on stderr and status 1.
 */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import * as sys from '../../src/sys/index.ts';

const [file, seed, ms] = process.argv.slice(2) as [string, string, string];
const MOST_BYTES = 256 * 1024;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

let state = Number(seed) >>> 0 || 1;
/** xorshift32: the same seed, the same operations. */
function random(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  state >>>= 0;
  return state % below;
}

let fd = openSync(file, 'w+');
let model = Buffer.alloc(0);
let count = 0;

function done(what: string, result: number, expected = 0): void {
  assert.equal(
    result,
    expected,
    `operation ${count}, ${what}: ${result < 0 ? sys.errnoName(result) : result}`,
  );
}

function resize(size: number): void {
  const next = Buffer.alloc(size);
  model.copy(next);
  model = next;
}

/** A range within the file, or null when it is empty. */
function range(): { at: number; length: number } | null {
  if (model.length === 0) return null;
  const at = random(model.length);
  return { at, length: 1 + random(Math.min(model.length - at, 40_000)) };
}

const operations: (() => void)[] = [
  function write() {
    const at = random(MOST_BYTES - 50_000);
    const data = Buffer.alloc(1 + random(50_000), `${count}:`);
    if (at + data.length > model.length) resize(at + data.length);
    assert.equal(writeSync(fd, data, 0, data.length, at), data.length);
    data.copy(model, at);
  },
  function read() {
    const part = range();
    if (part === null) return;
    const got = Buffer.alloc(part.length);
    assert.equal(readSync(fd, got, 0, part.length, part.at), part.length);
    assert.ok(
      got.equals(model.subarray(part.at, part.at + part.length)),
      `operation ${count}, read at ${part.at}`,
    );
  },
  function truncate() {
    const size = random(MOST_BYTES);
    ftruncateSync(fd, size);
    resize(size);
  },
  function punch() {
    const part = range();
    if (part === null) return;
    const mode = random(2) === 0 ? PUNCH_HOLE | KEEP_SIZE : ZERO_RANGE | KEEP_SIZE;
    done('fallocate', sys.fallocate(fd, mode, part.at, part.length));
    model.fill(0, part.at, part.at + part.length);
  },
  function allocate() {
    const at = random(MOST_BYTES - 10_000);
    done('fallocate', sys.fallocate(fd, 0, at, 10_000));
    if (at + 10_000 > model.length) resize(at + 10_000);
  },
  function map() {
    const part = range();
    if (part === null) return;
    const mapped = sys.mapShared(fd, model.length);
    assert.ok(typeof mapped !== 'number', 'mmap');
    const bytes = Buffer.from(mapped, part.at, part.length);
    assert.ok(
      bytes.equals(model.subarray(part.at, part.at + part.length)),
      `operation ${count}, mapped at ${part.at}`,
    );
    bytes.fill(`m${count}`);
    bytes.copy(model, part.at);
  },
  function copy() {
    const part = range();
    if (part === null || part.at + 2 * part.length > model.length) return;
    const to = part.at + part.length;
    for (let moved = 0; moved < part.length; ) {
      const n = sys.copyFileRange(fd, part.at + moved, fd, to + moved, part.length - moved);
      assert.ok(n > 0, `operation ${count}, copy_file_range: ${n}`);
      moved += n;
    }
    model.copyWithin(to, part.at, part.at + part.length);
  },
  function sync() {
    fsyncSync(fd);
  },
  function reopen() {
    closeSync(fd);
    fd = openSync(file, 'r+');
  },
];

const until = Date.now() + Number(ms);
while (Date.now() < until) {
  count++;
  operations[random(operations.length)]!();
  assert.equal(fstatSync(fd).size, model.length, `operation ${count}, size`);
}
closeSync(fd);
fd = openSync(file, 'r');
const whole = Buffer.alloc(model.length + 1);
assert.equal(readSync(fd, whole, 0, whole.length, 0), model.length);
assert.ok(whole.subarray(0, -1).equals(model), 'the whole file at the end');
console.log(count);
