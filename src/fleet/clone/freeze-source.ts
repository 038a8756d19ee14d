/**
 * The first half of a clone: the source's private layer becomes a frozen layer of the source, and nothing that one can see changes. The layer is there and listed,
 * empty, before (on the disk, too); then it changes places with the private one. A kill anywhere leaves the source as it is, with one frozen layer more at most.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as sent } from 'node:timers/promises';
import { nameFromText, StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import {
  AT_FDCWD,
  close,
  type DirectoryEntry,
  E,
  O_CLOEXEC,
  O_DIRECTORY,
  O_RDONLY,
  openat,
  readSomeEntries,
} from '../../sys/index.ts';
import { copyRootAttributes, freezeOffline, NEW_ROOT, rootFactsOf } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { type FleetContext, operationId } from '../context.ts';
import { policyRecord, policyStep, withOwnFrozen } from '../policy/record.ts';
import { keepOrder } from '../state/files.ts';
import { nextStack, vlfsSpec } from '../templates/follow.ts';
import { finishFrozen } from './finish-frozen.ts';
import { type FrozenId, frozenDir } from './frozen.ts';
import { frozenListStep, setFrozenList } from './frozen-list.ts';

/** Freezes that may turn out to be of no one instant. Each leaves a layer that shows nothing. */
const TRIES = 4;
/** For the first names of a directory, of which there may be very many. */
const LOOK_BYTES = 1024;

/** strata-fs does not serve the appliance: nothing was changed. */
export class NotServed extends StrataError {
  constructor({ message }: StrataError) {
    super('NOT_FOUND', message);
  }
}

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
  if (plane === null) await sent();
  else
    await finishFrozen(context, name, plane).catch((error: unknown) => {
      failure = error;
    });
  // While the record is there the catalog is made again after a kill.
  context.catalog.write();
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
  if ([privateDir, whiteoutsDir].every(holdsNothing) && hasRootOfNewest(context, row))
    return { source: row, id: null, isExact: true };
  const id = operationId();
  const dir = frozenDir(paths, id);
  const frozen = [id, ...row.frozen];
  const source = { ...row, frozen };
  const policy = withOwnFrozen(policyRecord(paths, row.name), id);
  const change = { id: row.name, stack: nextStack(context, source, policy), dir };
  // It has that ready when the layer is listed.
  await plane?.prepareFreeze(change);
  mkdirSync(dir, { mode: 0o700 });
  for (const part of ['private', 'whiteouts']) mkdirSync(join(dir, part), { mode: 0o755 });
  // strata-fs does so in the same turn.
  if (plane === null) copyRootAttributes(privateDir, join(dir, 'private'));
  context.onStep('freeze-staged');
  // The policy first: a layer that it names and that is not there yet changes nothing.
  const steps = [frozenListStep(context, row, frozen)];
  if (policy !== null) steps.unshift(policyStep(join('appliances', row.name), policy));
  await context.journal.commitFirst('freeze', steps);
  context.catalog.putLater([source]);
  keepOrder(paths.frozen);
  let isExact = true;
  try {
    if (plane === null) freezeOffline(vlfsSpec(context, source), dir);
    else {
      const freezing = plane.freeze(change);
      freezing.catch(() => {});
      // It is sent first.
      await sent();
      const done = await Promise.allSettled([meanwhile(source), freezing]);
      isExact = await freezing;
      if (done[0].status === 'rejected') throw done[0].reason;
    }
  } catch (error) {
    const gone = plane !== null && error instanceof StrataError && error.code === 'NOT_FOUND' ? error : null;
    // What is not empty may be the source's.
    if (['private', 'whiteouts'].every((part) => holdsNothing(join(dir, part))))
      await setFrozenList(context, source, row.frozen, { plane: gone === null ? plane : null });
    throw gone === null ? error : new NotServed(gone);
  }
  context.onStep('frozen');
  return { source, id, isExact };
}

/** Whether a directory is empty, or not there. */
function holdsNothing(dir: string): boolean {
  const fd = openat(AT_FDCWD, nameFromText(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return fd === -E.NOENT;
  const entries: DirectoryEntry[] = [];
  let more = 1;
  while (more > 0 && entries.length === 0) more = readSomeEntries(fd, entries, LOOK_BYTES);
  close(fd);
  return more === 0;
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
