/**
 * The second half of a merge and of a restore: an appliance goes over to other frozen layers and what belongs to them, in one step, mounted or not. The list is in the journal already;
 * who is killed in between finds there what is yet to be done. Doing it again does nothing. When it is refused, the appliance gets its former list again.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError, type ErrorCode } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import type { FreshPrivate } from '../../vlfs/contract.ts';
import { exchangeAside } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FrozenId, frozenDir } from '../clone/frozen.ts';
import { catalogSteps, frozenListStep } from '../clone/frozen-list.ts';
import type { FleetContext } from '../context.ts';
import type { FollowUp, JournalStep } from '../state/journal.ts';
import type { FleetPaths } from '../state/paths.ts';
import { applianceStack, vlfsSpec } from '../templates/follow.ts';
import { stackWith } from './places.ts';

type Exchange = FollowUp & { kind: 'exchange' };

/** strata-fs died in the midst, or its mount ended: who comes next knows whether it was done. */
const GONE: readonly ErrorCode[] = ['DAEMON', 'NOT_FOUND'];
const TRIES = 3;

/** Where a fresh private layer of an exchange stands, and where the former one goes: in the directory of a frozen layer that nobody lists. */
export function freshOf(paths: FleetPaths, id: FrozenId): FreshPrivate {
  return { from: join(frozenDir(paths, id), 'fresh'), to: frozenDir(paths, id) };
}

/**
 * Commits rows and carries out the exchange of the first one, which has the new list of layers. Under its lock and the commit lock. Throws why it was refused; then nothing has changed.
 * What belongs to it is on the disk.
 */
export async function commitExchange(
  context: FleetContext,
  op: string,
  o: {
    rows: [CatalogRow, ...CatalogRow[]];
    steps: JournalStep[];
    before: CatalogRow;
    fresh: FrozenId | null;
  },
): Promise<void> {
  const { rows, before, fresh } = o;
  const { name } = rows[0];
  const change: Exchange = { kind: 'exchange', name, before: before.frozen, fresh };
  const id = await context.journal.commit(op, [...o.steps, ...catalogSteps(context)], [change]);
  try {
    context.catalog.put(rows);
    context.onStep('exchange-listed');
    await settle(context, change);
    context.onStep('exchanged');
  } finally {
    context.journal.finish(id);
  }
}

/** At the opening: a command was cut off. */
export async function settleFollowUp(
  context: FleetContext,
  change: Exchange,
  notes: string[],
): Promise<void> {
  try {
    if (context.catalog.get(change.name) !== null) await settle(context, change);
  } catch (error) {
    notes.push(`appliance ${change.name} stays as it was: ${asStrataError(error).message}`);
  }
}

async function settle(context: FleetContext, change: Exchange): Promise<void> {
  const fresh = change.fresh === null ? null : freshOf(context.paths, change.fresh);
  if (fresh !== null) mkdirSync(fresh.to, { recursive: true, mode: 0o700 });
  for (let tries = 1; ; tries++) {
    const row = context.catalog.get(change.name)!;
    const stack = applianceStack(context, row);
    const plane = await servingPlane(context, change.name);
    try {
      if (plane !== null) await plane.exchange({ id: row.name, stack, fresh });
      else {
        const shown = stackWith(context, row, change.before);
        await exchangeAside({ ...vlfsSpec(context, row), stack: shown }, stack, fresh);
      }
      return;
    } catch (thrown) {
      const error = asStrataError(thrown);
      if (GONE.includes(error.code) && tries < TRIES) continue;
      await setBack(context, row, change.before);
      throw error;
    }
  }
}

/** strata-fs, when it serves the appliance, with a mountpoint or without. */
async function servingPlane(context: FleetContext, name: string): Promise<DataPlane | null> {
  const plane = await context.runningDataPlane();
  if (plane === null) return null;
  const { mounts, isLingering } = await plane.find({ id: name });
  return mounts.length > 0 || isLingering ? plane : null;
}

async function setBack(context: FleetContext, row: CatalogRow, before: FrozenId[]): Promise<void> {
  const record = await context.journal.commit('not-exchanged', [
    frozenListStep(context, row, before),
    ...catalogSteps(context),
  ]);
  context.catalog.put([{ ...row, frozen: before }]);
  context.journal.finish(record);
}
