/** Quotas: the numbers are what a count says after any operations; at the limit every operation that takes something ends in EDQUOT and changes nothing. */
import assert from 'node:assert/strict';
import { lstatSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { E } from '../../sys/index.ts';
import type { SetAttrIn, StatfsOut, VlfsSpec } from '../contract.ts';
import { completePrivate } from '../delta/outside.ts';
import { diffVlfs } from '../index.ts';
import { fork, withPolicy } from '../policy/policy.test-support.ts';
import { cloneOf, freeze } from '../test-support/frozen.test-support.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from '../test-support/operations.test-support.ts';
import { Client, ErrnoError, runJob, type Sandbox, sandboxed } from '../test-support/vlfs.test-support.ts';
import { countUsage } from './count-offline.ts';
import { formatLimits, quotaFile, readUsage, usageFile } from './usage-file.ts';

const HUGE = { bytes: 2 ** 40, inodes: 2 ** 30 };

function limit(spec: VlfsSpec, limits: { bytes: number | null; inodes: number | null }): void {
  writeFileSync(quotaFile(spec.privateDir), formatLimits(limits));
}

/** Runs what waits in the background. */
function settleBackground(c: Client): void {
  for (let job = c.fs.takeBackgroundJob(); job !== null; job = c.fs.takeBackgroundJob()) runJob(job);
}

/** An operation may be refused; anything but an errno is a defect. */
function attempt(c: Client, o: Exclude<Operation, { op: 'remount' }>): void {
  try {
    onVlfs(c, o);
  } catch (error) {
    if (!(error instanceof ErrnoError)) throw error;
  }
}

function numbers(spec: VlfsSpec): { bytes: number; inodes: number } {
  const { bytes, inodes } = readUsage(spec.privateDir)!;
  return { bytes, inodes };
}

function counted(spec: VlfsSpec): { bytes: number; inodes: number } {
  const { bytes, inodes } = countUsage(spec);
  return { bytes, inodes };
}

type Step = Operation | { op: 'freeze' } | { op: 'count' };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 14, arbitrary: operation },
  { weight: 1, arbitrary: fc.constant({ op: 'freeze' as const }) },
  { weight: 1, arbitrary: fc.constant({ op: 'count' as const }) },
);

async function boxed(body: (box: Sandbox, spec: VlfsSpec) => void | Promise<void>): Promise<void> {
  await sandboxed(async (box) => {
    const spec = box.spec('q', [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)]);
    await body(box, spec);
  })();
}

test('after any operations, freezes and remounts the numbers are what a count says', async () => {
  await boxed(async (box, first) => {
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 5, maxLength: 40 }),
        fc.constantFrom({}, { partialBytes: 0 }),
        async (steps, mode) => {
          let spec = cloneOf(box, first, `run${runs++}`);
          limit(spec, HUGE);
          let c = new Client(spec, mode);
          settleBackground(c);
          let job: ReturnType<Client['fs']['takeBackgroundJob']> = null;
          for (const one of steps) {
            if (one.op === 'freeze' || one.op === 'remount') {
              c.close();
              job = null;
              if (one.op === 'freeze') spec = freeze(box, spec);
              c = new Client(spec, mode);
            } else if (one.op === 'count') {
              c.close();
              rmSync(usageFile(spec.privateDir), { force: true });
              c = new Client(spec, mode);
              job = c.fs.takeBackgroundJob();
            } else {
              // One step of the counting that is under way.
              if (job?.kind === 'steps' && job.advance(0) !== null) job = null;
              attempt(c, one);
              if (job !== null) continue;
              settleBackground(c);
              assert.deepEqual(numbers(spec), counted(spec), JSON.stringify(one));
            }
          }
          if (job !== null) runJob(job);
          settleBackground(c);
          c.close();
          assert.deepEqual(readUsage(spec.privateDir), countUsage(spec));
          assert.deepEqual(c.faults, []);
        },
      ),
      randomRuns(60),
    );
  });
});

/** Everything that one can see, and what the appliance changed. */
function seen(c: Client, spec: VlfsSpec): unknown {
  return { tree: c.tree(), diff: diffVlfs(spec), usage: counted(spec) };
}

const BIG = 'x'.repeat(300_000);

test('at the limit every operation that takes something is refused, and nothing of it is done', async () => {
  await sandboxed(async (box) => {
    const layer = await box.unit('one', '1', { ...BASE, 'd/big': BIG, 'e/large': BIG });
    const spec = freeze(box, prepared(box, box.spec('q', [layer])));
    limit(spec, HUGE);
    const c = new Client(spec);
    settleBackground(c);
    c.write('own', 'own');
    c.write('d/own', 'y'.repeat(8192));
    c.mkdir('owndir');
    c.link('own', 'owndir/link');
    settleBackground(c);
    const full = numbers(spec);
    const handle = c.open('own', 2);
    const big = c.open('frozen', 0);
    c.release(big);
    const operations: Record<string, (c: Client) => unknown> = {
      create: () => c.create('new'),
      'create in a shared directory': () => c.create('e/e/e/new'),
      mkdir: () => c.mkdir('newdir'),
      mknod: () => c.mknod('fifo', 0o010644),
      symlink: () => c.symlink('own', 'newlink'),
      'copy-up by chmod': () => c.chmod('d/a', 0o600),
      'copy-up of a large file': () => c.chmod('d/big', 0o600),
      'copy-up by truncate': () => c.truncate('d/a', 1),
      'copy-up by setxattr': () => c.setxattr('d/a', 'user.x', 'y'),
      'copy-up by rename': () => c.rename('d/a', 'd/z'),
      'copy-up by link': () => c.link('d/a', 'd/z'),
      'rename of a shared directory': () => c.rename('e/e', 'z'),
    };
    for (const [what, run] of Object.entries(operations)) {
      for (const limits of [
        { bytes: full.bytes, inodes: full.inodes },
        { bytes: null, inodes: full.inodes },
      ]) {
        limit(spec, limits);
        c.fs.readQuota();
        const before = seen(c, spec);
        assert.throws(() => run(c), /DQUOT/, what);
        assert.deepEqual(seen(c, spec), before, what);
      }
    }
    // Bytes alone.
    limit(spec, { bytes: full.bytes, inodes: null });
    c.fs.readQuota();
    const forBytes: Record<string, () => unknown> = {
      append: () => {
        const file = c.open('d/own', 2);
        try {
          c.writeHandle(file, 'z'.repeat(5000), 8192);
        } finally {
          c.release(file);
        }
      },
      'write behind the end': () => c.writeHandle(handle, 'z', 1 << 20),
      setxattr: () => c.setxattr('own', 'user.large', 'v'.repeat(3000)),
      fallocate: () => {
        const errno = c.run(() => c.fs.fallocate(c.caller, handle.id, handle.fh, 0, 0, 1 << 20));
        if (errno < 0) throw new ErrnoError(errno, 'fallocate');
      },
      mkdir: () => c.mkdir('newdir'),
      'a link to far away': () => c.symlink('t'.repeat(2000), 'newlink'),
    };
    for (const [what, run] of Object.entries(forBytes)) {
      const before = seen(c, spec);
      assert.throws(run, /DQUOT/, what);
      assert.deepEqual(seen(c, spec), before, what);
    }
    // What takes nothing goes on.
    c.write('own', 'new');
    c.chmod('d/own', 0o600);
    c.truncate('own', 1 << 30);
    c.rename('d/own', 'owndir/moved');
    c.rename('owndir', 'renamed');
    c.link('own', 'another');
    c.unlink('d/b');
    c.unlink('e/b');
    c.unlink('renamed/moved');
    assert.deepEqual(numbers(spec), counted(spec));
    c.mkdir('fits');
    const done = c.writeHandle(handle, 'z'.repeat(40_000), 1 << 20);
    assert.ok(done > 0 && done < 40_000, `${done}`);
    assert.throws(() => c.writeHandle(handle, 'z', 2 << 20), /DQUOT/);
    c.release(handle);
    c.close();
    assert.deepEqual(c.faults, []);
  })();
});

test('a link takes what its target takes', async () => {
  await boxed(async (box, first) => {
    const spec = freeze(box, first);
    limit(spec, HUGE);
    let c = new Client(spec);
    settleBackground(c);
    const { bytes } = numbers(spec);
    c.symlink('short', 'short');
    assert.equal(numbers(spec).bytes, bytes);
    c.symlink('t'.repeat(3000), 'long');
    c.setxattr('long', 'trusted.note', 'v'.repeat(2000));
    c.rename('long', 'e/longer');
    const taken = lstatSync(join(spec.privateDir, 'e/longer')).blocks * 512;
    assert.ok(taken > 0);
    assert.deepEqual(numbers(spec), counted(spec));
    c.close();
    const clone = freeze(box, spec);
    limit(clone, HUGE);
    c = new Client(clone);
    settleBackground(c);
    const before = numbers(clone).bytes;
    c.unlink('e/longer');
    assert.equal(before - numbers(clone).bytes, taken);
    assert.deepEqual(numbers(clone), counted(clone));
    c.close();
    assert.deepEqual(c.faults, []);
  });
});

/** An appliance with something to freeze. */
function prepared(_box: Sandbox, spec: VlfsSpec): VlfsSpec {
  const c = new Client(spec);
  c.write('frozen', 'f'.repeat(10_000));
  c.write('e/mine', 'm');
  c.close();
  return spec;
}

test('a write takes exactly what is left; what was allocated before can be written', async () => {
  await boxed((_box, spec) => {
    limit(spec, { bytes: 100 * 4096, inodes: null });
    const c = new Client(spec);
    settleBackground(c);
    const file = c.create('f');
    assert.equal(c.writeHandle(file, 'x'.repeat(150 * 4096)), 100 * 4096);
    assert.throws(() => c.writeHandle(file, 'x', 100 * 4096), /DQUOT/);
    assert.equal(c.stat('f').size, 100 * 4096);
    assert.equal(c.writeHandle(file, 'y'.repeat(4096), 4096), 4096);
    // A hole of it may be filled again.
    assert.equal(
      c.run(() => c.fs.fallocate(c.caller, file.id, file.fh, 3, 0, 8192)),
      0,
    );
    assert.equal(c.writeHandle(file, 'z'.repeat(16384), 0), 16384);
    c.release(file);
    c.unlink('f');
    const reserved = c.create('g');
    assert.equal(
      c.run(() => c.fs.fallocate(c.caller, reserved.id, reserved.fh, 1, 0, 90 * 4096)),
      0,
    );
    assert.equal(
      c.run(() => c.fs.fallocate(c.caller, reserved.id, reserved.fh, 1, 0, 90 * 4096)),
      0,
    );
    assert.equal(c.writeHandle(reserved, 'x'.repeat(90 * 4096)), 90 * 4096);
    const out = statfsOf(c);
    assert.equal(out.blocks * out.frsize, 100 * 4096);
    assert.equal(out.bfree * out.frsize, 10 * 4096);
    // Removed, it is there until it is closed.
    c.unlink('g');
    assert.equal(statfsOf(c).bfree * out.frsize, 10 * 4096);
    c.release(reserved);
    assert.equal(statfsOf(c).bfree * out.frsize, 100 * 4096);
    c.close();
    assert.deepEqual(readUsage(spec.privateDir), countUsage(spec));
  });
});

function statfsOf(c: Client): StatfsOut {
  const out = { blocks: 0, bfree: 0, bavail: 0, files: 0, ffree: 0, bsize: 0, namelen: 0, frsize: 0 };
  assert.equal(c.fs.statfs(c.caller, 1, out), 0);
  return out;
}

test('partial files: blocks of their own count, and they are completed only as far as there is room', async () => {
  await sandboxed(async (box) => {
    const spec = box.spec('q', [await box.unit('one', '1', { big: 'b'.repeat(1 << 20) })]);
    limit(spec, { bytes: 200 * 4096, inodes: null });
    const c = new Client(spec);
    settleBackground(c);
    const file = c.open('big', 2);
    for (let at = 0; at < 190; at++) c.writeHandle(file, 'n'.repeat(4096), at * 4096);
    c.release(file);
    settleBackground(c);
    assert.ok(numbers(spec).bytes <= 200 * 4096);
    const again = c.open('big', 2);
    assert.throws(() => c.writeHandle(again, 'n'.repeat(20 * 4096), 200 * 4096), /DQUOT/);
    // As fast for any length.
    const all = (): number => c.fs.fallocate(c.caller, again.id, again.fh, 0, 0, 2 ** 52);
    assert.equal(c.run(all), -E.DQUOT);
    c.release(again);
    assert.equal(c.read('big').slice(189 * 4096, 190 * 4096 + 1), `${'n'.repeat(4096)}b`);
    assert.deepEqual(numbers(spec), counted(spec));
    limit(spec, HUGE);
    c.fs.readQuota();
    const last = c.open('big', 2);
    c.writeHandle(last, 'n', 255 * 4096);
    c.release(last);
    settleBackground(c);
    assert.ok(numbers(spec).bytes >= 1 << 20);
    assert.deepEqual(numbers(spec), counted(spec));
    c.close();
  })();
});

test('completing partial files of what nobody has mounted makes the numbers unknown', async () => {
  await sandboxed(async (box) => {
    const spec = box.spec('q', [await box.unit('one', '1', { big: 'b'.repeat(1 << 20) })]);
    limit(spec, HUGE);
    const c = new Client(spec);
    settleBackground(c);
    const file = c.open('big', 2);
    c.writeHandle(file, 'n', 0);
    c.release(file);
    settleBackground(c);
    c.close();
    assert.equal(readUsage(spec.privateDir)!.state, 'exact');
    assert.equal(await completePrivate(spec.privateDir), 1);
    assert.equal(readUsage(spec.privateDir)!.state, 'stale');
  })();
});

test('a quota that begins, changes and ends while files are open; a killed process leaves numbers that are counted again', async () => {
  await boxed((_box, spec) => {
    const c = new Client(spec, { passthrough: true });
    c.write('f', 'x'.repeat(8192));
    const passing = c.open('f', 2);
    assert.ok(passing.out.backingFd >= 0);
    limit(spec, { bytes: 16384, inodes: 4 });
    c.fs.readQuota();
    settleBackground(c);
    assert.deepEqual(numbers(spec), { bytes: 8192, inodes: 1 });
    // The kernel has the file open for passthrough: what is opened from now on comes by the server all the same.
    const counted1 = c.open('f', 2);
    assert.ok(counted1.out.backingFd >= 0 && counted1.out.directIo);
    c.writeHandle(counted1, 'x'.repeat(4096), 8192);
    assert.equal(numbers(spec).bytes, 12288);
    c.release(passing);
    c.release(counted1);
    const cached = c.open('f', 2);
    assert.deepEqual([cached.out.backingFd, cached.out.keepCache], [-1, false]);
    c.release(cached);
    assert.equal(c.open('f', 0).out.keepCache, true);
    const change: Partial<SetAttrIn> = { valid: 8, size: 0 };
    c.setattr('f', change);
    assert.equal(numbers(spec).bytes, 0);
    // Killed: nothing is written at the end, and the next one counts in the background, beginning with these numbers.
    const was = readFileSync(usageFile(spec.privateDir));
    assert.equal(readUsage(spec.privateDir)!.state, 'open');
    c.close();
    assert.equal(readUsage(spec.privateDir)!.state, 'exact');
    writeFileSync(usageFile(spec.privateDir), was.toString().replace('"bytes":0', '"bytes":4096'));
    const next = new Client(spec);
    assert.equal(numbers(spec).bytes, 4096);
    settleBackground(next);
    assert.deepEqual(numbers(spec), { bytes: 0, inodes: 1 });
    rmSync(quotaFile(spec.privateDir));
    next.fs.readQuota();
    next.write('g', 'x'.repeat(100_000));
    // What was written without a quota counts when there is one again.
    limit(spec, HUGE);
    next.fs.readQuota();
    settleBackground(next);
    assert.ok(numbers(spec).bytes >= 100_000);
    assert.deepEqual(numbers(spec), counted(spec));
    next.close();
  });
});

test('a count ends exactly, however many directories move meanwhile', async () => {
  await boxed(async (_box, spec) => {
    limit(spec, HUGE);
    const first = new Client(spec);
    for (let i = 0; i < 12; i++) {
      first.mkdir(`top${i}`);
      for (let j = 0; j < 6; j++) {
        first.mkdir(`top${i}/sub${j}`);
        for (let k = 0; k < 5; k++) first.write(`top${i}/sub${j}/f${k}`, `${i}${j}${k}`.repeat(2000));
      }
    }
    first.close();
    rmSync(usageFile(spec.privateDir), { force: true });
    const c = new Client(spec);
    const job = c.fs.takeBackgroundJob()!;
    assert.equal(job.kind, 'steps');
    let state = 1;
    const below = (n: number): number => {
      state = (state * 48271) % 0x7fffffff;
      return state % n;
    };
    let steps = 0;
    while (job.kind === 'steps' && job.advance(0) === null) {
      assert.ok(++steps < 1000, 'it does not end');
      for (const [from, to] of [
        [`top${below(12)}/sub${below(6)}`, `top${below(12)}/moved${steps}`],
        [`top${below(12)}`, `top${below(12)}/sub${below(6)}/deep${steps}`],
        [`top${below(12)}/sub${below(6)}/deep${steps - below(9)}`, `top${below(12)}`],
        ['d', `e${steps}`],
        [`e${steps}`, 'd'],
      ] as const)
        attempt(c, { op: 'rename', path: from, to, flags: 0 });
    }
    assert.deepEqual(numbers(spec), counted(spec));
    settleBackground(c);
    c.close();
    assert.deepEqual(readUsage(spec.privateDir), countUsage(spec));
    assert.deepEqual(c.faults, []);
  });
});

test('what a policy hides from a mounted clone stops to count', async () => {
  await boxed(async (box, spec) => {
    const parent = new Client(spec);
    parent.write('secret', BIG);
    parent.write('plain', 'plain');
    parent.close();
    const child = fork(box, spec, 'child', ['/nothing']);
    limit(child, HUGE);
    const c = new Client(child);
    settleBackground(c);
    const before = numbers(child);
    assert.deepEqual(before, counted(child));
    const stricter = withPolicy(child.stack, { rules: ['/nothing', '/secret'] });
    c.fs.relayer(stricter);
    settleBackground(c);
    assert.ok(!c.exists('secret'));
    assert.deepEqual(numbers(child), counted({ ...child, stack: stricter }));
    assert.ok(numbers(child).bytes <= before.bytes - BIG.length);
    c.close();
  });
});
