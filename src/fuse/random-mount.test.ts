/**
 * The same random operations on a mounted VLFS and on a plain directory: what programs see must not differ, whatever the kernel caches. Relayers, reverts,
 * remounts, clones and the death of the data plane come in between; the plain directory then gets the files that they bring. A clone shows what its source
 * does at that moment, and is written; its source must not see that.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { writeTreeIndex } from '../layer/index.ts';
import type { CacheMode, LevelSpec, StackSpec } from '../vlfs/contract.ts';
import { recoverMounts } from './process/client.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

const NAMES = [
  'a',
  'b',
  'd',
  'd/a',
  'd/e',
  'd/e/f',
  'shared',
  'shared/x',
  'shared/y',
  'shared/sub',
  'shared/sub/z',
  'hard1',
  'hard2',
];
/** Files of a layer that are changed, but not renamed or linked: revert brings them back. */
const REVERTABLE = ['rev/a', 'rev/b'];
/** Files of a layer that comes, goes and is replaced; only read. */
const LIVE = ['live', 'live/f', 'live/g', 'live/d/h'];
/** That layer's versions; '0': it is not in the stack. */
const VERSIONS: Record<string, string[]> = { 0: [], 1: ['live/f', 'live/g'], 2: ['live/f', 'live/d/h'] };

const name = fc.constantFrom(...NAMES);
const changed = fc.constantFrom(...NAMES, ...REVERTABLE);
const small = fc.integer({ min: 0, max: 9000 });

type Opens = Map<number, number>;

/** What is done on both sides, or to the mount and with the same effect to the plain directory. */
type Step = { label: string } & (
  | { run(root: string, open: Opens): unknown }
  | { control(m: Mounted): Promise<void> }
);

/** Contents by position and seed, so that holes and lengths show. */
function bytes(seed: number, length: number): Buffer {
  return Buffer.alloc(length, `${seed}.`);
}

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(changed, small).map(([n, size]) => ({
    label: `write ${n} ${size}`,
    run: (root: string) => fs.writeFileSync(join(root, n), bytes(size, size)),
  })),
  fc.tuple(changed, small).map(([n, size]) => ({
    label: `append ${n} ${size}`,
    run: (root: string) => fs.appendFileSync(join(root, n), bytes(size, size % 100)),
  })),
  fc.tuple(changed, small).map(([n, size]) => ({
    label: `truncate ${n} ${size}`,
    run: (root: string) => fs.truncateSync(join(root, n), size),
  })),
  changed.map((n) => ({ label: `unlink ${n}`, run: (root: string) => fs.unlinkSync(join(root, n)) })),
  name.map((n) => ({ label: `rmdir ${n}`, run: (root: string) => fs.rmdirSync(join(root, n)) })),
  name.map((n) => ({ label: `mkdir ${n}`, run: (root: string) => fs.mkdirSync(join(root, n)) })),
  fc.tuple(name, name).map(([n, m]) => ({
    label: `rename ${n} ${m}`,
    run: (root: string) => fs.renameSync(join(root, n), join(root, m)),
  })),
  fc.tuple(name, name).map(([n, m]) => ({
    label: `link ${n} ${m}`,
    run: (root: string) => fs.linkSync(join(root, n), join(root, m)),
  })),
  fc.tuple(name, name).map(([n, m]) => ({
    label: `symlink ${n} ${m}`,
    run: (root: string) => fs.symlinkSync(n, join(root, m)),
  })),
  fc.tuple(changed, fc.integer({ min: 0, max: 0o777 })).map(([n, mode]) => ({
    label: `chmod ${n} ${mode.toString(8)}`,
    run: (root: string) => fs.chmodSync(join(root, n), mode | 0o400),
  })),
  fc.tuple(changed, small).map(([n, t]) => ({
    label: `utimes ${n} ${t}`,
    run: (root: string) => fs.utimesSync(join(root, n), t, t),
  })),
  fc.tuple(changed, fc.integer({ min: 0, max: 2 })).map(([n, slot]) => ({
    label: `open ${n} as ${slot}`,
    run: (root: string, open: Opens) => {
      const old = open.get(slot);
      if (old !== undefined) fs.closeSync(old);
      open.delete(slot);
      // Never 'r': in the cache mode shared a descriptor opened for reading before a copy-up goes on showing the shared original.
      open.set(slot, fs.openSync(join(root, n), 'r+'));
    },
  })),
  fc.tuple(fc.integer({ min: 1, max: 2 }), small).map(([slot, at]) => ({
    label: `pwrite ${slot} at ${at}`,
    run: (_root: string, open: Opens) =>
      open.has(slot) ? fs.writeSync(open.get(slot)!, bytes(at, 10), 0, 10, at) : null,
  })),
  fc.integer({ min: 0, max: 3 }).map((slot) => ({
    label: `read ${slot}`,
    run: (_root: string, open: Opens) => {
      const fd = open.get(slot);
      if (fd === undefined) return null;
      const into = Buffer.alloc(20_000);
      const stat = fs.fstatSync(fd);
      if (stat.isDirectory()) return 'directory';
      return [
        stat.size,
        stat.mode,
        into.subarray(0, fs.readSync(fd, into, 0, into.length, 0)).toString('latin1'),
      ];
    },
  })),
  fc
    .constantFrom(...NAMES, ...REVERTABLE, ...LIVE)
    .map((n) => ({ label: `look ${n}`, run: (root: string) => look(join(root, n)) })),
  fc.constantFrom(...LIVE).map((n) => ({
    label: `open ${n} as 3`,
    run: (root: string, open: Opens) => {
      const fd = fs.openSync(join(root, n), 'r');
      if (open.has(3)) fs.closeSync(open.get(3)!);
      open.set(3, fd);
    },
  })),
  fc.constantFrom(...Object.keys(VERSIONS)).map((version) => ({
    label: `relayer to ${version}`,
    control: (m: Mounted) => m.relayer(version),
  })),
  fc.constantFrom('rev', ...REVERTABLE).map((n) => ({
    label: `revert ${n}`,
    control: (m: Mounted) => m.revert(n),
  })),
  fc.constant({ label: 'remount', control: (m: Mounted) => m.remount() }),
  fc.constant({ label: 'clone', control: (m: Mounted) => m.clone() }),
);

/** Rare, because it takes long. */
const kill = fc.constant({ label: 'kill the data plane', control: (m: Mounted) => m.kill() });

function look(path: string): unknown {
  const stat = fs.lstatSync(path);
  const size = stat.isDirectory() ? 0 : stat.size;
  const times = stat.isDirectory() || stat.mtimeMs > 1e10 ? 0 : stat.mtimeMs;
  const nlink = stat.isDirectory() ? 0 : stat.nlink;
  const content = stat.isFile()
    ? fs.readFileSync(path, 'latin1')
    : stat.isDirectory()
      ? fs.readdirSync(path).sort()
      : fs.readlinkSync(path);
  return [stat.mode, stat.uid, nlink, size, times, content];
}

function tree(root: string, path = ''): unknown[] {
  const all: unknown[] = [path, look(join(root, path))];
  for (const entry of fs
    .readdirSync(join(root, path), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1)))
    all.push(
      entry.isDirectory()
        ? tree(root, join(path, entry.name))
        : [entry.name, look(join(root, path, entry.name))],
    );
  return all;
}

function result(run: () => unknown): unknown {
  try {
    return run() ?? 'done';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

interface Mounted {
  mnt: string;
  plain: string;
  /** By side: the mount, the plain directory. */
  opens: [Opens, Opens];
  relayer(version: string): Promise<void>;
  revert(name: string): Promise<void>;
  remount(): Promise<void>;
  clone(): Promise<void>;
  kill(): Promise<void>;
  end(): Promise<void>;
}

const copy = (from: string, to: string) => execFileSync('cp', ['-a', from, to]);

async function plantUnits(t: TestPlane): Promise<Map<string, LevelSpec>> {
  const levels = new Map<string, LevelSpec>();
  const base = ['shared/x', 'shared/y', 'shared/sub/z', 'hard1', ...REVERTABLE];
  for (const [id, files] of Object.entries({ base, ...VERSIONS })) {
    const dir = t.makeDir(`unit-${id}`);
    const tree = t.makeDir(`unit-${id}/filesystem`);
    for (const path of files) {
      fs.mkdirSync(dirname(join(tree, path)), { recursive: true });
      fs.writeFileSync(join(tree, path), bytes(id === 'base' ? path.length : Number(id), 5000));
    }
    if (id === 'base') fs.linkSync(join(tree, 'hard1'), join(tree, 'hard2'));
    await writeTreeIndex(join(dir, 'index'), tree);
    levels.set(id, {
      kind: 'software',
      id: id === 'base' ? 'main/base 1' : `main/live ${id}`,
      treeDir: tree,
      indexFile: join(dir, 'index'),
      whiteoutsDir: null,
    });
  }
  return levels;
}

async function mountBeside(
  t: TestPlane,
  id: string,
  levels: Map<string, LevelSpec>,
  cache: CacheMode,
): Promise<Mounted> {
  const dir = t.makeDir(id);
  const [mnt, plain] = [t.makeDir(`${id}/mnt`), join(dir, 'plain')];
  const pristine = levels.get('base')!.treeDir;
  const opens: [Opens, Opens] = [new Map(), new Map()];
  let version = '0';
  /** The newest first. */
  let frozen: LevelSpec[] = [];
  const stack = (): StackSpec => {
    const ids = version === '0' ? ['base'] : [version, 'base'];
    const all = [...frozen, ...ids.map((level) => levels.get(level)!)];
    return { key: [...frozen.map((one) => one.id), ...ids].join('+'), levels: all };
  };
  let clones = 0;
  const clone = async (): Promise<void> => {
    const at = t.makeDir(`${id}/frozen/${clones}`);
    const [treeDir, whiteoutsDir] = [
      t.makeDir(`${id}/frozen/${clones}/private`),
      t.makeDir(`${id}/frozen/${clones}/whiteouts`),
    ];
    const name = `${id}-${clones++}`;
    frozen = [
      { kind: 'frozen', id: `frozen/${name}`, treeDir, indexFile: join(at, 'index'), whiteoutsDir },
      ...frozen,
    ];
    await t.plane.freeze({ id, stack: stack(), dir: at });
    // As stratad does: nobody opens what is not whole.
    await t.plane.follow(id);
    const there = t.makeDir(`${id}/clone`);
    const vlfs = {
      name,
      privateDir: t.makeDir(`${id}/clones/${name}/private`),
      whiteoutsDir: t.makeDir(`${id}/clones/${name}/whiteouts`),
      readOnly: false,
      stack: stack(),
      cache,
    };
    await t.plane.mount({ id: name, mountpoint: there, readOnly: false, vlfs });
    assert.deepEqual(tree(there), tree(plain), 'the clone');
    for (const entry of fs.readdirSync(there)) {
      const path = join(there, entry);
      if (fs.lstatSync(path).isFile()) fs.appendFileSync(path, 'of the clone');
      else if (!fs.lstatSync(path).isDirectory()) fs.unlinkSync(path);
    }
    await t.plane.unmount(there, { force: false });
  };
  const mount = () =>
    t.plane.mount({
      id,
      mountpoint: mnt,
      readOnly: false,
      vlfs: {
        name: id,
        privateDir: t.makeDir(`${id}/private`),
        whiteoutsDir: t.makeDir(`${id}/whiteouts`),
        readOnly: false,
        stack: stack(),
        cache,
      },
    });
  const closeAll = (): void => {
    for (const open of opens) {
      for (const fd of open.values()) fs.closeSync(fd);
      open.clear();
    }
  };
  copy(pristine, plain);
  await mount();
  return {
    mnt,
    plain,
    opens,
    async relayer(next) {
      version = next;
      await t.plane.relayer([{ id, stack: stack() }]);
      fs.rmSync(join(plain, 'live'), { recursive: true, force: true });
      if (VERSIONS[next]!.length > 0) copy(join(levels.get(next)!.treeDir, 'live'), plain);
    },
    async revert(name) {
      const reverted = await t.plane.revert(id, [`/${name}`]);
      for (const file of name === 'rev' ? REVERTABLE : [name]) {
        if (!reverted.includes(`/${file}`)) {
          // Who opened what is the original still goes on writing to it: in the mode exact, opening for writing is no change yet.
          assert.deepEqual(
            result(() => look(join(plain, file))),
            look(join(pristine, file)),
            file,
          );
          continue;
        }
        copy(join(pristine, file), join(dir, 'original'));
        fs.renameSync(join(dir, 'original'), join(plain, file));
      }
    },
    async remount() {
      closeAll();
      await t.plane.unmount(mnt, { force: false });
      await mount();
    },
    clone,
    /** Files stay open. */
    async kill() {
      const { pid } = await t.plane.status();
      process.kill(pid, 'SIGKILL');
      while (fs.existsSync(`/proc/${pid}`)) await delay(5);
      t.plane.close();
      t.plane = await t.start();
      assert.deepEqual(await recoverMounts(t.root, t.plane), [], 'it was taken over');
    },
    async end() {
      closeAll();
      await t.plane.unmount(mnt, { force: true });
      fs.rmSync(dir, { recursive: true, force: true });
    },
  };
}

for (const cache of ['shared', 'exact'] as const) {
  test(`random operations on a mounted VLFS have the results they have on a plain directory (--cache ${cache})`, async () => {
    await withDataPlane(
      async (t) => {
        const levels = await plantUnits(t);
        let run = 0;
        const steps = fc.array(fc.oneof({ weight: 120, arbitrary: step }, { weight: 1, arbitrary: kill }), {
          minLength: 5,
          maxLength: 40,
        });
        await fc.assert(
          fc.asyncProperty(steps, async (all) => {
            const m = await mountBeside(t, `r${run++}`, levels, cache);
            const roots = [m.mnt, m.plain];
            try {
              for (const one of all) {
                if ('control' in one) {
                  await one.control(m);
                  assert.deepEqual(tree(m.mnt), tree(m.plain), one.label);
                } else {
                  const [ours, plain] = roots.map((root, i) => result(() => one.run(root, m.opens[i]!)));
                  assert.deepEqual(ours, plain, one.label);
                }
              }
              assert.deepEqual(tree(m.mnt), tree(m.plain));
            } finally {
              await m.end();
            }
          }),
          { ...randomRuns(20), endOnFailure: false },
        );
      },
      { layered: true },
    );
  });
}
