/**
 * Snapshots: a list of frozen layers that is kept by name. Taking one freezes the private layer, as a clone does; going back to one lists its layers again over an empty private layer.
 * Both are one record of the journal and cost the same whatever the appliance holds. What the template brings is no part of a snapshot.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkObjectName, LIMITS, StrataError } from '../../base/index.ts';
import { copyRootAttributes, forgetUsage } from '../../vlfs/index.ts';
import { applianceLock, applianceRow, deleteAppliances } from '../appliances.ts';
import type { CatalogRow } from '../catalog.ts';
import { type FrozenId, frozenDir } from '../clone/frozen.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { namesIn, syncDirectory } from '../files.ts';
import type { JournalStep } from '../journal.ts';
import { COMMIT } from '../locks.ts';
import { refuseLingering } from '../mount-list.ts';
import { inState } from '../paths.ts';
import { ownFrozenSteps } from '../policy/record.ts';
import { applianceDirs } from '../private-files.ts';
import { commitRows } from './change.ts';
import { type Snapshot, snapshotOf, splitPlace } from './record.ts';
import { makeQuiet, replacePrivate } from './replace-private.ts';

/** What an appliance is now, under a name. */
export function takeSnapshot(
  context: FleetContext,
  o: { name: string; snapshot?: string },
): ReturnType<Fleet['snapshot']> {
  if (o.snapshot !== undefined) checkObjectName('snapshot', o.snapshot);
  return whenQuiet(context, o.name, async (row) => {
    const createdAt = new Date().toISOString();
    const { snapshots } = row.family;
    const name = o.snapshot ?? freeName(snapshots, createdAt);
    if (snapshots.some((one) => one.name === name)) {
      throw new StrataError('EXISTS', `appliance ${row.name} has a snapshot ${name} already`, {
        hint: `choose another name, or remove it: strata delete ${row.name}@${name}`,
      });
    }
    if (snapshots.length >= LIMITS.snapshots)
      throw new StrataError('LIMIT', `an appliance has at most ${LIMITS.snapshots} snapshots`);
    const frozen = await withFreeze(context, row, async (id, steps) => {
      const list = id === null ? row.frozen : [id, ...row.frozen];
      const family = { ...row.family, snapshots: [...snapshots, { name, createdAt, frozen: list }] };
      const own = id === null ? [] : ownFrozenSteps(context.paths, row.name, id);
      await commitRows(context, 'snapshot', [{ ...row, frozen: list, family }], [...steps, ...own]);
      return list;
    });
    return { name: row.name, snapshot: name, created_at: createdAt, layers: frozen.length };
  });
}

/** Makes an appliance what it was at a snapshot. What it wrote since is deleted, unless another snapshot or a clone has it; its snapshots stay. */
export function restoreSnapshot(
  context: FleetContext,
  o: { name: string; snapshot: string },
): ReturnType<Fleet['restore']> {
  return whenQuiet(context, o.name, async (row) => {
    const { frozen, createdAt } = snapshotOf(row, o.snapshot);
    await withFreeze(context, row, async (_, steps, fresh) => {
      if (fresh !== null && frozen.length > 0)
        copyRootAttributes(join(frozenDir(context.paths, frozen[0]!), 'private'), fresh);
      forgetUsage(applianceDirs(context.paths, row.name).privateDir);
      await commitRows(context, 'restore', [{ ...row, frozen }], steps);
      dropUnusedFrozen(context);
    });
    return { name: row.name, snapshot: o.snapshot, created_at: createdAt };
  });
}

export function listSnapshots(context: FleetContext, name: string): Awaited<ReturnType<Fleet['snapshots']>> {
  const { snapshots } = applianceRow(context, name).family;
  return {
    snapshots: snapshots.map((one) => ({
      name: one.name,
      created_at: one.createdAt,
      layers: one.frozen.length,
    })),
  };
}

/** Deletes appliances and, as `NAME@SNAPSHOT`, snapshots; of each appliance all that are named or none. */
export async function deleteAll(context: FleetContext, places: string[]): Promise<{ deleted: string[] }> {
  const byName = new Map<string, string[]>();
  const whole: string[] = [];
  for (const place of new Set(places)) {
    const { name, snapshot } = splitPlace(place);
    if (snapshot === null) whole.push(name);
    else byName.set(name, [...(byName.get(name) ?? []), snapshot]);
  }
  for (const [name, names] of byName) for (const one of names) snapshotOf(applianceRow(context, name), one);
  const deleted: string[] = [];
  if (whole.length > 0) deleted.push(...(await deleteAppliances(context, whole)).deleted);
  for (const [name, names] of byName) {
    if (!whole.includes(name)) await deleteSnapshots(context, name, names);
    deleted.push(...names.map((one) => `${name}@${one}`));
  }
  return { deleted };
}

function deleteSnapshots(context: FleetContext, name: string, names: string[]): Promise<void> {
  return context.locks.with([applianceLock(name), COMMIT], async () => {
    const row = applianceRow(context, name);
    for (const one of names) snapshotOf(row, one);
    const snapshots = row.family.snapshots.filter((one) => !names.includes(one.name));
    await commitRows(context, 'snapshot-delete', [{ ...row, family: { ...row.family, snapshots } }]);
    dropUnusedFrozen(context);
  });
}

/** Runs `work` under the locks of an appliance whose private layer nobody uses and nothing is left to finish in. */
export async function whenQuiet<T>(
  context: FleetContext,
  name: string,
  work: (row: CatalogRow) => Promise<T>,
): Promise<T> {
  applianceRow(context, name);
  await refuseLingering(context, [name]);
  return context.locks.with([applianceLock(name)], async () => {
    const row = applianceRow(context, name);
    await makeQuiet(context, row);
    return context.locks.with([COMMIT], () => work(applianceRow(context, name)));
  });
}

/**
 * Stages that the private layer becomes the frozen layer `id` and an empty one, prepared at `fresh`, takes its place; null when there is nothing to freeze. `commit` commits the
 * steps. Under the commit lock.
 */
export async function withFreeze<T>(
  context: FleetContext,
  row: CatalogRow,
  commit: (id: FrozenId | null, steps: JournalStep[], fresh: string | null) => Promise<T>,
): Promise<T> {
  const { paths } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, row.name);
  if ([privateDir, whiteoutsDir].every((one) => namesIn(one).length === 0)) return commit(null, [], null);
  const id = operationId();
  // What is left when this fails goes at the next opening; what the journal has recorded needs it.
  const dir = join(paths.appliances, `.tmp-${id}`);
  for (const part of ['private', 'whiteouts']) mkdirSync(join(dir, part), { recursive: true, mode: 0o755 });
  copyRootAttributes(privateDir, join(dir, 'private'));
  mkdirSync(frozenDir(paths, id), { mode: 0o700 });
  const steps = replacePrivate(context, row.name, { from: dir, to: frozenDir(paths, id) });
  for (const one of [dir, paths.frozen]) syncDirectory(one);
  context.onStep('freeze-staged');
  return await commit(id, [...steps, { do: 'remove', path: inState(paths, dir) }], join(dir, 'private'));
}

/** The instant as a name, `20260102-030405`. */
function freeName(taken: Snapshot[], createdAt: string): string {
  const name = createdAt.replace(/[-:]/g, '').replace('T', '-').slice(0, 15);
  const isTaken = (one: string): boolean => taken.some((snapshot) => snapshot.name === one);
  for (let n = 2, one = name; ; one = `${name}-${n++}`) if (!isTaken(one)) return one;
}
