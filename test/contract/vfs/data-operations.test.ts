/**
 * Random operations on the data of files through the mount, beside an array of bytes: read, write, append, truncate, mmap, fallocate, punch,
 * zero, copy_file_range, reopen. Every file exists in a layer (a small one, a large one, one with two names) or is private.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../../src/base/random-runs.test-support.ts';
import { openWorkshop } from './places.ts';

const { strata, at, remove } = openWorkshop();
const SEQUENCES = randomRuns(40);
const RUNS = SEQUENCES.numRuns;
const MOST = 700_000;
const SIZES = { small: 30_000, large: 400_000, linked: 200_000 };

interface Request {
  kind: string;
  [field: string]: unknown;
}

let helper: ChildProcess;
let answers: Interface;

async function ask(request: Request): Promise<Buffer> {
  const answer = once(answers, 'line');
  helper.stdin!.write(`${JSON.stringify(request)}\n`);
  const { data, error } = JSON.parse(String((await answer)[0]));
  assert.equal(error, undefined, `${request.kind}: ${error}`);
  return Buffer.from(data, 'base64');
}

before(async () => {
  for (const name of ['tree', 'mnt']) fs.mkdirSync(at(name));
  for (let i = 0; i < RUNS; i++) {
    fs.mkdirSync(at(`tree/${i}`));
    for (const [name, size] of Object.entries(SIZES))
      fs.writeFileSync(at(`tree/${i}/${name}`), bytes(size, size));
    fs.linkSync(at(`tree/${i}/linked`), at(`tree/${i}/second`));
  }
  await strata.json('repo', 'add', 'local', at('units'));
  await strata.json('layer', 'build', at('tree'), '--repo', 'local', '--name', 'l', '--version', '1');
  await strata.json('template', 'create', 't', 'l');
  await strata.json('create', 'a', '--template', 't');
  await strata.json('mount', 'a', at('mnt'));
  helper = spawn('python3', ['-I', '-S', join(import.meta.dirname, 'data-operations.py')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  answers = createInterface({ input: helper.stdout! });
});
after(async () => {
  helper?.kill('SIGKILL');
  await remove();
});

/** Bytes that tell their place, so that a shifted or stale page shows. */
function bytes(seed: number, length: number): Buffer {
  const made = Buffer.alloc(length);
  for (let i = 0; i < length; i++) made[i] = 1 + ((seed * 31 + i + (i >> 9)) % 255);
  return made;
}

/** The files by the names they are opened by; both names of the linked one are one content. */
type Contents = Map<string, { bytes: Buffer }>;

function grown(content: { bytes: Buffer }, size: number): void {
  if (content.bytes.length < size)
    content.bytes = Buffer.concat([content.bytes, Buffer.alloc(size - content.bytes.length)]);
}

function put(content: { bytes: Buffer }, at: number, data: Buffer): void {
  grown(content, at + data.length);
  content.bytes = Buffer.from(content.bytes);
  data.copy(content.bytes, at);
}

const FILES = ['small', 'large', 'linked', 'second', 'new'];
const file = fc.constantFrom(...FILES);
const offset = fc.oneof(
  fc.integer({ min: 0, max: 5000 }),
  fc.integer({ min: 0, max: MOST - 100_000 }),
  fc.constantFrom(4096, 131_072),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 5000 }),
  fc.integer({ min: 1, max: 100_000 }),
  fc.constant(4096),
);

const operation = fc.oneof(
  ...[
    'read',
    'write',
    'mapread',
    'mapwrite',
    'punch',
    'zero',
    'allocate',
    'append',
    'truncate',
    'truncatepath',
  ].map((kind) =>
    fc.record({
      kind: fc.constant(kind),
      file,
      at: offset,
      length,
      flag: fc.boolean(),
      file2: file,
      to: offset,
    }),
  ),
  ...['copy', 'reopen', 'readpath', 'fsync'].map((kind) =>
    fc.record({
      kind: fc.constant(kind),
      file,
      at: offset,
      length,
      flag: fc.boolean(),
      file2: file,
      to: offset,
    }),
  ),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

const open = new Map<string, boolean>();

/** Does one operation on the mount and on the bytes, and compares what it read. */
async function step(dir: string, contents: Contents, op: Operation, seed: number): Promise<void> {
  const { file: name, at: start } = op;
  const path = `${dir}/${name}`;
  const content = contents.get(name)!;
  if (!open.has(name)) {
    await ask({ kind: 'open', fd: name, path });
    open.set(name, false);
  }
  const data = bytes(seed, op.length);
  const sent = data.toString('base64');
  const end = start + op.length;
  switch (op.kind) {
    case 'read':
    case 'mapread':
      assert.ok(
        (await ask({ kind: op.kind, fd: name, at: start, length: op.length })).equals(
          content.bytes.subarray(start, end),
        ),
      );
      break;
    case 'readpath':
      assert.ok((await ask({ kind: 'readpath', path })).equals(content.bytes));
      break;
    case 'write':
      await ask({ kind: 'write', fd: name, at: start, data: sent });
      // A descriptor for appending writes to the end, whatever the offset (Linux).
      put(content, open.get(name) ? content.bytes.length : start, data);
      break;
    case 'mapwrite':
      if (content.bytes.length < end) {
        await ask({ kind: 'truncate', fd: name, length: end });
        grown(content, end);
      }
      await ask({ kind: 'mapwrite', fd: name, at: start, data: sent, sync: op.flag });
      put(content, start, data);
      break;
    case 'append':
      if (!open.get(name)) await ask({ kind: 'open', fd: name, path, append: true });
      open.set(name, true);
      if (content.bytes.length + data.length > MOST) break;
      await ask({ kind: 'append', fd: name, data: sent });
      put(content, content.bytes.length, data);
      break;
    case 'truncate':
    case 'truncatepath':
      await ask(
        op.kind === 'truncate'
          ? { kind: 'truncate', fd: name, length: start }
          : { kind: op.kind, path, length: start },
      );
      grown(content, start);
      content.bytes = content.bytes.subarray(0, start);
      break;
    case 'punch':
      await ask({ kind: 'punch', fd: name, at: start, length: op.length });
      content.bytes = Buffer.from(content.bytes).fill(
        0,
        Math.min(start, content.bytes.length),
        Math.min(end, content.bytes.length),
      );
      break;
    case 'zero':
      await ask({ kind: 'zero', fd: name, at: start, length: op.length, keep: op.flag });
      if (!op.flag) grown(content, end);
      content.bytes = Buffer.from(content.bytes).fill(
        0,
        Math.min(start, content.bytes.length),
        Math.min(end, content.bytes.length),
      );
      break;
    case 'allocate':
      await ask({ kind: 'allocate', fd: name, at: start, length: op.length });
      grown(content, end);
      break;
    case 'copy':
      await copy(dir, contents, op);
      break;
    case 'reopen':
      await ask({ kind: 'open', fd: name, path, truncate: op.flag && op.length % 4 === 0 });
      open.set(name, false);
      if (op.flag && op.length % 4 === 0) content.bytes = Buffer.alloc(0);
      break;
    default:
      await ask({ kind: 'fsync', fd: name });
  }
  assert.equal(Number((await ask({ kind: 'size', fd: name })).toString()), content.bytes.length, 'size');
}

async function copy(dir: string, contents: Contents, op: Operation): Promise<void> {
  const target = contents.get(op.file2)!;
  const source = contents.get(op.file)!;
  const data = Buffer.from(source.bytes.subarray(op.at, op.at + op.length));
  const overlap = target === source && op.to < op.at + op.length && op.at < op.to + op.length;
  if (overlap) return;
  if (open.get(op.file2) !== false) await ask({ kind: 'open', fd: op.file2, path: `${dir}/${op.file2}` });
  open.set(op.file2, false);
  await ask({ kind: 'copy', fd: op.file, at: op.at, length: data.length, target: op.file2, to: op.to });
  if (data.length > 0) put(target, op.to, data);
}

test('random data operations give the bytes they give in memory', async () => {
  let run = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 10, maxLength: 60 }), async (operations) => {
      const dir = at(`mnt/${run % RUNS}`);
      // After all directories were used (when it shrinks a failure) they are made new from outside.
      if (run >= RUNS) await strata.json('revert', 'a', `/${run % RUNS}`);
      run++;
      fs.writeFileSync(`${dir}/new`, '');
      const linked = { bytes: bytes(SIZES.linked, SIZES.linked) };
      const contents: Contents = new Map([
        ['small', { bytes: bytes(SIZES.small, SIZES.small) }],
        ['large', { bytes: bytes(SIZES.large, SIZES.large) }],
        ['linked', linked],
        ['second', linked],
        ['new', { bytes: Buffer.alloc(0) }],
      ]);
      open.clear();
      try {
        for (const [i, op] of operations.entries()) await step(dir, contents, op, run * 100 + i);
      } finally {
        await ask({ kind: 'close' });
      }
      for (const [name, { bytes: expected }] of contents) {
        assert.ok(fs.readFileSync(`${dir}/${name}`).equals(expected), `${name} after the close`);
      }
    }),
    { ...SEQUENCES, endOnFailure: false },
  );
});
