/**
 * The trees of bench/vlfs.ts: a made-up system of 640 packages (about 12,000 files in 2,600 directories, sizes of one to 16 KiB) and two large
 * files, once as 641 layers and once as one layer of the same content. Sizes are from a fixed sequence, so every run has the same tree.
 */
import { linkSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writeTreeIndex } from '../../src/layer/index.ts';
import type { LevelSpec, StackSpec } from '../../src/vlfs/contract.ts';

export const LAYERS = 641;
export const LARGE_FILE = 'srv/large';
export const LARGE_MIB = 256;
export const SHARED_FILE = 'srv/shared';
export const SHARED_MIB = 64;
/** A directory that nearly every layer has. */
export const BUSY_DIRECTORY = 'usr/share/doc';

/** Numbers of a fixed sequence in [0, below). */
function sequence(): (below: number) => number {
  let state = 1;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
}

/** The paths of a package: most have a handful of files in directories that others have too, one in 20 a subtree of its own. */
function packagePaths(number: number): string[] {
  const name = `package-${number}`;
  const paths = [
    `${BUSY_DIRECTORY}/${name}/copyright`,
    `${BUSY_DIRECTORY}/${name}/changelog.gz`,
    `var/lib/info/${name}.list`,
    `var/lib/info/${name}.md5sums`,
    `usr/bin/${name}`,
    `usr/share/man/man1/${name}.1.gz`,
    `usr/lib/system/lib${name}.so.1`,
    `usr/share/${name}/data-0`,
    `etc/${name}/main.conf`,
  ];
  if (number % 20 === 0)
    for (let i = 0; i < 200; i++) paths.push(`usr/share/${name}/part-${i % 12}/item-${i}`);
  return paths;
}

/** Writes both forms below `dir` and returns their stacks and the path of the tree in one piece. */
export async function makeTrees(dir: string): Promise<{ merged: string; one: StackSpec; many: StackSpec }> {
  const next = sequence();
  const content = Buffer.from(Array.from({ length: 16384 }, (_, i) => i & 0xff));
  const merged = join(dir, 'one/filesystem');
  const put = (tree: string, path: string, size: number): void => {
    for (const base of [tree, merged]) {
      mkdirSync(dirname(join(base, path)), { recursive: true });
      writeFileSync(join(base, path), content.subarray(0, size));
    }
  };
  const levels: LevelSpec[] = [];
  for (let number = 1; number < LAYERS; number++) {
    const tree = join(dir, `layers/package-${number}_1/filesystem`);
    for (const path of packagePaths(number)) put(tree, path, 1024 + next(15 * 1024));
    levels.push(await level(`package-${number}`, tree));
  }
  const large = join(dir, 'layers/large_1/filesystem');
  for (const [path, mib] of [
    [LARGE_FILE, LARGE_MIB],
    [SHARED_FILE, SHARED_MIB],
  ] as const) {
    put(large, path, 0);
    // One file in both: how the page cache holds it, and with that how fast it is read, is then the same.
    writeFileSync(join(merged, path), Buffer.alloc(mib * 2 ** 20, content));
    rmSync(join(large, path));
    linkSync(join(merged, path), join(large, path));
  }
  levels.push(await level('large', large));
  const one = [await level('everything', merged)];
  return { merged, one: { key: 'bench-one', levels: one }, many: { key: 'bench-many', levels } };
}

async function level(name: string, treeDir: string): Promise<LevelSpec> {
  const indexFile = join(treeDir, '../index');
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: `bench/${name} 1`, treeDir, indexFile, whiteoutsDir: null };
}
