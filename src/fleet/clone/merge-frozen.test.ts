/**
 * Frozen layers that were merged stand for those that they were made of. The oracle is the same appliance, not merged: what it shows with every attribute, what
 * diff says, what it shows after any operations, reverts and resets. And whoever goes on showing the layers themselves notices nothing.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { constants, existsSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../../base/index.ts';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import type { Attr, VlfsSpec } from '../../vlfs/contract.ts';
import { diffVlfs, resetOffline, revertOffline, whoOwns } from '../../vlfs/index.ts';
import { cloneOf, freeze } from '../../vlfs/test-support/frozen.test-support.ts';
import { answer, vlfsTree } from '../../vlfs/test-support/host.test-support.ts';
import {
  BASE,
  type Operation,
  onVlfs,
  operation,
  SECOND,
} from '../../vlfs/test-support/operations.test-support.ts';
import { Client, makeSandbox, type Sandbox, sandboxed } from '../../vlfs/test-support/vlfs.test-support.ts';
import { frozenLevels, merge } from './merge-frozen.test-support.ts';

const PATHS = ['', 'a', 'd', 'd/a', 'd/b', 'd/e', 'd/e/a', 'e', 'e/a', 'e/b', 'e/e', 'l', 'c', 'c/a'];
const path = fc.constantFrom(...PATHS).map((at) => `/${at}`);
type Change = { revert?: string; reset?: string[]; operations?: Operation[] };
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ revert: path }),
  fc.record({ reset: fc.array(path, { maxLength: 2 }) }),
  fc.record({ operations: fc.array(operation, { minLength: 1, maxLength: 6 }) }),
) as fc.Arbitrary<Change>;

interface Answers {
  answers: unknown[];
  /** Directories that were renamed by copies of all that they show. */
  copied: number;
}

function operate(spec: VlfsSpec, operations: readonly Operation[]): Answers {
  const done: Answers = { answers: [], copied: 0 };
  const onStep = (step: string): void => {
    if (step === 'copy-up tree: opaque') done.copied++;
  };
  const client = new Client(spec, { onStep });
  for (const o of operations) {
    if (o.op === 'remount') continue;
    try {
      done.answers.push(answer(() => onVlfs(client, o)));
    } catch {
      // The client does not follow symlinks.
    }
  }
  client.close();
  return done;
}

/** Every attribute of everything, but what reading changes and what each copy of a root directory has of its own. */
function attributes(c: Client, withTimes: boolean): Record<string, Partial<Attr>> {
  const found: Record<string, Partial<Attr>> = {};
  for (const at of ['', ...Object.keys(c.tree())]) {
    const { atimeSec: _s, atimeNsec: _n, ...rest } = c.stat(at);
    found[at] = rest;
    // A directory whose attributes do not fit into its inode has a block for them.
    if ((rest.mode & constants.S_IFMT) === constants.S_IFDIR) rest.blocks = 0;
    if (at === '') Object.assign(rest, { ctimeSec: 0, ctimeNsec: 0, size: 0 });
    if (!withTimes) {
      const unset = { ctimeSec: 0, ctimeNsec: 0, mtimeSec: 0, mtimeNsec: 0, ino: 0, size: 0, blocks: 0 };
      Object.assign(rest, unset);
    }
  }
  return found;
}

/**
 * The same change to both: they answer the same and show the same. False when a redirect led to all of a renamed directory in only one of them: then the other has copies, which
 * diff and revert take for its own.
 */
function applyToBoth(one: VlfsSpec, other: VlfsSpec, what: Change, at?: string): boolean {
  const [a, b] = [apply(one, what), apply(other, what)];
  const copied = [a, b].map((answers) => (answers as Answers | null)?.copied);
  const only = ({ copied: _, ...rest }: Partial<Answers>): unknown => rest;
  const plain = [a, b].map((answers) => (what.operations === undefined ? answers : only(answers as Answers)));
  assert.deepEqual(plain[0], plain[1], at);
  assert.deepEqual(treeOf(one), treeOf(other), at);
  return copied[0] === copied[1];
}

function treeOf(spec: VlfsSpec): unknown {
  const client = new Client(spec);
  const tree = vlfsTree(client);
  client.close();
  return tree;
}

function shown(spec: VlfsSpec, withTimes: boolean): unknown {
  const client = new Client(spec);
  const tree = vlfsTree(client);
  const all = attributes(client, withTimes);
  client.close();
  assert.deepEqual(client.faults, []);
  return { tree, all, changes: diffVlfs(spec), owners: PATHS.map((at) => whoOwns(spec, `/${at}`)) };
}

function apply(spec: VlfsSpec, what: Change): unknown {
  try {
    if (what.operations !== undefined) return operate(spec, what.operations);
    if (what.revert !== undefined) return new Set(revertOffline(spec, [what.revert]));
    resetOffline(spec, what.reset!);
    return null;
  } catch (error) {
    if (!(error instanceof StrataError)) throw error;
    return error.code;
  }
}

/** Layers that were frozen one after the other and merged at the end. */
async function mergedOnce(
  box: Sandbox,
  first: VlfsSpec,
  parts: readonly Change[][],
): Promise<[merged: VlfsSpec, plain: VlfsSpec]> {
  let source = first;
  for (const part of parts) {
    for (const one of part) apply(source, one);
    source = freeze(box, source);
  }
  const before = shown(source, true);
  // All of them, or the newest.
  const count = parts.length > 3 ? 2 : parts.length;
  const merged = await merge(box, cloneOf(box, source, `${source.name}-merged`), count);
  assert.equal(frozenLevels(merged).length, parts.length - count + 1);
  assert.deepEqual(shown(merged, true), before, 'merged');
  assert.deepEqual(shown(source, true), before, 'who has the layers notices nothing');
  return [merged, cloneOf(box, source, `${source.name}-plain`)];
}

/** Two appliances that do the same; one of them merges after each freeze, so that merged layers are merged again. Null: they do not go on alike. */
async function mergedOften(
  box: Sandbox,
  first: VlfsSpec,
  parts: readonly Change[][],
): Promise<[merged: VlfsSpec, plain: VlfsSpec] | null> {
  let merged = first;
  let plain = box.spec(`${first.name}-plain`, first.stack.levels);
  for (const part of parts) {
    for (const one of part) if (!applyToBoth(merged, plain, one)) return null;
    merged = freeze(box, merged);
    plain = freeze(box, plain);
    const before = shown(merged, true);
    if (frozenLevels(merged).length > 1) merged = await merge(box, merged, 2);
    assert.deepEqual(shown(merged, true), before);
  }
  assert.equal(frozenLevels(merged).length, 1);
  return [merged, plain];
}

async function play(
  box: Sandbox,
  first: VlfsSpec,
  parts: readonly Change[][],
  changes: readonly Change[],
  often: boolean,
): Promise<void> {
  const both = await (often ? mergedOften : mergedOnce)(box, first, parts);
  if (both === null) return;
  const [merged, plain] = both;
  assert.deepEqual(shown(merged, false), shown(plain, false), 'merged and not');
  for (const [i, what] of changes.entries()) {
    const at = `${i}: ${JSON.stringify(what)}`;
    if (!applyToBoth(merged, plain, what, at)) break;
    assert.deepEqual(shown(merged, false), shown(plain, false), `after ${at}`);
  }
  for (const { privateDir } of [first, merged, plain])
    rmSync(dirname(privateDir), { recursive: true, force: true });
}

/** Found once: the directory that the first layer put in place of another one hid it from who renamed it once it was back. */
const RENAMED_WHEN_IT_WAS_BACK: [Change[][], Change[], boolean] = [
  [
    [
      {
        operations: [
          { op: 'mkdir', path: 'l' },
          { op: 'rename', path: 'c', to: 'l', flags: 2 },
        ],
      },
    ],
    [{ reset: [] }],
  ],
  [{ operations: [{ op: 'rename', path: 'c', to: 'd/c', flags: 2 }] }],
  true,
];

test('merged frozen layers are what they were made of', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 2, maxLength: 5 }),
        fc.array(change, { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        async (parts, changes, often) => play(box, box.spec(`r${run++}`, levels), parts, changes, often),
      ),
      { ...randomRuns(20), endOnFailure: true, examples: [RENAMED_WHEN_IT_WAS_BACK] },
    );
  } finally {
    box.remove();
  }
});

test(
  'the merged layer needs nothing of those that it was made of; partial files and marks stay',
  sandboxed(async (box) => {
    const content = 'of the layer '.repeat(30_000);
    const levels = [
      await box.unit('large', '1', { 'd/attributes': content, 'd/blocks': content, 'd/x': 'x' }),
    ];
    const first = box.spec('a', levels);
    const work = (spec: VlfsSpec, use: (c: Client) => void): void => {
      const client = new Client(spec);
      use(client);
      client.close();
    };
    work(first, (c) => {
      c.chmod('d/attributes', 0o600);
      c.link('d/attributes', 'd/linked');
      c.write('d/own', 'own');
    });
    execFileSync('setfattr', [
      '-n',
      'trusted.strata.quarantine',
      '-v',
      'f'.repeat(64),
      `${first.privateDir}/d/own`,
    ]);
    let spec = freeze(box, first);
    work(spec, (c) => {
      const handle = c.open('d/blocks', 2);
      c.writeHandle(handle, 'of the appliance', 200_000);
      c.release(handle);
      c.unlink('d/x');
    });
    spec = freeze(box, spec);
    const before = shown(spec, true);
    const parts = frozenLevels(spec).map(({ treeDir }) => dirname(treeDir));
    const merged = await merge(box, spec, 2);
    assert.deepEqual(shown(merged, true), before);
    for (const dir of parts) rmSync(dir, { recursive: true });
    assert.equal(existsSync(parts[0]!), false);
    assert.deepEqual(shown(merged, true), before);
    const tree = frozenLevels(merged)[0]!.treeDir;
    const mark = execFileSync('getfattr', [
      '--only-values',
      '-n',
      'trusted.strata.quarantine',
      `${tree}/d/own`,
    ]);
    assert.equal(String(mark), 'f'.repeat(64));
  }),
);

test(
  'what a policy hides in the layers it hides in the merged one: other names of a file, places before a rename, marks',
  sandboxed(async (box) => {
    const levels = [await box.unit('one', '1', { 'secret/old': 'o', 'pub/old': 'o' })];
    const work = (spec: VlfsSpec, use: (c: Client) => void): VlfsSpec => {
      const client = new Client(spec);
      use(client);
      client.close();
      return freeze(box, spec);
    };
    let spec = work(box.spec('a', levels), (c) => {
      c.write('secret/key', 'key');
      c.link('secret/key', 'pub/key');
      c.mkdir('deep');
      c.mkdir('deep/er');
      c.write('deep/er/file', 'deep');
      c.link('deep/er/file', 'pub/alias');
      c.mkdir('kept');
      c.write('kept/marked', 'm');
      c.write('pub/free', 'free');
    });
    execFileSync('setfattr', [
      '-n',
      'user.strata.nonclonable',
      '-v',
      'y',
      `${frozenLevels(spec)[0]!.treeDir}/kept`,
    ]);
    spec = work(spec, (c) => {
      c.unlink('secret/key');
      c.rename('deep/er', 'moved');
      c.write('kept/more', 'more');
      c.write('pub/other', 'o');
    });
    execFileSync('setfattr', ['-x', 'user.strata.nonclonable', `${frozenLevels(spec)[0]!.treeDir}/kept`]);
    const merged = await merge(box, spec, 2);
    const inherited = (from: VlfsSpec, name: string): VlfsSpec => {
      const policy = { rules: ['/secret/', '/deep/'] };
      const own = from.stack.levels.map(({ own: _, ...level }) => level);
      return { ...box.spec(name, []), stack: { key: `${name}-policy`, levels: own, policy } };
    };
    const tree = (one: VlfsSpec): string[] => {
      const client = new Client(one);
      const paths = Object.keys(client.tree());
      client.close();
      return paths;
    };
    const shownByLayers = tree(inherited(spec, 'layers'));
    assert.deepEqual(
      shownByLayers.filter((at) => at.startsWith('pub/')),
      ['pub/free', 'pub/old', 'pub/other'],
    );
    const shownByMerged = tree(inherited(merged, 'merged'));
    // What was marked once stays hidden with all that came into it.
    assert.deepEqual(
      shownByMerged,
      shownByLayers.filter((at) => !at.startsWith('kept')),
    );
    // Merged once more with a newer layer.
    const again = await merge(
      box,
      work(merged, (c) => c.unlink('pub/free')),
      2,
    );
    assert.deepEqual(
      tree(inherited(again, 'again')),
      shownByMerged.filter((at) => at !== 'pub/free'),
    );
  }),
);

test(
  'what several layers hold and a newer one removed stays removed, also when only some of them are merged',
  sandboxed(async (box) => {
    let spec = box.spec('a', [await box.unit('one', '1', { x: 'x', 'd/a': 'a' })]);
    const work = (use: (c: Client) => void): void => {
      const client = new Client(spec);
      use(client);
      client.close();
      spec = freeze(box, spec);
    };
    for (const text of ['one', 'two', 'three'])
      work((c) => {
        c.write('x', text);
        c.write('d/own', text);
        c.write('d/a', text);
      });
    work((c) => {
      c.unlink('x');
      for (const name of ['own', 'a']) c.unlink(`d/${name}`);
      c.rmdir('d');
    });
    const before = shown(spec, true);
    assert.deepEqual(Object.keys((before as { tree: object }).tree), []);
    for (const count of [2, 3, 4]) assert.deepEqual(shown(await merge(box, spec, count), true), before);
  }),
);
