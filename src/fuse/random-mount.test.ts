/** The same random operations on a mounted VLFS and on a plain directory: what programs see must not differ, whatever the kernel caches. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { writeTreeIndex } from '../layer/index.ts';
import { withDataPlane } from './test-support/with-data-plane.ts';

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
const name = fc.constantFrom(...NAMES);
const small = fc.integer({ min: 0, max: 9000 });

type Step = (root: string, open: Map<number, number>) => unknown;

/** Contents by position and seed, so that holes and lengths show. */
function bytes(seed: number, length: number): Buffer {
  return Buffer.alloc(length, `${seed}.`);
}

const step: fc.Arbitrary<{ label: string; run: Step }> = fc.oneof(
  fc.tuple(name, small).map(([n, size]) => ({
    label: `write ${n} ${size}`,
    run: (root: string) => fs.writeFileSync(join(root, n), bytes(size, size)),
  })),
  fc.tuple(name, small).map(([n, size]) => ({
    label: `append ${n} ${size}`,
    run: (root: string) => fs.appendFileSync(join(root, n), bytes(size, size % 100)),
  })),
  fc.tuple(name, small).map(([n, size]) => ({
    label: `truncate ${n} ${size}`,
    run: (root: string) => fs.truncateSync(join(root, n), size),
  })),
  name.map((n) => ({ label: `unlink ${n}`, run: (root: string) => fs.unlinkSync(join(root, n)) })),
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
  fc.tuple(name, fc.integer({ min: 0, max: 0o777 })).map(([n, mode]) => ({
    label: `chmod ${n} ${mode.toString(8)}`,
    run: (root: string) => fs.chmodSync(join(root, n), mode | 0o400),
  })),
  fc.tuple(name, small).map(([n, t]) => ({
    label: `utimes ${n} ${t}`,
    run: (root: string) => fs.utimesSync(join(root, n), t, t),
  })),
  fc.tuple(name, fc.integer({ min: 0, max: 2 })).map(([n, slot]) => ({
    label: `open ${n} as ${slot}`,
    run: (root: string, open: Map<number, number>) => {
      const old = open.get(slot);
      if (old !== undefined) fs.closeSync(old);
      open.delete(slot);
      // Never 'r': a descriptor opened for reading before a copy-up goes on showing the shared original (docs/architecture.md).
      open.set(slot, fs.openSync(join(root, n), 'r+'));
    },
  })),
  fc.tuple(fc.integer({ min: 1, max: 2 }), small).map(([slot, at]) => ({
    label: `pwrite ${slot} at ${at}`,
    run: (_root: string, open: Map<number, number>) =>
      open.has(slot) ? fs.writeSync(open.get(slot)!, bytes(at, 10), 0, 10, at) : null,
  })),
  fc.integer({ min: 0, max: 2 }).map((slot) => ({
    label: `read ${slot}`,
    run: (_root: string, open: Map<number, number>) => {
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
  name.map((n) => ({ label: `look ${n}`, run: (root: string) => look(join(root, n)) })),
);

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

test('random operations on a mounted VLFS have the results they have on a plain directory', async () => {
  await withDataPlane(
    async (t) => {
      const unit = t.makeDir('unit/filesystem');
      for (const path of ['shared/x', 'shared/y', 'shared/sub/z', 'hard1']) {
        fs.mkdirSync(dirname(join(unit, path)), { recursive: true });
        fs.writeFileSync(join(unit, path), bytes(path.length, 5000));
      }
      fs.linkSync(join(unit, 'hard1'), join(unit, 'hard2'));
      await writeTreeIndex(join(t.dir, 'unit/index'), unit);
      let run = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
          const id = `r${run++}`;
          const dir = t.makeDir(id);
          for (const sub of ['private', 'whiteouts', 'mnt']) fs.mkdirSync(join(dir, sub));
          execFileSync('cp', ['-a', unit, join(dir, 'plain')]);
          const vlfs = {
            name: id,
            privateDir: join(dir, 'private'),
            whiteoutsDir: join(dir, 'whiteouts'),
            readOnly: false,
            stack: {
              key: 'unit',
              levels: [
                {
                  kind: 'software',
                  id: 'main/unit 1',
                  treeDir: unit,
                  indexFile: join(t.dir, 'unit/index'),
                  whiteoutsDir: null,
                },
              ],
            },
          } as const;
          const request = {
            id,
            mountpoint: join(dir, 'mnt'),
            vlfs: structuredClone(vlfs) as never,
            readOnly: false,
          };
          await t.plane.mount(request);
          const roots = [join(dir, 'mnt'), join(dir, 'plain')];
          const opens = [new Map<number, number>(), new Map<number, number>()];
          try {
            for (const { label, run: act } of steps) {
              const [ours, plain] = roots.map((root, i) => result(() => act(root, opens[i]!)));
              assert.deepEqual(ours, plain, label);
            }
            assert.deepEqual(tree(roots[0]!), tree(roots[1]!));
          } finally {
            for (const open of opens) for (const fd of open.values()) fs.closeSync(fd);
            await t.plane.unmount(join(dir, 'mnt'), { force: true });
          }
        }),
        { numRuns: 60, endOnFailure: false },
      );
    },
    { layered: true },
  );
});
