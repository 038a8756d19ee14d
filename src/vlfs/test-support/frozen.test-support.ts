/** For tests: freezes what an appliance of the sandbox has, as a clone of an unmounted appliance does. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { LevelSpec, VlfsSpec } from '../contract.ts';
import { copyRootAttributes, finishPrivate } from '../offline.ts';
import { type Client, runJob, type Sandbox, stackOf } from './vlfs.test-support.ts';

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
  return { ...spec, stack: stackOf([levelIn(dir), ...spec.stack.levels]) };
}

/** As freeze, of a VLFS that is open: as strata-fs does it between two requests. `between`: before what follows is copied; gets the directory of the frozen layer. */
export function freezeOpen(
  box: Sandbox,
  client: Client,
  spec: VlfsSpec,
  between: (dir: string) => void = () => {},
): VlfsSpec {
  const dir = join(box.dir, 'frozen', `f${frozen++}`);
  for (const part of ['private', 'whiteouts']) mkdirSync(join(dir, part), { recursive: true });
  const next = { ...spec, stack: stackOf([levelIn(dir), ...spec.stack.levels]) };
  const work = client.fs.beginFreeze(next.stack, dir);
  const ready = (): void => {
    for (let went = work.step(0); went !== 'ready'; went = work.step(0)) if (went !== 'more') runJob(went);
  };
  const held: number[] = [];
  for (let tries = 0; ; tries++) {
    ready();
    // No kernel caches anything here.
    const outcome = work.commit(new Set(held));
    if (typeof outcome === 'object' && 'mapped' in outcome) break;
    if (outcome !== 'wait') held.push(...outcome.map(({ node }) => node));
    if (tries === 20) throw new Error('it cannot be frozen');
  }
  ready();
  between(dir);
  work.follow();
  ready();
  return next;
}

function levelIn(dir: string): LevelSpec {
  return {
    kind: 'frozen',
    id: `frozen/${basename(dir)}`,
    treeDir: join(dir, 'private'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: join(dir, 'whiteouts'),
    own: true,
  };
}

/** Another appliance that begins with what the frozen `spec` shows. */
export function cloneOf(box: Sandbox, spec: VlfsSpec, name: string): VlfsSpec {
  const clone = box.spec(name, spec.stack.levels);
  copyRootAttributes(spec.privateDir, clone.privateDir);
  return clone;
}

let copies = 0;

/** Another appliance with the same layers, and a copy of the private layer and whiteouts. */
export function copyOf(box: Sandbox, spec: VlfsSpec): VlfsSpec {
  const copy = box.spec(`copy${copies++}`, spec.stack.levels);
  for (const dir of ['privateDir', 'whiteoutsDir'] as const) {
    rmSync(copy[dir], { recursive: true });
    execFileSync('cp', ['-a', spec[dir], copy[dir]]);
  }
  return copy;
}
