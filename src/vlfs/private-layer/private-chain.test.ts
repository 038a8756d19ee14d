/** Changes at the bottom of deep trees of layers: the directories above are copied one a step, and others are served between the steps. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { PENDING, type SlowJob, type VlfsSpec } from '../contract.ts';
import { diffVlfs } from '../index.ts';
import { freeze, freezeOpen } from '../test-support/frozen.test-support.ts';
import { Client, newEntry, newOpen, type Sandbox, sandboxed } from '../test-support/vlfs.test-support.ts';

const DEPTH = 500;
const at = (depth: number): string => Array.from({ length: depth }, () => 'd').join('/');
const BOTTOM = at(DEPTH);
/** Directories that an operation copies itself. */
const FEW = 16;

/** An appliance whose tree is frozen; nothing of it is private. */
function frozenTree(box: Sandbox, name: string): VlfsSpec {
  const spec = box.spec(name, []);
  const c = new Client(spec);
  for (let depth = 1; depth <= DEPTH; depth++) c.mkdir(at(depth));
  for (const file of ['f', 'g', 'h']) c.write(`${BOTTOM}/${file}`, file);
  c.mkdir(`${BOTTOM}/empty`);
  c.close();
  return freeze(box, spec);
}

const idOf = (c: Client, path: string): number => c.walk(path).id;

/** How many directories of the chain are private. */
function depthOf(spec: VlfsSpec): number {
  let depth = 0;
  while (depth < DEPTH && existsSync(join(spec.privateDir, at(depth + 1)))) depth++;
  return depth;
}

const paths = (spec: VlfsSpec): string[] => diffVlfs(spec).map(({ path }) => path);

function jobOf(c: Client, result: number): SlowJob & { kind: 'steps' } {
  assert.equal(result, PENDING);
  const { job } = c.caller;
  c.caller.job = null;
  assert.ok(job?.kind === 'steps');
  return job;
}

test(
  'whatever changes something at the bottom waits for the directories above, which are copied one a step',
  sandboxed(async (box) => {
    const operations: Record<string, (c: Client, parent: number, file: number) => number> = {
      open: (c, _, file) => c.fs.open(c.caller, file, 1, newOpen()),
      mkdir: (c, parent) => c.fs.mkdir(c.caller, parent, 'new' as never, 0o755, newEntry()),
      unlink: (c, parent) => c.fs.unlink(c.caller, parent, 'g' as never),
      rmdir: (c, parent) => c.fs.rmdir(c.caller, parent, 'empty' as never),
      rename: (c, parent) => c.fs.rename(c.caller, parent, 'g' as never, 1, 'moved' as never, 0),
      link: (c, parent, file) => c.fs.link(c.caller, file, parent, 'linked' as never, newEntry()),
      setxattr: (c, parent) => c.fs.setxattr(c.caller, parent, 'user.a' as never, Buffer.from('b'), 0, false),
    };
    const spec = frozenTree(box, 'one');
    for (const [name, operation] of Object.entries(operations)) {
      let copies = 0;
      const own = { ...spec, privateDir: box.spec(name, []).privateDir };
      own.whiteoutsDir = box.spec(name, []).whiteoutsDir;
      const before = paths(own);
      const c = new Client(own, {
        onStep(step) {
          if (step === 'copy-up directory') copies++;
        },
      });
      const [parent, file] = [idOf(c, BOTTOM), idOf(c, `${BOTTOM}/f`)];
      const job = jobOf(c, operation(c, parent, file));
      assert.equal(copies, 0, `${name} itself copies nothing`);
      let steps = 0;
      for (let result: number | null = null; result === null; steps++) {
        const already = copies;
        result = job.advance(0);
        assert.ok(copies - already <= 1, `${name}: ${copies - already} in a step`);
        // A neighbour in the same appliance.
        if (steps === DEPTH / 2) c.write('beside', name);
        if (result !== null) assert.equal(result, 0);
      }
      assert.ok(steps >= DEPTH, `${name}: ${steps} steps`);
      assert.equal(depthOf(own), DEPTH);
      assert.deepEqual(
        paths(own).filter((path) => !before.includes(path)),
        ['/beside'],
        'a copied directory is no change',
      );
      assert.notEqual(operation(c, parent, file), PENDING, `${name} goes on`);
      assert.deepEqual(c.faults, []);
      c.close();
    }
  }),
);

test(
  'a freeze, a rename and a removal between the steps',
  sandboxed(async (box) => {
    let spec = frozenTree(box, 'one');
    const c = new Client(spec);
    const append = (): number => c.fs.open(c.caller, idOf(c, `${BOTTOM}/f`), 1, newOpen());
    const job = jobOf(c, append());
    for (let i = 0; i < 100; i++) assert.equal(job.advance(0), null);
    assert.equal(depthOf(spec), 100);
    spec = freezeOpen(box, c, spec);
    assert.equal(depthOf(spec), 0);
    for (let i = 0; i < 50; i++) assert.equal(job.advance(0), null);
    c.rename(at(20), 'away');
    for (let result: number | null = null; result === null; ) result = job.advance(0);
    const below = `away/${at(DEPTH - 20)}`;
    assert.ok(existsSync(join(spec.privateDir, below)));
    c.append(`${below}/f`, ' and more');
    assert.equal(c.read(`${below}/f`), 'f and more');

    // Removed while it is copied: the answer to who waits.
    spec = freezeOpen(box, c, spec);
    const removed = jobOf(
      c,
      c.fs.mkdir(c.caller, idOf(c, `${below}/empty`), 'new' as never, 0o755, newEntry()),
    );
    assert.equal(removed.advance(0), null);
    c.rmdir(`${below}/empty`);
    let result: number | null = null;
    while (result === null) result = removed.advance(0);
    assert.ok(result <= 0);
    assert.deepEqual(c.faults, []);
    c.close();
  }),
);

test(
  'few directories are copied at once',
  sandboxed(async (box) => {
    const unit = await box.unit('a', '1', { [`${at(FEW - 2)}/f`]: 'f' });
    const spec = box.spec('one', [unit]);
    const c = new Client(spec);
    assert.equal(c.fs.unlink(c.caller, idOf(c, at(FEW - 2)), 'f' as never), 0);
    c.close();
    assert.ok(existsSync(join(spec.privateDir, at(FEW - 2))));
  }),
);
