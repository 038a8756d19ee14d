/**
 * Random changes mixed with relayers, reverts, resets and new openings. After each of these the VLFS must show what the plain reference works out
 * from the disk, the same as a second opening does, and open files must keep their content.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { E } from '../sys/index.ts';
import type { LevelSpec, VlfsSpec } from './contract.ts';
import { diffVlfs, revertOffline } from './index.ts';
import {
  MODES,
  type Mode,
  type Operation,
  onVlfs,
  removeAll,
} from './test-support/operations.test-support.ts';
import { referenceTree } from './test-support/reference.test-support.ts';
import { Client, ErrnoError, makeSandbox, type Sandbox, stackOf } from './test-support/vlfs.test-support.ts';

const EXCHANGE = 2;
const name = fc.constantFrom('a', 'b', 'c', 'd', 'e');
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));

type Step =
  | Operation
  | { op: 'relayer'; stack: number }
  | { op: 'revert'; path: string }
  | { op: 'hold'; path: string }
  | { op: 'revert all' }
  | { op: 'reset'; keep: string[] };

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constantFrom('write', 'append', 'mkdir', 'unlink', 'rmdir', 'remove'),
      path,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('rename'),
      path,
      to: path,
      flags: fc.constantFrom(0, 0, 0, 0, 0, EXCHANGE),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('link'), path, to: path }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('relayer'), stack: fc.nat(5) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('revert'), path }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('revert all') }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reset'), keep: fc.array(path, { maxLength: 2 }) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('remount') }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('hold'), path }) },
) as fc.Arbitrary<Step>;

const CHANGES = ['relayer', 'revert', 'revert all', 'reset', 'remount'];

function apply(
  c: Client,
  o: Exclude<Step, { op: 'hold' } | { op: 'remount' }>,
  stacks: VlfsSpec['stack'][],
): unknown {
  switch (o.op) {
    case 'relayer':
      return c.fs.relayer(stacks[o.stack % stacks.length]!);
    case 'revert':
      return c.fs.revert([o.path]);
    case 'revert all':
      return c.fs.revert(['/']);
    case 'reset':
      return c.fs.reset(o.keep);
    default:
      return onVlfs(c, o);
  }
}

/** Runs an operation; errnos and refusals are answers too. */
function attempt(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof ErrnoError) && !(error instanceof StrataError)) throw error;
    if (error instanceof ErrnoError) assert.ok(![-E.IO, -E.XDEV].includes(error.errno), error.message);
    if (error instanceof StrataError)
      assert.ok(['NOT_FOUND', 'BAD_NAME'].includes(error.code), error.message);
  }
}

interface Held {
  handle: { id: number; fh: number };
  content: string;
  path: string;
}

function play(spec: VlfsSpec, stacks: VlfsSpec['stack'][], operations: Step[], mode: Mode): void {
  let current: VlfsSpec = { ...spec, stack: stacks[0]! };
  let c = new Client(current, mode);
  let held: Held[] = [];
  try {
    for (const [i, o] of operations.entries()) {
      if (o.op === 'hold') {
        attempt(() => {
          const handle = c.open(o.path, 0);
          held.push({ handle, content: c.readHandle(handle), path: o.path });
        });
        continue;
      }
      if (o.op === 'remount') {
        c.close();
        c = new Client(current, mode);
        held = [];
      } else attempt(() => apply(c, o, stacks));
      if (o.op === 'relayer') {
        current = { ...spec, stack: stacks[o.stack % stacks.length]! };
        for (const { handle, content, path: at } of held)
          assert.equal(c.readHandle(handle), content, `open file ${at}`);
      }
      if (o.op === 'append' || o.op === 'write')
        held = held.filter((one) => c.readHandle(one.handle) === one.content);
      if (!CHANGES.includes(o.op)) continue;
      assert.deepEqual(c.tree(), referenceTree(current), `${i}: ${JSON.stringify(o)}`);
    }
    const expected = referenceTree(current);
    assert.deepEqual(c.tree(), expected, 'at the end');
    assert.deepEqual(c.faults, []);
    diffVlfs(current);
    c.close();
    c = new Client(current, mode);
    assert.deepEqual(c.tree(), expected, 'opened again');
    c.fs.reset([]);
    const pristine = c.tree();
    assert.deepEqual(pristine, referenceTree(current), 'after a reset');
    assert.deepEqual(diffVlfs(current), [], 'after a reset');
  } finally {
    c.close();
  }
}

/** A config level as a template's configuration leaves it: with a redirect, an opaque directory, whiteouts and new files. */
async function makeConfig(box: Sandbox, levels: LevelSpec[]): Promise<LevelSpec> {
  const spec = box.spec('template', levels);
  const c = new Client(spec);
  c.write('d/b', 'configured');
  c.unlink('d/c');
  c.rename('e', 'd/e2');
  c.mkdir('e');
  c.write('e/z', 'fresh');
  c.write('conf', 'config only');
  removeAll(c, 'd/e');
  c.mkdir('d/e');
  c.close();
  return await box.config('t', spec);
}

test('random relayers, reverts and resets show what is on disk', async () => {
  const box = makeSandbox();
  try {
    const one1 = await box.unit('one', '1', {
      'd/a': 'one a',
      'd/b': 'one b',
      'd/e/a': 'deep',
      'e/a': 'linked',
      'e/b': { hard: 'e/a' },
    });
    const one2 = await box.unit('one', '2', {
      'd/a': 'ONE a',
      'd/b': 'one b',
      'd/e/b': 'DEEP b',
      'e/a': 'LINKED',
      'b/a': 'ONE b a',
    });
    const two1 = await box.unit('two', '1', {
      'd/c': 'two c',
      'd/e/c': 'two deep',
      'e/c': 'two',
      'c/a': 'two c a',
    });
    const two2 = await box.unit('two', '2', {
      'd/c': { link: 'a' },
      'e/c/a': 'now a directory',
      'e/d': 'TWO',
      c: 'now a file',
    });
    const config = await makeConfig(box, [two1, one1]);
    const stacks = [
      [two1, one1],
      [two1, one2],
      [two2, one1],
      [one2],
      [config, two1, one1],
      [config, two2, one2],
    ].map(stackOf);
    let run = 0;
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 4, maxLength: 40 }),
        fc.constantFrom(...MODES),
        (operations, mode) => {
          const spec = box.spec(`r${run++}`, []);
          play(spec, stacks, operations, mode);
          rmSync(spec.privateDir, { recursive: true });
        },
      ),
      randomRuns(60),
    );
    assert.throws(() => revertOffline(box.spec('x', [one1]), ['/nothing']), { code: 'NOT_FOUND' });
  } finally {
    box.remove();
  }
});
