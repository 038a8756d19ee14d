/** A directory of the layers that was deleted, or replaced, in an upper level and is shown again by lower ones: a rename loses nothing of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { E, RENAME_EXCHANGE } from '../../sys/index.ts';
import { freeze } from '../test-support/frozen.test-support.ts';
import { removeAll } from '../test-support/operations.test-support.ts';
import { Client, ErrnoError, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';

/** What a program is told that has to copy. */
const CROSS_DEVICE = (error: unknown): boolean => error instanceof ErrnoError && error.errno === -E.XDEV;

/** As mv after EXDEV. */
function copyAndRemove(c: Client, from: string, to: string): void {
  c.mkdir(to);
  for (const [path, what] of Object.entries(c.tree(from))) {
    const at = `${to}${path.slice(from.length)}`;
    if (what === 'dir') c.mkdir(at);
    else c.write(at, what.slice('file '.length));
  }
  removeAll(c, from);
}

function refusesToRename(c: Client, from: string, other: string): void {
  const before = c.tree();
  assert.throws(() => c.rename(from, 'away'), CROSS_DEVICE);
  assert.throws(() => c.rename(from, other, RENAME_EXCHANGE), CROSS_DEVICE);
  assert.throws(() => c.rename(other, from, RENAME_EXCHANGE), CROSS_DEVICE);
  assert.deepEqual(c.tree(), before);
}

test(
  "a directory that hides the layers' one in a config level was deleted, and new layers show theirs: EXDEV, and a copy has all",
  sandboxed(async (box) => {
    const old = await box.unit('one', '1', { 'e/a': 'one', 'other/x': 'x' });
    const fresh = await box.unit('one', '2', { 'e/a': 'ONE', 'e/deep/b': 'B', 'other/x': 'x' });
    const maker = box.spec('maker', [old]);
    let c = new Client(maker);
    c.rename('e', 'moved');
    c.mkdir('e');
    c.write('e/own', 'of the config level');
    c.close();
    const config = await box.config('t', maker);
    const spec = box.spec('a', [config, old]);
    c = new Client(spec);
    assert.deepEqual(c.readdir('e'), ['own']);
    removeAll(c, 'e');
    c.fs.relayer(stackOf([config, fresh]));
    const shown = { 'e/a': 'file ONE', 'e/deep': 'dir', 'e/deep/b': 'file B' };
    assert.deepEqual(c.tree('e'), shown);
    refusesToRename(c, 'e', 'other');
    refusesToRename(c, 'e/deep', 'other');
    // What no other directory stands before is renamed as ever.
    c.rename('e/deep/b', 'b');
    c.rename('b', 'e/deep/b');
    c.rename('other', 'renamed');
    assert.deepEqual(c.tree('renamed'), { 'renamed/x': 'file x' });
    copyAndRemove(c, 'e', 'copy');
    const copied = Object.entries(shown).map(([path, what]) => [`copy${path.slice(1)}`, what]);
    assert.deepEqual(c.tree('copy'), Object.fromEntries(copied));
    assert.equal(c.exists('e'), false);
    c.close();
    assert.deepEqual(c.faults, []);
  }),
);

test(
  'a directory that a frozen layer had replaced is back by a reset: EXDEV, and it shows what it showed',
  sandboxed(async (box) => {
    const unit = await box.unit('one', '1', { 'c/a': 'c', 'd/b': 'd' });
    const change = (spec: ReturnType<typeof box.spec>, use: (c: Client) => void): void => {
      const c = new Client(spec);
      use(c);
      c.close();
      assert.deepEqual(c.faults, []);
    };
    let spec = box.spec('a', [unit]);
    change(spec, (c) => {
      c.mkdir('l');
      c.rename('c', 'l', RENAME_EXCHANGE);
    });
    spec = freeze(box, spec);
    change(spec, (c) => c.fs.reset([]));
    const pristine = { c: 'dir', 'c/a': 'file c', d: 'dir', 'd/b': 'file d' };
    const isBack = (c: Client): void => {
      assert.deepEqual(c.tree(), pristine);
      refusesToRename(c, 'c', 'd');
    };
    change(spec, isBack);
    change(freeze(box, spec), isBack);
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
