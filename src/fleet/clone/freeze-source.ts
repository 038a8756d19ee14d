/**
 * The first half of a clone: the source's private layer becomes a frozen layer of the source, and nothing that one can see changes. The layer is there and listed,
 * empty, before (on the disk, too); then it changes places with the private one. A kill anywhere leaves the source as it is, with one frozen layer more at most.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as sent } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import { copyRootAttributes, freezeOffline, NEW_ROOT, rootFactsOf } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { type FleetContext, operationId } from '../context.ts';
import { ownFrozenSteps } from '../policy/record.ts';
import { keepOrder, namesIn } from '../state/files.ts';
import { applianceStack, vlfsSpec } from '../templates/follow.ts';
import { finishFrozen } from './finish-frozen.ts';
import { type FrozenId, frozenDir } from './frozen.ts';
import { frozenListStep, setFrozenList } from './frozen-list.ts';

/** Freezes that may turn out to be of no one instant. Each leaves a layer that shows nothing. */
const TRIES = 4;

export interface Frozen {
  /** The source as it is then. */
  source: CatalogRow;
  /** The new layer; null: it needed none. */
  id: FrozenId | null;
}

/**
 * Under the source's lock and the commit lock. `plane`: it serves the source. Throws BUSY when no instant is found because a program stores through a mapping without
 * rest.
 */
export async function freezeSource(
  context: FleetContext,
  row: CatalogRow,
  plane: DataPlane | null,
): Promise<Frozen> {
  try {
    return await freezeUnsettled(context, row, plane);
  } finally {
    await settleFreeze(context, row.name, plane);
  }
}

/** After freezeUnsettled: the frozen layer is whole, and the journal empty. Gives what waits until all is on the disk. */
export async function settleFreeze(
  context: FleetContext,
  name: string,
  plane: DataPlane | null,
): Promise<() => Promise<void>> {
  let failure: unknown = null;
  if (plane !== null)
    await finishFrozen(context, name, plane).catch((error: unknown) => {
      failure = error;
    });
  const sync = await context.journal.settle();
  if (failure !== null) throw failure;
  return sync;
}

/**
 * As freezeSource; `settleFreeze` is to be called before the locks are released, and before anybody reads the new layer. `meanwhile`: what can be done while strata-fs
 * freezes; gets the source as it will be. It is not called when there is nothing to wait for, and once more when the freeze is made again.
 */
export async function freezeUnsettled(
  context: FleetContext,
  row: CatalogRow,
  plane: DataPlane | null,
  meanwhile: (source: CatalogRow) => Promise<void> = async () => {},
): Promise<Frozen> {
  let from = row;
  for (let tries = 0; tries < TRIES; tries++) {
    const { source, id, isExact } = await freezeOnce(context, from, plane, meanwhile);
    if (isExact) return { source, id };
    from = source;
  }
  throw new StrataError('BUSY', `programs in ${row.name} store through mappings of files without rest`, {
    hint: 'repeat the command, or stop them for a moment',
  });
}

async function freezeOnce(
  context: FleetContext,
  row: CatalogRow,
  plane: DataPlane | null,
  meanwhile: (source: CatalogRow) => Promise<void>,
): Promise<Frozen & { isExact: boolean }> {
  const { paths } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, row.name);
  const isEmpty = [privateDir, whiteoutsDir].every((one) => namesIn(one).length === 0);
  if (isEmpty && hasRootOfNewest(context, row)) return { source: row, id: null, isExact: true };
  const id = operationId();
  const dir = frozenDir(paths, id);
  mkdirSync(dir, { mode: 0o700 });
  for (const part of ['private', 'whiteouts']) mkdirSync(join(dir, part), { mode: 0o755 });
  copyRootAttributes(privateDir, join(dir, 'private'));
  const frozen = [id, ...row.frozen];
  const source = { ...row, frozen };
  context.onStep('freeze-staged');
  // The policy first: a layer that it names and that is not there yet changes nothing.
  const steps = [...ownFrozenSteps(paths, row.name, id), frozenListStep(context, row, frozen)];
  await context.journal.commitFirst('freeze', steps);
  context.catalog.put([source]);
  keepOrder(paths.frozen);
  let isExact = true;
  try {
    if (plane === null) freezeOffline(vlfsSpec(context, source), dir);
    else {
      const freezing = plane.freeze({ id: row.name, stack: applianceStack(context, source), dir });
      freezing.catch(() => {});
      // It is sent first.
      await sent();
      const done = await Promise.allSettled([meanwhile(source), freezing]);
      isExact = await freezing;
      if (done[0].status === 'rejected') throw done[0].reason;
    }
  } catch (error) {
    // What is not empty may be the source's.
    const isEmpty = ['private', 'whiteouts'].every((part) => namesIn(join(dir, part)).length === 0);
    if (isEmpty) await setFrozenList(context, source, row.frozen, { plane });
    throw error;
  }
  context.onStep('frozen');
  return { source, id, isExact };
}

/** Whether the root of an appliance is what its newest frozen layer says; without one, that of a new appliance. */
function hasRootOfNewest({ paths }: FleetContext, { name, frozen: [newest] }: CatalogRow): boolean {
  const { privateDir } = applianceDirs(paths, name);
  const facts = rootFactsOf(privateDir);
  if (newest === undefined) return facts === NEW_ROOT;
  const before = join(frozenDir(paths, newest), 'private');
  const changedAt = (dir: string): bigint => lstatSync(dir, { bigint: true }).mtimeNs;
  return rootFactsOf(before) === facts && changedAt(before) === changedAt(privateDir);
}
