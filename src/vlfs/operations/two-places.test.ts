/**
 * A directory of a layer may show at two places: renamed, and brought back at its old place by a revert or an update. What is done at one place is not seen
 * at the other.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RENAME_EXCHANGE } from '../../sys/index.ts';
import type { LevelSpec } from '../contract.ts';
import { copyOf, freeze } from '../test-support/frozen.test-support.ts';
import { referenceTree } from '../test-support/reference.test-support.ts';
import { replacedInConfig } from '../test-support/replaced-directory.test-support.ts';
import { Client, type Sandbox, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';

const TREE = { 'd/a': 'a', 'd/b': 'b', 'd/s/x': 'x', 'd/s/y': 'y', 'e/z': 'z' };

async function layers(box: Sandbox): Promise<LevelSpec[]> {
  return [await box.unit('top', '1', { 'd/c': 'c', 'd/s/x': 'top x' }), await box.unit('one', '1', TREE)];
}

/** Ways by which d shows at moved and at d. */
const WAYS: Record<string, (c: Client) => void> = {
  revert(c) {
    c.rename('d', 'moved');
    c.fs.revert(['d']);
  },
  'revert of what was made anew'(c) {
    c.rename('d', 'moved');
    c.mkdir('d');
    c.write('d/own', 'own');
    c.fs.revert(['d']);
  },
};

function without(tree: Record<string, string>, gone: readonly string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(tree).filter(([path]) => !gone.includes(path)));
}

test(
  'what is deleted, replaced or renamed at one of two places stays at the other',
  sandboxed(async (box) => {
    const levels = await layers(box);
    for (const [name, way] of Object.entries(WAYS)) {
      for (const [here, there] of [
        ['moved', 'd'],
        ['d', 'moved'],
      ] as const) {
        const spec = box.spec(`${name.replaceAll(' ', '')}-${here}`, levels);
        let c = new Client(spec);
        way(c);
        const both = c.tree();
        assert.equal(both['d/a'], 'file a', name);
        assert.equal(both['moved/s/y'], 'file y', name);
        c.unlink(`${here}/a`);
        c.unlink(`${here}/c`);
        c.rename(`${here}/b`, 'b');
        c.unlink(`${here}/s/x`);
        const expected: Record<string, string> = {
          ...without(
            both,
            ['a', 'b', 'c', 's/x'].map((path) => `${here}/${path}`),
          ),
          b: 'file b',
        };
        assert.deepEqual(c.tree(), expected, `${name}, ${here}`);
        c.unlink(`${here}/s/y`);
        c.rmdir(`${here}/s`);
        delete expected[`${here}/s/y`];
        delete expected[`${here}/s`];
        assert.deepEqual(c.tree(), expected, `${name}, ${here}: a directory`);
        c.write(`${here}/a`, 'again');
        c.write('over', 'over');
        c.rename('over', `${there}/a`);
        c.unlink(`${there}/a`);
        expected[`${here}/a`] = 'file again';
        delete expected[`${there}/a`];
        assert.deepEqual(c.tree(), expected, `${name}, ${here}: made again`);
        assert.deepEqual(c.tree(), referenceTree(spec), name);
        c.close();
        c = new Client(spec);
        assert.deepEqual(c.tree(), expected, `${name}, ${here}: opened again`);
        c.close();
      }
    }
  }),
);

test(
  'a directory that a config level renamed is back at its old place, with new layers: what is done at one place stays there',
  sandboxed(async (box) => {
    const { spec: first } = await replacedInConfig(box, true);
    for (const [here, there] of [
      ['moved', 'e'],
      ['e', 'moved'],
    ] as const) {
      const spec = { ...copyOf(box, first), stack: first.stack };
      let c = new Client(spec);
      const both = c.tree();
      assert.equal(both['e/a'], 'file ONE');
      assert.equal(both['moved/deep/b'], 'file B');
      c.unlink(`${here}/link`);
      c.unlink(`${here}/deep/er/large`);
      c.rename(`${here}/deep/er`, 'er');
      c.rename(`${here}/a`, 'a');
      const expected: Record<string, string> = {
        ...without(
          both,
          ['link', 'a', 'deep/er', 'deep/er/same', 'deep/er/large'].map((path) => `${here}/${path}`),
        ),
        a: 'file ONE',
        er: 'dir',
        'er/same': 'file B',
      };
      assert.deepEqual(c.tree(), expected, here);
      c.unlink(`${here}/deep/b`);
      c.rename(`${here}/deep`, 'deep');
      c.rmdir('deep');
      c.rmdir(here);
      for (const path of ['', '/deep', '/deep/b']) delete expected[here + path];
      assert.deepEqual(c.tree(), expected, `${here}: all`);
      assert.ok(`${there}/deep/er/large` in expected);
      c.close();
      assert.deepEqual(c.faults, []);
      c = new Client(spec);
      assert.deepEqual(c.tree(), expected, `${here}: opened again`);
      c.close();
    }
  }),
);

test(
  'a whole place of two goes alone',
  sandboxed(async (box) => {
    const levels = await layers(box);
    const removeAll = (c: Client, at: string): void => {
      for (const name of c.readdir(at)) {
        if ((c.stat(`${at}/${name}`).mode & 0o170000) === 0o040000) removeAll(c, `${at}/${name}`);
        else c.unlink(`${at}/${name}`);
      }
      c.rmdir(at);
    };
    for (const [here, there] of [
      ['moved', 'd'],
      ['d', 'moved'],
    ] as const) {
      const spec = box.spec(`whole-${here}`, levels);
      let c = new Client(spec);
      WAYS['revert']!(c);
      const both = c.tree();
      removeAll(c, here);
      const expected = Object.fromEntries(
        Object.entries(both).filter(([path]) => path !== here && !path.startsWith(`${here}/`)),
      );
      assert.deepEqual(c.tree(), expected, here);
      c.close();
      c = new Client(spec);
      assert.deepEqual(c.tree(), expected, `${here}, opened again`);
      assert.ok(there in expected);
      c.close();
    }
  }),
);

test(
  'what was deleted in a renamed directory stays deleted when its old place is reverted, and the old place is whole',
  sandboxed(async (box) => {
    const spec = box.spec('revert', await layers(box));
    const c = new Client(spec);
    const before = c.tree();
    c.rename('d', 'moved');
    c.unlink('moved/a');
    c.unlink('moved/s/x');
    c.unlink('moved/s/y');
    c.rmdir('moved/s');
    const moved = Object.entries(c.tree()).filter(([path]) => path.startsWith('moved'));
    c.fs.revert(['d']);
    assert.deepEqual(c.tree(), { ...before, ...Object.fromEntries(moved) });
    assert.deepEqual(c.tree(), referenceTree(spec));
    c.close();
  }),
);

test(
  'a reset that keeps a renamed directory keeps it renamed',
  sandboxed(async (box) => {
    const [top, one] = (await layers(box)) as [LevelSpec, LevelSpec];
    const two = await box.unit('one', '2', { ...TREE, 'd/new': 'new' });
    const cases: Record<string, (c: Client) => void> = {
      plain: () => {},
      'something at the old place'(c) {
        c.mkdir('d');
        c.write('d/own', 'own');
      },
    };
    for (const [name, change] of Object.entries(cases)) {
      const spec = box.spec(name.replaceAll(' ', ''), [top, one]);
      let c = new Client(spec);
      c.mkdir('p');
      c.rename('d', 'kept');
      c.unlink('kept/a');
      c.write('kept/own', 'own');
      change(c);
      c.fs.reset(['kept']);
      const expected = Object.fromEntries(
        Object.entries(c.tree()).filter(([path]) => path !== 'd' && !path.startsWith('d/')),
      );
      assert.equal(expected['kept/own'], 'file own');
      assert.equal(expected['kept/b'], 'file b');
      assert.equal(expected['kept/a'], undefined, 'deleted before');
      assert.deepEqual(c.tree(), expected, name);
      assert.equal(c.exists('d'), false, name);
      c.close();
      c = new Client(spec);
      assert.deepEqual(c.tree(), expected, `${name}, opened again`);
      c.fs.relayer(stackOf([top, two]));
      assert.equal(c.exists('d'), false, `${name}: also in the next version`);
      assert.equal(c.read('kept/new'), 'new');
      c.close();
    }
  }),
);

test(
  'a reset keeps a part of a renamed directory that was renamed again',
  sandboxed(async (box) => {
    const spec = box.spec('nested', await layers(box));
    const c = new Client(spec);
    c.rename('d/s', 'kept');
    c.rename('d', 'other');
    c.fs.reset(['kept']);
    assert.equal(c.exists('other'), false);
    assert.deepEqual(c.readdir('d').sort(), ['a', 'b', 'c']);
    assert.deepEqual(c.readdir('kept').sort(), ['x', 'y']);
    assert.deepEqual(c.tree(), referenceTree(spec));
    c.close();
  }),
);

test(
  'a reset that keeps something of what a frozen layer renamed keeps it renamed, also where an older frozen layer has the directory',
  sandboxed(async (box) => {
    let spec = box.spec('frozen', await layers(box));
    for (const change of [
      (c: Client) => c.append('d/b', '+'),
      (c: Client) => c.rename('d', 'e', RENAME_EXCHANGE),
    ]) {
      const c = new Client(spec);
      change(c);
      c.close();
      spec = freeze(box, spec);
    }
    const c = new Client(spec);
    c.fs.reset(['e/b']);
    assert.deepEqual(c.readdir(''), ['e']);
    assert.deepEqual(c.readdir('e'), ['a', 'b', 'c', 's']);
    assert.equal(c.read('e/b'), 'b+');
    c.close();
  }),
);
