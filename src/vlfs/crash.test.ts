/**
 * Every change on disk is cut off before each of its steps in turn, as kill -9 does; the next opening must show before or after, whole. The
 * control operations flip path by path: there each path must be before or after, and repeating the operation must end it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import type { LevelSpec, VlfsSpec } from './contract.ts';
import { referenceTree } from './test-support/reference.test-support.ts';
import { Client, makeSandbox, runJob, type Sandbox } from './test-support/vlfs.test-support.ts';

class Crash extends Error {}

interface Scenario {
  setup?: (c: Client) => void;
  act: (c: Client) => void;
  /** Paths may flip one by one. */
  pathByPath?: boolean;
}

const big = 'x'.repeat(300_000);
/** Names of one file that take more than the 4 KiB that ext4 has for attributes. */
const MANY = Array.from({ length: 20 }, (_, i) => `many/${i}-${'n'.repeat(240)}`);

const SCENARIOS: Record<string, Scenario> = {
  'copy-up of a small file': { act: (c) => c.chmod('etc/deep/a', 0o600) },
  'copy-up of a large file': { act: (c) => c.chmod('big', 0o600) },
  'first write to a large file': {
    act(c) {
      const handle = c.open('big', 2);
      try {
        c.writeHandle(handle, 'y'.repeat(5000), 6000);
      } finally {
        c.release(handle);
      }
    },
  },
  'completing a large file': {
    act(c) {
      c.chmod('big', 0o600);
      const handle = c.open('big', 2);
      c.writeHandle(handle, 'y'.repeat(200_000), 6000);
      c.release(handle);
      for (let job = c.fs.takeBackgroundJob(); job !== null; job = c.fs.takeBackgroundJob()) runJob(job);
    },
    setup(c) {
      c.chmod('big', 0o600);
      const handle = c.open('big', 2);
      c.writeHandle(handle, 'y'.repeat(200_000), 6000);
      c.release(handle);
      c.chmod('big', 0o700);
    },
  },
  'copy-up that truncates': { act: (c) => c.write('etc/a', '') },
  'copy-up of a hard-linked file': { act: (c) => c.chmod('h1', 0o600) },
  'copy-up of a file whose names fill more than an attribute': { act: (c) => c.chmod(MANY[0]!, 0o600) },
  'deletion of a file of two levels': { act: (c) => c.unlink('etc/both') },
  'deletion of a changed file of two levels': {
    setup: (c) => c.write('etc/both', 'mine'),
    act: (c) => c.unlink('etc/both'),
  },
  'removal of a directory of three levels': {
    setup(c) {
      c.unlink('dir/sub/x');
      c.rmdir('dir/sub');
      for (const name of c.readdir('dir')) c.unlink(`dir/${name}`);
    },
    act: (c) => c.rmdir('dir'),
  },
  'rename of a shared file over a shared file': { act: (c) => c.rename('etc/a', 'etc/both') },
  'rename of a hard-linked file': { act: (c) => c.rename('h1', 'etc/h3') },
  'rename of a shared directory': { act: (c) => c.rename('etc', 'moved') },
  'rename of a renamed directory back': {
    setup: (c) => c.rename('etc', 'moved'),
    act: (c) => c.rename('moved', 'etc'),
  },
  'rename of a directory over an emptied one': {
    setup(c) {
      c.rename('dir/sub', 'sub');
      for (const name of c.readdir('dir')) c.unlink(`dir/${name}`);
    },
    act: (c) => c.rename('etc', 'dir'),
  },
  'exchange of a file and a directory': { act: (c) => c.rename('etc', 'h1', 2) },
  'new file where a directory was renamed away': {
    setup: (c) => c.rename('etc', 'moved'),
    act: (c) => c.mknod('etc', 0o100644),
  },
  'new directory where one was renamed away': {
    setup: (c) => c.rename('etc', 'moved'),
    act: (c) => c.mkdir('etc'),
  },
  'removal of a directory whose part was renamed away': {
    setup(c) {
      c.rename('etc/deep', 'deep');
      c.unlink('deep/a');
      for (const name of c.readdir('etc')) c.unlink(`etc/${name}`);
    },
    act: (c) => c.rmdir('etc'),
  },
  'removal of a directory that was renamed': {
    setup(c) {
      c.rename('dir', 'moved');
      c.unlink('moved/sub/x');
      c.rmdir('moved/sub');
      for (const name of c.readdir('moved')) c.unlink(`moved/${name}`);
    },
    act: (c) => c.rmdir('moved'),
  },
  'removal of a file where a directory was renamed away': {
    setup(c) {
      c.rename('etc', 'moved');
      c.mknod('etc', 0o100644);
    },
    act: (c) => c.unlink('etc'),
  },
  'link of a shared file': { act: (c) => c.link('etc/a', 'etc/a2') },
  reset: {
    setup(c) {
      c.write('etc/a', 'mine');
      c.unlink('h1');
      c.write('kept', 'kept');
      c.rename('dir', 'd2');
    },
    act: (c) => c.fs.reset(['kept']),
  },
  'revert of everything': {
    setup(c) {
      c.write('etc/a', 'mine');
      c.chmod('h1', 0o600);
      c.unlink('etc/both');
    },
    act: (c) => void c.fs.revert(['/']),
    pathByPath: true,
  },
};

function shown(c: Client): Record<string, string> {
  const tree = c.tree();
  return Object.fromEntries(
    Object.entries(tree).map(([path, what]) => {
      const { mode, nlink } = c.stat(path);
      return [path, `${what} ${(mode & 0o7777).toString(8)} ${what === 'dir' ? '' : nlink}`];
    }),
  );
}

function look(spec: VlfsSpec): Record<string, string> {
  const c = new Client(spec);
  try {
    const tree = c.tree();
    assert.deepEqual(tree, referenceTree(spec));
    return shown(c);
  } finally {
    c.close();
  }
}

function prepared(box: Sandbox, levels: LevelSpec[], name: string, scenario: Scenario): VlfsSpec {
  const spec = box.spec(name, levels);
  const c = new Client(spec);
  scenario.setup?.(c);
  c.close();
  return spec;
}

/** Cuts `act` off before step `n`; false when it needs fewer steps. */
function crashAt(spec: VlfsSpec, act: Scenario['act'], n: number): boolean {
  let steps = 0;
  const c = new Client(spec, {
    onStep() {
      if (++steps === n) throw new Crash();
    },
  });
  try {
    act(c);
  } catch {
    // The operation answers EIO, or throws: nobody is left to hear it. The descriptors stay open, as at a crash, until the test ends.
    assert.ok(steps >= n);
  }
  return steps >= n;
}

test('a crash before any step leaves before or after', async (t) => {
  const box = makeSandbox();
  try {
    const upper = await box.unit('upper', '1', { 'etc/both': 'upper', 'dir/u': 'u', 'dir/sub/x': 'x' });
    const lower = await box.unit('lower', '1', {
      'etc/a': 'a',
      'etc/both': 'lower',
      'etc/deep/a': 'deep',
      'dir/l': 'l',
      h1: 'hard',
      h2: { hard: 'h1' },
      'etc/h3': 'other',
      big,
      [MANY[0]!]: 'many',
      ...Object.fromEntries(MANY.slice(1).map((path) => [path, { hard: MANY[0]! }])),
    });
    const third = await box.unit('third', '1', { 'dir/t': 't' });
    const levels = [upper, lower, third];
    for (const [name, scenario] of Object.entries(SCENARIOS)) {
      await t.test(name, () => {
        const id = name.replaceAll(' ', '-');
        const done = prepared(box, levels, `${id}-done`, scenario);
        const before = look(done);
        const c = new Client(done);
        scenario.act(c);
        c.close();
        const after = look(done);
        assert.notDeepEqual(before, after);
        let n = 1;
        for (; ; n++) {
          const spec = prepared(box, levels, `${id}-${n}`, scenario);
          if (!crashAt(spec, scenario.act, n)) break;
          const now = look(spec);
          if (scenario.pathByPath) {
            for (const [path, what] of Object.entries(now)) {
              const text = (tree: Record<string, string>): string | undefined =>
                tree[path]?.split(' ').slice(0, 2).join(' ');
              assert.ok([text(before), text(after)].includes(text(now)), `step ${n}: ${path} ${what}`);
            }
            const again = new Client(spec);
            scenario.act(again);
            again.close();
            assert.deepEqual(look(spec), after, `step ${n}, repeated`);
          } else {
            assert.deepEqual(now, isDeepStrictEqual(now, before) ? before : after, `step ${n}`);
          }
        }
        assert.ok(n > 1, 'has steps');
      });
    }
  } finally {
    box.remove();
  }
});
