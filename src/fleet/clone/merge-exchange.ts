/**
 * A merged layer takes the place of those that it was made of, in one appliance after the other: by a commit, and by a relayer where one is mounted. Nothing
 * changes that one can see. An appliance that has itself hidden something of them meanwhile keeps them: only the layers themselves know what a mark
 * of its own means. Killed at any point, each appliance has the one or the other.
 */
import { join } from 'node:path';
import type { DataPlane } from '../../fuse/contract.ts';
import { finishPrivate } from '../../vlfs/index.ts';
import { applianceLock } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { policyRecord, policyStep } from '../policy/record.ts';
import { hasSealedRecord } from '../sealed/records.ts';
import { isThere } from '../state/files.ts';
import type { FollowUp, JournalStep } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceStack, vlfsSpec } from '../templates/follow.ts';
import { type FrozenId, frozenDir } from './frozen.ts';
import { catalogSteps, frozenListStep } from './frozen-list.ts';

export interface Merged {
  id: FrozenId;
  /** What it was made of, the newest first. */
  of: readonly FrozenId[];
  /** Puts its directory in place, when that has not been done. */
  place: JournalStep[];
}

export function beginsWith(list: readonly FrozenId[], run: readonly FrozenId[]): boolean {
  return run.length <= list.length && run.every((id, i) => list[i] === id);
}

/** How many of the newest layers a policy treats alike: an appliance's own are never merged with inherited ones. */
export function alikeForPolicy(context: FleetContext, row: CatalogRow): number {
  const record = policyRecord(context.paths, row.name);
  if (record === null) return row.frozen.length;
  const isOwn = (id: FrozenId): boolean => record.own.includes(id);
  const other = row.frozen.findIndex((id) => isOwn(id) !== isOwn(row.frozen[0]!));
  return other < 0 ? row.frozen.length : other;
}

/** Gives one appliance the merged layer, unless it has others now, or keeps the ones it has. */
export function exchange(context: FleetContext, name: string, merged: Merged): Promise<void> {
  return context.locks.with([applianceLock(name), COMMIT], async () => {
    const row = context.catalog.get(name);
    if (row === null || !beginsWith(row.frozen, merged.of)) return;
    // Nobody had it for a moment, and it went.
    if (merged.place.length === 0 && !isThere(frozenDir(context.paths, merged.id))) return;
    // A sealed mount goes on showing what it was made of.
    if (hasSealedRecord(context, name) || alikeForPolicy(context, row) < merged.of.length) return;
    const plane = await servingPlane(context, name);
    if (plane === 'ending') return;
    if (plane === null) finishPrivate(vlfsSpec(context, row));
    if (hidesOwn(context, name, merged.of)) return;
    const frozen = [merged.id, ...row.frozen.slice(merged.of.length)];
    await commitExchange(context, row, { frozen, merged, plane });
  });
}

async function servingPlane(context: FleetContext, name: string): Promise<DataPlane | null | 'ending'> {
  const plane = await context.runningDataPlane();
  if (plane === null) return null;
  const { mounts, isLingering } = await plane.find({ id: name });
  if (isLingering) return 'ending';
  return mounts.length > 0 ? plane : null;
}

/** Whether the appliance itself has marks in sets of these layers. */
function hidesOwn(context: FleetContext, name: string, ids: readonly FrozenId[]): boolean {
  const { whiteoutsDir } = applianceDirs(context.paths, name);
  return ids.some((id) => isThere(join(whiteoutsDir, 'frozen', id)));
}

async function commitExchange(
  context: FleetContext,
  row: CatalogRow,
  o: { frozen: FrozenId[]; merged: Merged; plane: DataPlane | null },
): Promise<void> {
  const { name } = row;
  const undo: FollowUp = { kind: 'merged', name, before: row.frozen };
  const steps = [...o.merged.place, ...listSteps(context, row, o.frozen, o.merged), ...catalogSteps(context)];
  context.onStep('merge-exchange');
  const record = await context.journal.commit('merge-frozen', steps, o.plane === null ? [] : [undo]);
  // It is in place, whether this appliance keeps it or not.
  o.merged.place = [];
  try {
    const now = { ...row, frozen: o.frozen };
    context.catalog.put([now]);
    if (o.plane !== null) await followOrUndo(context, o.plane, { name, before: row.frozen });
  } finally {
    context.journal.finish(record);
  }
}

/** The list, and which of its layers are the appliance's own. */
function listSteps(
  context: FleetContext,
  row: CatalogRow,
  frozen: readonly FrozenId[],
  { id, of }: Pick<Merged, 'id' | 'of'>,
): JournalStep[] {
  const record = policyRecord(context.paths, row.name);
  const steps = [frozenListStep(context, row, frozen)];
  if (record?.own.includes(of[0]!))
    steps.push(policyStep(join('appliances', row.name), { ...record, own: [id, ...record.own] }));
  return steps;
}

/** The mount follows, or refuses because the appliance has just hidden something: then it keeps what it had. */
async function followOrUndo(
  context: FleetContext,
  plane: DataPlane,
  { name, before }: { name: string; before: FrozenId[] },
): Promise<void> {
  const row = context.catalog.get(name)!;
  try {
    await plane.relayer([{ id: name, stack: applianceStack(context, row) }]);
  } catch {
    await setBack(context, row, before);
  }
}

async function setBack(context: FleetContext, row: CatalogRow, before: FrozenId[]): Promise<void> {
  const steps = [frozenListStep(context, row, before), ...catalogSteps(context)];
  const record = await context.journal.commit('keep-frozen', steps);
  context.catalog.put([{ ...row, frozen: before }]);
  context.journal.finish(record);
}

/** At the opening: an exchange was cut off between its commit and the relayer of its mount. Before mounts are compared with the files. */
export async function settleExchange(
  context: FleetContext,
  { name, before }: { name: string; before: FrozenId[] },
): Promise<void> {
  const row = context.catalog.get(name);
  if (row === null) return;
  const plane = await servingPlane(context, name);
  if (plane !== null && plane !== 'ending') await followOrUndo(context, plane, { name, before });
  else if (plane === 'ending' || hidesOwn(context, name, before)) await setBack(context, row, before);
}
