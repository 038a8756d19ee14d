/**
 * Partial files: changes of a large shared file copy nothing but what is written, every byte is what it would be on the host's file system, also after a
 * kill, a power cut, a relayer, and while and after the file is completed.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import {
  E,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fallocate,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../sys/index.ts';
import { diffVlfs } from '../changes/diff.ts';
import type { Caller, VlfsSpec } from '../contract.ts';
import { FATTR } from '../operations/set-attributes.ts';
import { Client, runJob, type Sandbox, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';
import { BLOCK } from './block-map.ts';
import { completePrivate } from './outside.ts';

const KIB = 1024;
const ZERO_RANGE = 0x10;
const caller: Caller = { uid: 0, gid: 0, pid: 1, umask: 0o022, job: null };

/** Text whose every block differs; its length is no multiple of a block. */
function patterned(size: number, seed: string): string {
  let text = '';
  for (let i = 0; text.length < size; i++) text += `${seed} ${i} `;
  return text.slice(0, size);
}

const SIZE = 300 * KIB + 123;
const CONTENT = patterned(SIZE, 'layer');

async function withBig(box: Sandbox): Promise<VlfsSpec> {
  return box.spec('a', [await box.unit('one', '1', { 'd/big': CONTENT, 'd/other': { hard: 'd/big' } })]);
}

/** Runs what nobody waits for. */
function background(c: Client): number {
  let jobs = 0;
  for (let job = c.fs.takeBackgroundJob(); job !== null; job = c.fs.takeBackgroundJob(), jobs++) runJob(job);
  return jobs;
}

const privateFile = (spec: VlfsSpec, path: string): string => join(spec.privateDir, path);
const spaceOf = (path: string): number => fs.statSync(path).blocks * 512;

function readAll(c: Client, path: string): string {
  return c.read(path);
}

function edit(c: Client, path: string, text: string, offset: number): void {
  const handle = c.open(path, 2);
  c.writeHandle(handle, text, offset);
  c.release(handle);
}

/** Expected content after `text` was written at `offset`. */
function edited(content: string, text: string, offset: number): string {
  const before = content.padEnd(offset, '\0');
  return before.slice(0, offset) + text + before.slice(offset + text.length);
}

test(
  'a file of which attributes were changed, and that has no name any more, cannot be opened for writing beside its reader',
  sandboxed(async (box) => {
    const c = new Client(await withBig(box), { passthrough: true });
    c.chmod('d/big', 0o640);
    const reader = c.open('d/big', 0);
    for (const name of ['d/other', 'd/big']) c.unlink(name);
    assert.equal(
      c.run(() => c.fs.open(caller, reader.id, 2, { ...reader.out })),
      -E.STALE,
    );
    assert.ok(c.readHandle(reader) === CONTENT);
    c.release(reader);
    assert.deepEqual(c.faults, []);
    c.close();
  }),
);

for (const passthrough of [false, true]) {
  test(
    `attributes of a large shared file change without its data${passthrough ? ', by passthrough' : ''}`,
    sandboxed(async (box) => {
      const spec = await withBig(box);
      let c = new Client(spec, { passthrough });
      const reader = c.open('d/big', 0);
      const { ino } = c.stat('d/big');
      c.chmod('d/big', 0o640);
      c.setattr('d/big', { valid: FATTR.UID, uid: 12 });
      c.setattr('d/big', { valid: FATTR.MTIME, mtimeSec: 1000 });
      c.setxattr('d/other', 'user.note', 'x');
      const check = (): void => {
        const { mode, uid, mtimeSec, size, blocks, nlink } = c.stat('d/other');
        assert.deepEqual([mode & 0o7777, uid, mtimeSec, size, nlink], [0o640, 12, 1000, SIZE, 2]);
        assert.ok(blocks * 512 >= SIZE, 'a program that looks for sparse files finds none');
        assert.equal(c.stat('d/big').ino, ino);
        assert.ok(readAll(c, 'd/big') === CONTENT);
        assert.equal(c.getxattr('d/big', 'user.note'), 'x');
        assert.ok(spaceOf(privateFile(spec, 'd/big')) <= 16 * KIB);
      };
      check();
      assert.ok(c.readHandle(reader) === CONTENT, 'who has it open reads on');
      c.release(reader);
      c.close();
      c = new Client(spec, { passthrough });
      check();
      assert.deepEqual(
        diffVlfs(spec).map(({ path, change }) => [path, change]),
        [
          ['/d/big', 'metadata'],
          ['/d/other', 'metadata'],
        ],
      );
      c.rename('d/big', 'd/moved');
      c.link('d/moved', 'again');
      assert.ok(readAll(c, 'again') === CONTENT);
      c.fs.revert(['/d/other']);
      assert.equal(c.stat('d/other').mode & 0o7777, 0o644);
      assert.ok(readAll(c, 'd/other') === CONTENT);
      assert.deepEqual(c.faults, []);
      c.close();
    }),
  );

  test(
    `a write to a large shared file copies what it touches${passthrough ? ', by passthrough' : ''}`,
    sandboxed(async (box) => {
      const spec = await withBig(box);
      let c = new Client(spec, { passthrough });
      const old = c.open('d/big', 0);
      edit(c, 'd/big', 'changed', 100 * KIB + 5);
      const expected = edited(CONTENT, 'changed', 100 * KIB + 5);
      assert.ok(readAll(c, 'd/other') === expected);
      assert.ok(c.readHandle(old) === (passthrough ? CONTENT : expected), 'as with every copy-up');
      c.release(old);
      assert.ok(spaceOf(privateFile(spec, 'd/big')) <= 16 * KIB);
      assert.equal(diffVlfs(spec)[0]!.change, 'changed');
      c.close();
      c = new Client(spec, { passthrough });
      assert.ok(readAll(c, 'd/big') === expected);
      c.append('d/big', 'the end');
      assert.ok(readAll(c, 'd/big') === `${expected}the end`);
      c.truncate('d/big', 50_000);
      c.truncate('d/big', SIZE);
      assert.ok(readAll(c, 'd/big') === expected.slice(0, 50_000).padEnd(SIZE, '\0'), 'nothing comes back');
      c.write('d/big', 'short');
      assert.equal(readAll(c, 'd/big'), 'short');
      c.fs.revert(['/d']);
      assert.ok(readAll(c, 'd/big') === CONTENT);
      assert.deepEqual(diffVlfs(spec), []);
      assert.deepEqual(c.faults, []);
      c.close();
    }),
  );
}

test(
  'what was not synced is new or old after a power cut, what was is new; the map counts, not the holes',
  sandboxed(async (box) => {
    const spec = await withBig(box);
    let c = new Client(spec);
    const handle = c.open('d/big', 2);
    c.writeHandle(handle, 'x'.repeat(2 * BLOCK), 0);
    c.run(() => c.fs.fsync(c.caller, handle.id, handle.fh, false));
    c.writeHandle(handle, 'y'.repeat(2 * BLOCK), 10 * BLOCK);
    c.fs.fallocate(
      caller,
      handle.id,
      handle.fh,
      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
      20 * BLOCK,
      BLOCK,
    );
    // The cut: a block whose data did not reach the disk is a hole. One that was synced is empty for another reason.
    const fd = fs.openSync(privateFile(spec, 'd/big'), 'r+');
    for (const block of [1, 10])
      assert.equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block * BLOCK, BLOCK), 0);
    fs.closeSync(fd);
    const expected =
      'x'.repeat(BLOCK) +
      '\0'.repeat(BLOCK) +
      CONTENT.slice(2 * BLOCK, 11 * BLOCK) +
      'y'.repeat(BLOCK) +
      CONTENT.slice(12 * BLOCK, 20 * BLOCK) +
      '\0'.repeat(BLOCK) +
      CONTENT.slice(21 * BLOCK);
    const after = new Client(spec);
    assert.ok(readAll(after, 'd/big') === expected);
    after.close();
    c.close();
    c = new Client(spec);
    assert.ok(readAll(c, 'd/big') === expected, 'and it stays so');
    c.close();
  }),
);

test(
  'a file that is mostly its own is completed in the background, and opened by passthrough again',
  sandboxed(async (box) => {
    const spec = await withBig(box);
    const c = new Client(spec, { passthrough: true });
    edit(c, 'd/big', 'z'.repeat(180 * KIB), 10_000);
    c.setattr('d/big', { valid: FATTR.MTIME, mtimeSec: 77 });
    const expected = edited(CONTENT, 'z'.repeat(180 * KIB), 10_000);
    assert.ok(background(c) >= 2, 'a range and a sync');
    const opened = c.open('d/big', 0);
    assert.ok(opened.out.backingFd >= 0);
    c.release(opened);
    assert.ok(fs.readFileSync(privateFile(spec, 'd/big'), 'latin1') === expected);
    assert.equal(c.stat('d/big').mtimeSec, 77);
    assert.equal(background(c), 0);
    c.close();
  }),
);

test(
  'a file that cannot be completed, on a full disk, is left to the next close',
  sandboxed(async (box) => {
    const spec = await withBig(box);
    const c = new Client(spec);
    edit(c, 'd/big', 'z'.repeat(180 * KIB), 10_000);
    const job = c.fs.takeBackgroundJob();
    assert.ok(job?.kind === 'fill');
    job.done?.(-E.NOSPC);
    assert.equal(c.fs.takeBackgroundJob(), null);
    const expected = edited(edited(CONTENT, 'z'.repeat(180 * KIB), 10_000), 'y', 0);
    edit(c, 'd/big', 'y', 0);
    assert.equal(readAll(c, 'd/big'), expected);
    assert.ok(background(c) >= 2, 'a range and a sync');
    assert.equal(readAll(c, 'd/big'), expected);
    c.close();
  }),
);

test(
  'a partial file keeps its content over a relayer, and can be completed from outside',
  sandboxed(async (box) => {
    const spec = await withBig(box);
    const next = await box.unit('one', '2', { 'd/big': patterned(200 * KIB, 'newer') });
    let c = new Client(spec);
    c.chmod('d/big', 0o600);
    const held = c.open('d/big', 0);
    c.fs.relayer(stackOf([next]));
    assert.ok(c.readHandle(held) === CONTENT);
    assert.ok(readAll(c, 'd/big') === CONTENT, 'the content that was changed, not the newer one');
    edit(c, 'd/big', 'mine', 8 * BLOCK);
    c.release(held);
    c.close();
    const now = { ...spec, stack: stackOf([next]) };
    const expected = edited(CONTENT, 'mine', 8 * BLOCK);
    c = new Client(now);
    assert.ok(readAll(c, 'd/other') === expected);
    assert.deepEqual(
      diffVlfs(now).map(({ path, change, base_updated }) => [path, change, base_updated]),
      [
        ['/d/big', 'changed', true],
        ['/d/other', 'added', false],
      ],
    );
    c.close();
    assert.equal(await completePrivate(spec.privateDir), 1);
    assert.equal(await completePrivate(spec.privateDir), 0);
    assert.ok(fs.readFileSync(privateFile(spec, 'd/big'), 'latin1') === expected);
  }),
);

test(
  'a frozen private layer with partial files is a level like any',
  sandboxed(async (box) => {
    const spec = await withBig(box);
    const two = await box.unit('two', '1', { attributes: CONTENT });
    const below = { ...spec, stack: stackOf([...spec.stack.levels, two]) };
    let c = new Client(below);
    c.chmod('attributes', 0o640);
    edit(c, 'd/big', 'frozen', 9000);
    c.close();
    const expected = edited(CONTENT, 'frozen', 9000);
    const frozen = { ...(await box.config('x', below)), kind: 'frozen' as const, id: 'frozen/1' };
    const clone = box.spec('clone', [frozen, ...below.stack.levels]);
    c = new Client(clone);
    assert.equal(c.stat('attributes').mode & 0o7777, 0o640);
    assert.ok(readAll(c, 'attributes') === CONTENT);
    assert.ok(readAll(c, 'd/other') === expected);
    c.chmod('attributes', 0o600);
    edit(c, 'd/other', 'clone', 0);
    assert.ok(readAll(c, 'attributes') === CONTENT);
    assert.ok(readAll(c, 'd/big') === edited(expected, 'clone', 0));
    assert.deepEqual(c.faults, []);
    c.close();
    c = new Client(below);
    assert.ok(readAll(c, 'd/big') === expected, 'the source is what it was');
    c.close();
  }),
);

type Step =
  | { op: 'write' | 'punch' | 'zero' | 'allocate' | 'zero and grow'; offset: number; length: number }
  | { op: 'truncate'; size: number }
  | { op: 'append'; length: number }
  | { op: 'kill' | 'background' | 'one job' | 'sync' | 'reopen' };

const offset = fc.oneof(
  fc.nat(SIZE + 20_000),
  fc.nat(80).map((block) => block * BLOCK),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 30_000 }),
  fc.integer({ min: 1, max: 8 }).map((n) => n * BLOCK),
);
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ op: fc.constant('write' as const), offset, length }) },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constantFrom('punch', 'zero', 'allocate', 'zero and grow'),
      offset,
      length,
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('truncate' as const), size: offset }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('append' as const), length }) },
  {
    weight: 5,
    arbitrary: fc.record({ op: fc.constantFrom('kill', 'background', 'one job', 'sync', 'reopen') }),
  },
) as fc.Arbitrary<Step>;

const FALLOCATE: Record<string, number> = {
  punch: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
  zero: ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
  'zero and grow': ZERO_RANGE,
  allocate: 0,
};

/** The same steps on a partial file and on a copy of it on the host. */
function play(spec: VlfsSpec, host: string, run: readonly Step[]): void {
  fs.writeFileSync(host, CONTENT, 'latin1');
  const fd = fs.openSync(host, 'r+');
  let c = new Client(spec);
  const killed: Client[] = [];
  let handle = c.open('d/big', 2);
  let fill = 0;
  try {
    for (const [i, step] of run.entries()) {
      const text = (size: number): string => String.fromCharCode(97 + (fill++ % 26)).repeat(size);
      if (step.op === 'write' || step.op === 'append') {
        const at = step.op === 'write' ? step.offset : fs.fstatSync(fd).size;
        const data = text(step.length);
        c.run(() => c.fs.write(c.caller, handle.id, handle.fh, at, Buffer.from(data), false));
        fs.writeSync(fd, data, at);
      } else if (step.op === 'truncate') {
        c.setattr('d/big', { valid: FATTR.SIZE, size: step.size });
        fs.ftruncateSync(fd, step.size);
      } else if ('offset' in step) {
        const mode = FALLOCATE[step.op]!;
        const done = c.run(() =>
          c.fs.fallocate(c.caller, handle.id, handle.fh, mode, step.offset, step.length),
        );
        assert.equal(done, fallocate(fd, mode, step.offset, step.length));
      } else if (step.op === 'sync') c.run(() => c.fs.fsync(c.caller, handle.id, handle.fh, true));
      else if (step.op === 'background') background(c);
      else if (step.op === 'one job') {
        const job = c.fs.takeBackgroundJob();
        if (job !== null) runJob(job);
      } else {
        if (step.op === 'kill') killed.push(c);
        else c.release(handle);
        if (step.op === 'reopen') c.close();
        c = new Client(spec);
        handle = c.open('d/big', 2);
      }
      compare(c, handle, fd, `${i} ${JSON.stringify(step)}`);
    }
    c.release(handle);
    background(c);
    assert.ok(readAll(c, 'd/big') === fs.readFileSync(host, 'latin1'), 'at the end');
    assert.deepEqual(c.faults, []);
  } finally {
    c.close();
    for (const one of killed) one.close();
    fs.closeSync(fd);
  }
}

function compare(c: Client, handle: { id: number; fh: number }, fd: number, step: string): void {
  const { size } = fs.fstatSync(fd);
  assert.equal(c.stat('d/big').size, size, step);
  const expected = Buffer.alloc(size);
  fs.readSync(fd, expected, 0, size, 0);
  const shown = Buffer.alloc(size + 1);
  assert.equal(c.fs.read(caller, handle.id, handle.fh, 0, shown), size, step);
  assert.ok(shown.subarray(0, size).equals(expected), step);
  // What is said to be a hole reads as zeros; data and holes take turns until the end.
  for (let at = 0; at < size; ) {
    const data = c.fs.lseek(caller, handle.id, handle.fh, at, SEEK_DATA);
    const begin = data < 0 ? size : data;
    assert.ok(
      expected.subarray(at, begin).every((byte) => byte === 0),
      `${step}: a hole at ${at}`,
    );
    if (data < 0) break;
    const hole = c.fs.lseek(caller, handle.id, handle.fh, begin, SEEK_HOLE);
    assert.ok(hole > begin && hole <= size, `${step}: data at ${begin} ends at ${hole}`);
    at = hole;
  }
}

test(
  'random changes of a partial file are those of a file of the host, killed and completed in between',
  sandboxed(async (box) => {
    const level = await box.unit('one', '1', { 'd/big': CONTENT });
    let run = 0;
    fc.assert(
      fc.property(fc.array(steps, { minLength: 3, maxLength: 40 }), (list) => {
        const spec = box.spec(`r${run++}`, [level]);
        play(spec, join(box.dir, 'host'), list);
      }),
      randomRuns(60),
    );
  }),
);

test(
  'a map that outgrows its place is shortened, and nothing changes that one can see',
  sandboxed(async (box) => {
    const size = 12_000 * BLOCK;
    const content = patterned(size, 'long');
    const spec = box.spec('a', [await box.unit('one', '1', { big: content })]);
    let c = new Client(spec);
    let expected = Buffer.from(content, 'latin1');
    const handle = c.open('big', 2);
    for (let i = 0; i < 3000; i++) {
      const at = ((i * 7919) % 6000) * 2 * BLOCK;
      c.writeHandle(handle, `w${i}`, at);
      expected.write(`w${i}`, at, 'latin1');
    }
    c.release(handle);
    const check = (): void => {
      const shown = Buffer.alloc(size);
      const again = c.open('big', 0);
      assert.equal(c.fs.read(caller, again.id, again.fh, 0, shown), size);
      c.release(again);
      assert.ok(shown.equals(expected));
    };
    check();
    c.close();
    c = new Client(spec);
    check();
    edit(c, 'big', 'once more', 0);
    expected.write('once more', 0, 'latin1');
    assert.ok(background(c) > 0);
    check();
    c.close();
    expected = fs.readFileSync(privateFile(spec, 'big'));
    c = new Client(spec);
    check();
    c.close();
  }),
);
