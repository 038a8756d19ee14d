/** A directory of the layers that was deleted, or replaced, in an upper level and is shown again by lower ones: a rename loses nothing of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Name } from '../../base/index.ts';
import { RENAME_EXCHANGE } from '../../sys/index.ts';
import { type LevelSpec, PENDING, type VlfsSpec } from '../contract.ts';
import { cloneOf, copyOf, freeze } from '../test-support/frozen.test-support.ts';
import { removeAll } from '../test-support/operations.test-support.ts';
import { LARGE, replacedInConfig } from '../test-support/replaced-directory.test-support.ts';
import { Client, type Sandbox, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';

/** Every path below a directory, relative to it, with what it is and its number. */
function below(c: Client, at: string): Record<string, string> {
  const tree = Object.entries(c.tree(at)).map(([path, what]) => {
    return [path.slice(at.length), `${c.stat(path).ino} ${what}`];
  });
  return Object.fromEntries(tree);
}

/** A directory goes to new names and back and changes places with another one, in both directions. */
function moves(c: Client, from: string, other: string): void {
  const before = c.tree();
  const [one, two] = [below(c, from), below(c, other)];
  c.rename(from, 'away');
  assert.deepEqual(below(c, 'away'), one);
  assert.equal(c.exists(from), false);
  c.rename('away', from);
  assert.deepEqual(c.tree(), before);
  for (const [a, b] of [
    [from, other],
    [other, from],
  ] as const) {
    c.rename(a, b, RENAME_EXCHANGE);
    assert.deepEqual([below(c, from), below(c, other)], [two, one]);
    c.rename(a, b, RENAME_EXCHANGE);
    assert.deepEqual([below(c, from), below(c, other)], [one, two]);
  }
  assert.deepEqual(c.tree(), before);
}

/** What an appliance shows, and its clone, each opened anew. */
function isShown(box: Sandbox, spec: VlfsSpec, tree: Record<string, string>): void {
  for (const one of [spec, cloneOf(box, freeze(box, copyOf(box, spec)), `clone${clones++}`)]) {
    const c = new Client(one);
    assert.deepEqual(c.tree(), tree);
    c.close();
    assert.deepEqual(c.faults, []);
  }
}

let clones = 0;

test(
  "a directory that hides the layers' one in a config level was deleted, and new layers show theirs: it can be renamed",
  sandboxed(async (box) => {
    const { spec, newer } = await replacedInConfig(box);
    let c = new Client(spec);
    const shown = below(c, 'e');
    assert.deepEqual(Object.keys(shown), [
      '/a',
      '/deep',
      '/deep/b',
      '/deep/er',
      '/deep/er/large',
      '/deep/er/same',
      '/link',
    ]);
    const before = c.tree();
    moves(c, 'e/deep', 'other');
    moves(c, 'e', 'other');
    assert.deepEqual(below(c, 'e'), shown);
    c.append('e/deep/b', '!');
    assert.equal(c.read('e/deep/er/same'), 'B!');
    c.rename('e', 'kept');
    c.close();
    assert.deepEqual(c.faults, []);
    const now = Object.entries(before).map(([path, what]) => [
      path.replace(/^e(?=$|\/)/, 'kept'),
      what === 'file B' ? 'file B!' : what,
    ]);
    isShown(box, spec, Object.fromEntries(now));

    // What comes next at the old place has nothing to do with it.
    const relayered = { ...copyOf(box, spec), stack: newer };
    c = new Client(relayered);
    assert.equal(c.read('e/new'), 'new');
    assert.deepEqual(Object.keys(below(c, 'kept')), Object.keys(shown));
    c.close();
    c = new Client(spec);
    c.fs.revert(['/e']);
    assert.deepEqual(c.readdir('e'), ['own']);
    assert.equal(c.read('kept/deep/b'), 'B!');
    c.fs.reset([]);
    assert.deepEqual(c.readdir('e'), ['own']);
    assert.equal(c.exists('kept'), false);
    c.close();
    assert.deepEqual(c.faults, []);
  }),
);

test(
  'a directory that a frozen layer had replaced is back by a reset, or a revert, and can be renamed',
  sandboxed(async (box) => {
    const unit = await box.unit('one', '1', { 'c/a': 'c', 'c/d/b': 'b', 'd/b': 'd' });
    const pristine = { c: 'dir', 'c/a': 'file c', 'c/d': 'dir', 'c/d/b': 'file b' };
    for (const [i, restore] of [
      (c: Client) => c.fs.reset([]),
      (c: Client) => c.fs.revert(['/c']),
    ].entries()) {
      let spec = box.spec(`a${i}`, [unit]);
      let c = new Client(spec);
      c.mkdir('l');
      c.rename('c', 'l', RENAME_EXCHANGE);
      c.close();
      spec = freeze(box, spec);
      c = new Client(spec);
      restore(c);
      assert.deepEqual({ c: 'dir', ...c.tree('c') }, pristine);
      c.close();
      for (const one of [freeze(box, copyOf(box, spec)), spec]) {
        c = new Client(one);
        moves(c, 'c', 'd');
        c.rename('c', 'x');
        assert.equal(c.read('x/d/b'), 'b');
        const tree = c.tree();
        c.close();
        assert.deepEqual(c.faults, []);
        isShown(box, one, tree);
      }
    }
  }),
);

test(
  'a rename that has to copy gives way to others, and takes along what they change meanwhile',
  sandboxed(async (box) => {
    const { spec: first } = await replacedInConfig(box);
    const many = Array.from({ length: 150 }, (_, i) => [`e/many/f${i}`, `file ${i}`]);
    const tree = { ...Object.fromEntries(many), 'e/a': 'a', 'e/sub/x': 'x' };
    const [config] = first.stack.levels as [LevelSpec];
    const stacks = await Promise.all(
      ['3', '4'].map(async (version) => stackOf([config, await box.unit('one', version, tree)])),
    );
    const c = new Client({ ...first, stack: stacks[0]! });
    const changes = [
      () => c.unlink('e/many/f149'),
      () => c.write('e/many/new', 'new'),
      () => c.rename('e/sub', 'out'),
      () => c.rename('e/many/f148', 'e/f'),
      () => c.fs.relayer(stacks[1]!),
      () => c.write('e/many/f0', 'changed'),
      () => c.rename('e/many', 'e/more'),
    ];
    const turn = (): number => c.fs.rename(c.caller, 1, 'e' as Name, 1, 'away' as Name, 0);
    let before = c.tree('e');
    let result = turn();
    for (; result === PENDING; result = turn()) {
      const { job } = c.caller;
      assert.ok(job?.kind === 'steps');
      for (let steps = 0; steps < 10; steps++) if (job.advance(0) !== null) break;
      const change = changes.shift();
      change?.();
      if (change !== undefined) before = c.tree('e');
    }
    assert.deepEqual(changes, []);
    assert.equal(result, 0);
    const moved = Object.entries(before).map(([path, what]) => [path.replace('e', 'away'), what]);
    assert.deepEqual(c.tree('away'), Object.fromEntries(moved));
    assert.deepEqual(
      [c.read('away/more/f0'), c.read('away/f'), c.read('out/x')],
      ['changed', 'file 148', 'x'],
    );
    c.close();
    assert.deepEqual(c.faults, []);
  }),
);

test(
  'a rename that has to copy may be cut off before each of its steps',
  sandboxed(async (box) => {
    const { spec: first } = await replacedInConfig(box);
    for (let stopAt = 0; ; stopAt++) {
      const copy = { ...copyOf(box, first), stack: first.stack };
      let steps = 0;
      let failed = false;
      const stopped = new Client(copy, {
        onStep() {
          if (steps++ !== stopAt) return;
          failed = true;
          throw new Error('stopped');
        },
      });
      try {
        stopped.rename('e', 'other/e');
      } catch {}
      stopped.close();
      const again = new Client(copy);
      const shown = again.tree();
      const there = 'other/e' in shown;
      if (!there) again.rename('e', 'other/e');
      assert.equal(again.read('other/e/deep/er/same'), 'B', `step ${stopAt}, again`);
      again.close();
      assert.notEqual(there, 'e' in shown, `step ${stopAt}`);
      assert.equal(shown[there ? 'other/e/deep/b' : 'e/deep/b'], 'file B', `step ${stopAt}`);
      assert.equal(
        shown[there ? 'other/e/deep/er/large' : 'e/deep/er/large'],
        `file ${LARGE}`,
        `step ${stopAt}`,
      );
      assert.equal(Object.keys(shown).length, 11, `step ${stopAt}`);
      if (!failed) break;
    }
    // A fault at a step between requests is told once.
    let faults = 1;
    const c = new Client(first, {
      onStep(step) {
        if (step === 'copy-up tree: opaque' && faults-- > 0) throw new Error('stopped');
      },
    });
    assert.throws(() => c.rename('e', 'away'));
    c.rename('e', 'away');
    assert.equal(c.read('away/deep/b'), 'B');
    c.close();
  }),
);

for (const [what, replace] of [
  ['renamed away', (c: Client) => c.rename('c', 'l')],
  [
    'replaced by a file',
    (c: Client) => {
      removeAll(c, 'c');
      c.write('c', 'a file');
    },
  ],
] as const)
  test(
    `a directory that a frozen layer had ${what} is back by a reset, and renamed: it shows the same when that is frozen, too`,
    sandboxed(async (box) => {
      let spec = box.spec('a', [await box.unit('one', '1', { 'c/a': 'c', 'c/d/b': 'b' })]);
      for (const change of [replace, (c: Client) => c.fs.reset([]), (c: Client) => c.rename('c', 'x')]) {
        const c = new Client(spec);
        change(c);
        c.close();
        spec = freeze(box, spec);
      }
      const c = new Client(spec);
      assert.deepEqual(c.tree(), { x: 'dir', 'x/a': 'file c', 'x/d': 'dir', 'x/d/b': 'file b' });
      c.close();
    }),
  );
