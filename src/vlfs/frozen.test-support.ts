/** For tests: freezes what an appliance of the sandbox has, as a clone of an unmounted appliance does. */
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { LevelSpec, VlfsSpec } from './contract.ts';
import { copyRootAttributes, finishPrivate } from './offline.ts';
import { type Sandbox, stackOf } from './vlfs.test-support.ts';

let frozen = 0;

/** The spec with its private layer and whiteouts frozen; its directories are empty then. */
export function freeze(box: Sandbox, spec: VlfsSpec): VlfsSpec {
  finishPrivate(spec);
  const id = `f${frozen++}`;
  const dir = join(box.dir, 'frozen', id);
  mkdirSync(dir, { recursive: true });
  renameSync(spec.privateDir, join(dir, 'private'));
  if (existsSync(spec.whiteoutsDir)) renameSync(spec.whiteoutsDir, join(dir, 'whiteouts'));
  mkdirSync(spec.privateDir);
  mkdirSync(spec.whiteoutsDir);
  copyRootAttributes(join(dir, 'private'), spec.privateDir);
  const level: LevelSpec = {
    kind: 'frozen',
    id: `frozen/${id}`,
    treeDir: join(dir, 'private'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: join(dir, 'whiteouts'),
    own: true,
  };
  return { ...spec, stack: stackOf([level, ...spec.stack.levels]) };
}

/** Another appliance that begins with what the frozen `spec` shows. */
export function cloneOf(box: Sandbox, spec: VlfsSpec, name: string): VlfsSpec {
  const clone = box.spec(name, spec.stack.levels);
  copyRootAttributes(spec.privateDir, clone.privateDir);
  return clone;
}
