/**
 * Whiteouts per layer in all their corners, on a mounted VLFS beside a model of a few lines: what is deleted stays deleted until its layer is replaced
 * or removed, or it is reverted; then it is there again. Random sequences of deletions, replacements, renames, relayers, reverts and remounts.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { writeTreeIndex } from '../layer/index.ts';
import type { LevelSpec, StackSpec } from '../vlfs/contract.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

/** The files of each unit; a directory is where a file is below it. Directories d, s and s/e are merged from up to four levels. */
const UNITS: Record<string, string[]> = {
  'main/a 1': ['d/x', 'd/y', 's/e/f', 'k/a'],
  'main/a 2': ['d/x', 'd/z', 's/e/f', 's/g'],
  'main/a 3': ['d', 's/e'],
  'main/b 1': ['d/b', 's/e/h'],
  'main/c 1': ['d/c', 's/e/i'],
  'config/t': ['d/x', 'd/o', 'k/l'],
};
const STACKS = [
  ['main/a 1', 'main/b 1', 'main/c 1'],
  ['main/a 2', 'main/b 1', 'main/c 1'],
  ['main/b 1', 'main/c 1'],
  ['config/t', 'main/a 1', 'main/b 1'],
  ['config/t', 'main/a 2', 'main/c 1'],
  ['main/a 3'],
  [],
];
const DIRECTORIES = ['d', 's', 's/e', 'k', 'n'];
const FILES = ['d/x', 'd/y', 'd/z', 'd/b', 'd/o', 'd/n', 's/e/f', 's/e/h', 's/g', 'k/a', 'n/n', 'd', 's/e'];

const operation = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant('unlink'), fc.constantFrom(...FILES)) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('remove'), fc.constantFrom(...DIRECTORIES)) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('write'), fc.constantFrom(...FILES)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('mkdir'), fc.constantFrom(...DIRECTORIES)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('rename over'), fc.constantFrom(...FILES)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('rename away'), fc.constantFrom(...FILES)) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('move and remove'), fc.constantFrom(...DIRECTORIES)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('empty and replace'), fc.constantFrom(...DIRECTORIES)) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('revert'), fc.constantFrom(...FILES, ...DIRECTORIES)) },
  { weight: 1, arbitrary: fc.constant(['revert', '']) },
  { weight: 6, arbitrary: fc.tuple(fc.constant('relayer'), fc.nat(STACKS.length - 1).map(String)) },
  { weight: 1, arbitrary: fc.constant(['remount', '']) },
) as fc.Arbitrary<[string, string]>;

const parentOf = (path: string): string => (path.includes('/') ? dirname(path) : '');
const isBelow = (path: string, above: string): boolean => path === above || path.startsWith(`${above}/`);

/** What an appliance should show: its own objects, and the units' less the marks. */
class Model {
  stack = STACKS[0]!;
  /** Content, or null for a directory. */
  readonly own = new Map<string, string | null>();
  /** `UNIT|PATH`: hidden with all below. */
  readonly marks = new Set<string>();

  #kindIn(unit: string, path: string): 'file' | 'directory' | null {
    const files = UNITS[unit]!;
    if (files.includes(path)) return 'file';
    return path === '' || files.some((file) => file.startsWith(`${path}/`)) ? 'directory' : null;
  }

  /** The units that take part in a directory which is there, top first. */
  #contributors(path: string): string[] {
    if (path === '') return this.stack;
    if (typeof this.own.get(path) === 'string') return [];
    const found: string[] = [];
    for (const unit of this.#contributors(parentOf(path))) {
      const kind = this.#kindIn(unit, path);
      if (kind === null || this.marks.has(`${unit}|${path}`)) continue;
      if (kind === 'file') break;
      found.push(unit);
    }
    return found;
  }

  /** The units that hold a path in its parent's contributors, hidden or not. */
  holders(path: string): string[] {
    return this.#contributors(parentOf(path)).filter((unit) => this.#kindIn(unit, path) !== null);
  }

  /** Content, null for a directory, undefined for nothing. */
  at(path: string): string | null | undefined {
    if (path === '') return null;
    if (this.at(parentOf(path)) !== null) return undefined;
    if (this.own.has(path)) return this.own.get(path);
    const top = this.holders(path).find((unit) => !this.marks.has(`${unit}|${path}`));
    if (top === undefined) return undefined;
    return this.#kindIn(top, path) === 'directory' ? null : `${top} ${path}`;
  }

  tree(): Record<string, string> {
    const paths = new Set([...this.own.keys()]);
    for (const unit of this.stack) {
      for (const file of UNITS[unit]!) for (let at = file; at !== ''; at = parentOf(at)) paths.add(at);
    }
    const shown: Record<string, string> = {};
    for (const path of [...paths].sort()) {
      const what = this.at(path);
      if (what !== undefined) shown[path] = what ?? 'directory';
    }
    return shown;
  }

  /** A change in a directory makes the appliance's own copy of it. */
  #ownDirectory(path: string): void {
    for (let at = path; at !== ''; at = parentOf(at)) if (!this.own.has(at)) this.own.set(at, null);
  }

  write(path: string, content: string | null): void {
    this.#ownDirectory(parentOf(path));
    this.own.set(path, content);
  }

  remove(path: string): void {
    this.#ownDirectory(parentOf(path));
    for (const unit of this.holders(path)) this.marks.add(`${unit}|${path}`);
    for (const own of [...this.own.keys()]) if (isBelow(own, path)) this.own.delete(own);
  }

  relayer(stack: string[]): void {
    this.stack = stack;
    for (const mark of [...this.marks]) if (!stack.includes(mark.split('|')[0]!)) this.marks.delete(mark);
  }

  /** False when there is no original. */
  revert(path: string): boolean {
    if (path !== '' && (this.at(parentOf(path)) !== null || this.holders(path).length === 0)) return false;
    this.#revertAt(path);
    return true;
  }

  #revertAt(path: string): void {
    const holders = path === '' ? this.stack : this.holders(path);
    if (path !== '' && holders.length > 0) {
      const own = this.own.get(path);
      const original = this.#kindIn(holders[0]!, path);
      for (const mark of [...this.marks]) {
        const [unit, hidden] = mark.split('|') as [string, string];
        if (holders.includes(unit) && isBelow(hidden, path)) this.marks.delete(mark);
      }
      if (own !== undefined && !(own === null && original === 'directory')) {
        for (const at of [...this.own.keys()]) if (isBelow(at, path)) this.own.delete(at);
        return;
      }
    }
    if (path !== '' && this.at(path) !== null) return;
    const below = path === '' ? '' : `${path}/`;
    const names = new Set<string>();
    for (const at of [...this.own.keys(), ...this.stack.flatMap((unit) => UNITS[unit]!)]) {
      if (at.startsWith(below)) names.add(below + at.slice(below.length).split('/')[0]!);
    }
    for (const name of names) this.#revertAt(name);
    const isCopy = path !== '' && this.own.get(path) === null && holders.length > 0;
    if (isCopy && ![...this.own.keys()].some((at) => at.startsWith(below))) this.own.delete(path);
  }
}

/** Does one operation on the mount and in the model; what the model says is impossible is left out. */
async function step(t: Mounted, model: Model, [op, path]: [string, string]): Promise<void> {
  const at = join(t.dir, path);
  const now = model.at(path);
  const free = path !== '' && model.at(parentOf(path)) === null && now === undefined;
  const away = join(t.dir, 'away');
  switch (op) {
    case 'unlink':
      if (typeof now !== 'string') return;
      fs.unlinkSync(at);
      return model.remove(path);
    case 'remove':
      if (now !== null) return;
      fs.rmSync(at, { recursive: true });
      return model.remove(path);
    case 'move and remove':
      if (now !== null) return;
      fs.renameSync(at, away);
      fs.rmSync(away, { recursive: true });
      return model.remove(path);
    case 'empty and replace':
      if (now !== null) return;
      for (const name of fs.readdirSync(at)) fs.rmSync(join(at, name), { recursive: true });
      fs.mkdirSync(away);
      fs.renameSync(away, at);
      model.remove(path);
      return model.write(path, null);
    case 'write':
      if (typeof now !== 'string' && !free) return;
      fs.writeFileSync(at, 'own');
      return model.write(path, 'own');
    case 'mkdir':
      if (!free) return;
      fs.mkdirSync(at);
      return model.write(path, null);
    case 'rename over':
      if (typeof now !== 'string' && !free) return;
      fs.writeFileSync(away, 'renamed');
      fs.renameSync(away, at);
      return model.write(path, 'renamed');
    case 'rename away':
      if (typeof now !== 'string') return;
      fs.renameSync(at, away);
      assert.equal(fs.readFileSync(away, 'latin1'), now);
      fs.unlinkSync(away);
      return model.remove(path);
    case 'revert':
      if (!model.revert(path)) return;
      return void (await t.revert(`/${path}`));
    case 'relayer':
      model.relayer(STACKS[Number(path)]!);
      return await t.relayer(model.stack);
    case 'remount':
      return await t.remount(model.stack);
  }
}

function shown(root: string): Record<string, string> {
  const paths = (fs.readdirSync(root, { recursive: true }) as string[]).sort();
  return Object.fromEntries(
    paths.map((path) => {
      const at = join(root, path);
      return [path, fs.statSync(at).isDirectory() ? 'directory' : fs.readFileSync(at, 'latin1')];
    }),
  );
}

async function level(t: TestPlane, id: string): Promise<LevelSpec> {
  const dir = t.makeDir(`units/${id.replaceAll(/\W/g, '_')}`);
  const treeDir = join(dir, 'filesystem');
  for (const file of UNITS[id]!) {
    fs.mkdirSync(dirname(join(treeDir, file)), { recursive: true });
    fs.writeFileSync(join(treeDir, file), `${id} ${file}`);
  }
  const overlay = id.startsWith('config');
  await writeTreeIndex(join(dir, 'index'), treeDir, { overlay });
  return {
    kind: overlay ? 'config' : 'software',
    id,
    treeDir,
    indexFile: join(dir, 'index'),
    whiteoutsDir: null,
  };
}

interface Mounted {
  dir: string;
  revert(path: string): Promise<string[]>;
  relayer(stack: string[]): Promise<void>;
  remount(stack: string[]): Promise<void>;
  end(): Promise<void>;
}

async function mountOne(t: TestPlane, name: string, levels: Map<string, LevelSpec>): Promise<Mounted> {
  const base = t.makeDir(name);
  const dir = t.makeDir(`${name}/mnt`);
  const stackOf = (ids: string[]): StackSpec => ({
    key: ids.join('+'),
    levels: ids.map((id) => levels.get(id)!),
  });
  const mount = (ids: string[]) =>
    t.plane.mount({
      id: name,
      mountpoint: dir,
      readOnly: false,
      vlfs: {
        name,
        privateDir: t.makeDir(`${name}/private`),
        whiteoutsDir: t.makeDir(`${name}/whiteouts`),
        stack: stackOf(ids),
        readOnly: false,
      },
    });
  await mount(STACKS[0]!);
  return {
    dir,
    revert: (path) => t.plane.revert(name, [path]),
    relayer: (ids) => t.plane.relayer([{ id: name, stack: stackOf(ids) }]),
    async remount(ids) {
      await t.plane.unmount(dir, { force: false });
      await mount(ids);
    },
    async end() {
      await t.plane.unmount(dir, { force: true });
      fs.rmSync(base, { recursive: true, force: true });
    },
  };
}

test('what is deleted stays deleted as long as its layer, and nothing else is hidden', async () => {
  await withDataPlane(
    async (t) => {
      const levels = new Map<string, LevelSpec>();
      for (const id of Object.keys(UNITS)) levels.set(id, await level(t, id));
      let run = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { minLength: 3, maxLength: 25 }), async (operations) => {
          const mounted = await mountOne(t, `w${run++}`, levels);
          const model = new Model();
          try {
            for (const one of operations) {
              await step(mounted, model, one);
              assert.deepEqual(shown(mounted.dir), model.tree(), `after ${one.join(' ')}`);
            }
          } finally {
            await mounted.end();
          }
        }),
        randomRuns(100),
      );
    },
    { layered: true },
  );
});
