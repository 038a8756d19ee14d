/**
 * Frozen layers that nobody needs go: a rename under the commit lock, so at once for everybody; a thread deletes what it held, and nobody waits for
 * that. What a process that ends leaves is deleted after the next opening.
 */
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { FleetContext } from '../context.ts';
import type { Garbage, GcRun } from '../gc/trash.ts';
import { takeAway } from '../gc/trash.ts';
import type { GcJob } from '../gc/worker.ts';
import { isThere, namesIn } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { type FrozenId, frozenDir, unusedFrozen } from './frozen.ts';

const TRASH = /^\.trash-/;
/** A merge that was not done. */
const STAGED = /^\.tmp-[0-9a-f]{12}$/;

/** Ceased to be needed, but shown by a mount when that was looked at. */
const shownStill = new WeakMap<FleetContext, Set<FrozenId>>();

/**
 * Takes away the frozen layers that ceased to be needed, and `more` that never were, and begins to delete them: what it costs does not depend on how many appliances
 * there are. Under the commit lock.
 */
export function dropUnusedFrozen(context: FleetContext, more: readonly FrozenId[] = []): void {
  const still = shownStill.get(context) ?? [];
  const among = new Set([...context.catalog.takeLetGo(), ...still, ...more]);
  if (among.size === 0) return;
  const unused = unusedFrozen(context, [...among]);
  takeAside(context, unused);
  const left = [...among].filter((id) => !unused.includes(id) && !context.catalog.needsFrozen(id));
  shownStill.set(context, new Set(left.filter((id) => isThere(frozenDir(context.paths, id)))));
}

function takeAside(context: FleetContext, ids: readonly FrozenId[]): void {
  const { frozen } = context.paths;
  for (const id of ids) {
    context.onStep('frozen-aside');
    renameSync(join(frozen, id), join(frozen, `.trash-${id}`));
  }
  deleteTrash(context);
}

/** After the opening: what killed processes left. */
export function dropLeftFrozen(context: FleetContext): Promise<void> {
  const { frozen } = context.paths;
  const names = namesIn(frozen);
  if (names.length === 0) return Promise.resolve();
  for (const name of names.filter((one) => STAGED.test(one)))
    renameSync(join(frozen, name), join(frozen, `.trash-${name.slice(1)}`));
  return context.locks.with([COMMIT], () => takeAside(context, unusedFrozen(context)));
}

/** A merged layer that nobody took, by its name beside the others: it may be large, so a thread deletes it. */
export function discardStaged(context: FleetContext, name: string): void {
  const { frozen } = context.paths;
  renameSync(join(frozen, name), join(frozen, `.trash-${name.slice(1)}`));
  deleteTrash(context);
}

/** What a thread is deleting. */
const underWay = new Set<string>();

function deleteTrash(context: FleetContext): void {
  const { frozen } = context.paths;
  const paths = namesIn(frozen)
    .filter((name) => TRASH.test(name))
    .map((name) => join(frozen, name))
    .filter((path) => !underWay.has(path));
  if (paths.length === 0) return;
  for (const path of paths) underWay.add(path);
  const job: GcJob = { paths, remove: true };
  const worker = new Worker(new URL('../gc/worker.ts', import.meta.url), {
    workerData: job,
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  worker.on('error', () => {});
  worker.on('exit', () => {
    for (const path of paths) underWay.delete(path);
  });
  worker.unref();
}

/** As a part of gc: unused frozen layers, and what is left of others. */
export async function collectFrozen(run: GcRun): Promise<void> {
  const { context } = run;
  const { paths } = context;
  const garbage = (name: string): Garbage => ({
    kind: 'frozen',
    name: `frozen/${name}`,
    path: join(paths.frozen, name),
    trashDir: TRASH.test(name) ? null : paths.frozen,
  });
  const unused = await context.locks.with([COMMIT], () => unusedFrozen(context));
  const isFree = () => {
    const now = new Set(unusedFrozen(context));
    return ({ path }: Garbage) => now.has(path.slice(paths.frozen.length + 1));
  };
  if (unused.length > 0) await takeAway(run, unused.map(garbage), isFree);
  const aside = new Set(run.aside.values());
  const left = namesIn(paths.frozen).filter(
    (name) => TRASH.test(name) && !aside.has(join(paths.frozen, name)),
  );
  if (left.length > 0) await takeAway(run, left.map(garbage), () => () => true);
}
