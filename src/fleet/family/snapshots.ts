/**
 * Snapshots: a list of frozen layers that is kept by name. Taking one freezes the private layer, as a clone does; going back to one lists its layers again over an empty private layer.
 * Both are one record of the journal and cost the same whatever the appliance holds. What the template brings is no part of a snapshot.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkObjectName, LIMITS, StrataError } from '../../base/index.ts';
import { copyRootAttributes } from '../../vlfs/index.ts';
import { applianceLock, applianceRow, deleteAppliances } from '../appliances/appliances.ts';
import { freezeSource } from '../clone/freeze-source.ts';
import { frozenDir } from '../clone/frozen.ts';
import { servedBy } from '../clone/served.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { refuseLingering } from '../mounts/mount-list.ts';
import { refuseSealed } from '../sealed/settle.ts';
import { syncDirectory } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { commitRows } from './change.ts';
import { commitExchange, freshOf } from './exchange.ts';
import { makeQuiet } from './quiet.ts';
import { type Snapshot, snapshotOf, splitPlace, stateStep } from './record.ts';

/** What an appliance is now, under a name; mounted or not. */
export async function takeSnapshot(
  context: FleetContext,
  o: { name: string; snapshot?: string },
): ReturnType<Fleet['snapshot']> {
  if (o.snapshot !== undefined) checkObjectName('snapshot', o.snapshot);
  applianceRow(context, o.name);
  const plane = await servedBy(context, o.name);
  if (plane === null) await refuseLingering(context, [o.name]);
  return context.locks.with([applianceLock(o.name)], async () => {
    const row = applianceRow(context, o.name);
    if (plane === null) await makeQuiet(context, row);
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
    return context.locks.with([COMMIT], async () => {
      const { source } = await freezeSource(context, applianceRow(context, row.name), plane);
      const { frozen, family } = source;
      const now = { ...family, snapshots: [...family.snapshots, { name, createdAt, frozen }] };
      await commitRows(context, 'snapshot', [{ ...source, family: now }]);
      return { name: row.name, snapshot: name, created_at: createdAt, layers: frozen.length };
    });
  });
}

/**
 * Makes an appliance what it was at a snapshot, mounted or not. What it wrote since is deleted, unless another snapshot or a clone has it; its snapshots stay. Programs keep the files that
 * they have open, as after a reset.
 */
export async function restoreSnapshot(
  context: FleetContext,
  o: { name: string; snapshot: string },
): ReturnType<Fleet['restore']> {
  snapshotOf(applianceRow(context, o.name), o.snapshot);
  await refuseLingering(context, [o.name]);
  return context.locks.with([applianceLock(o.name)], async () => {
    if ((await servedBy(context, o.name)) === null) await makeQuiet(context, applianceRow(context, o.name));
    else refuseSealed(context, o.name);
    return context.locks.with([COMMIT], async () => {
      const before = applianceRow(context, o.name);
      const { frozen, createdAt } = snapshotOf(before, o.snapshot);
      const { paths } = context;
      // A frozen layer that nobody lists, so it is deleted as those are.
      const id = operationId();
      const { from, to } = freshOf(paths, id);
      for (const dir of [to, from]) mkdirSync(dir, { mode: 0o700 });
      for (const part of ['private', 'whiteouts']) mkdirSync(join(from, part), { mode: 0o755 });
      const root = frozen[0];
      if (root !== undefined)
        copyRootAttributes(join(frozenDir(paths, root), 'private'), join(from, 'private'));
      for (const dir of [from, to, paths.frozen]) syncDirectory(dir);
      context.onStep('restore-staged');
      const now = { ...before, frozen };
      const steps = [stateStep(paths, now)];
      try {
        await commitExchange(context, 'restore', { rows: [now], steps, before, fresh: id });
      } finally {
        dropUnusedFrozen(context, [id]);
      }
      return { name: before.name, snapshot: o.snapshot, created_at: createdAt };
    });
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

/** The instant as a name, `20260102-030405`. */
function freeName(taken: Snapshot[], createdAt: string): string {
  const name = createdAt.replace(/[-:]/g, '').replace('T', '-').slice(0, 15);
  const isTaken = (one: string): boolean => taken.some((snapshot) => snapshot.name === one);
  for (let n = 2, one = name; ; one = `${name}-${n++}`) if (!isTaken(one)) return one;
}
