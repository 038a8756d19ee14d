/** For tests: merges the newest frozen layers of an appliance of the sandbox, and shows the result instead of them. */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { LevelSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { type Sandbox, stackOf } from '../../vlfs/test-support/vlfs.test-support.ts';
import { mergeFrozen } from './merge-frozen.ts';

let merged = 0;

export function frozenLevels(spec: VlfsSpec): LevelSpec[] {
  return spec.stack.levels.filter(({ kind }) => kind === 'frozen');
}

/** Whether the appliance itself has removed or reverted something of its frozen layers: then they stay as they are. */
export function hasOwnMarks(spec: VlfsSpec): boolean {
  return existsSync(join(spec.whiteoutsDir, 'frozen'));
}

/** The level that the newest `count` frozen layers become. */
export async function mergedLevel(box: Sandbox, spec: VlfsSpec, count: number): Promise<LevelSpec> {
  const layers = frozenLevels(spec).slice(0, count);
  const id = `m${merged++}`;
  const to = join(box.dir, 'frozen', id);
  mkdirSync(to, { recursive: true });
  await mergeFrozen({
    layers: layers.map((level) => ({ id: level.id.slice('frozen/'.length), dir: dirname(level.treeDir) })),
    to,
  });
  return {
    kind: 'frozen',
    id: `frozen/${id}`,
    treeDir: join(to, 'private'),
    indexFile: join(to, 'index'),
    whiteoutsDir: join(to, 'whiteouts'),
    own: true,
  };
}

export async function merge(box: Sandbox, spec: VlfsSpec, count: number): Promise<VlfsSpec> {
  const level = await mergedLevel(box, spec, count);
  return { ...spec, stack: stackOf([level, ...spec.stack.levels.slice(count)]) };
}
