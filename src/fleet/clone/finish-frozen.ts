/**
 * Frozen layers into which copies of open files still follow, after the clone was acknowledged: nobody reads such a layer before they are all there. strata-fs makes them; what it
 * was killed over, or a power cut ended, is made by who opens the appliance or the state root next.
 */
import { StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import { finishFollowing, followingDir } from '../../vlfs/index.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { isThere, namesIn } from '../state/files.ts';
import { type FrozenId, frozenDir } from './frozen.ts';

/** Waits until the newest frozen layer of an appliance is whole. `plane`: it froze that. Under the locks of the appliance and of who shares the layer. */
export async function finishFrozen(context: FleetContext, name: string, plane: DataPlane): Promise<void> {
  const [id] = context.catalog.get(name)?.frozen ?? [];
  if (id === undefined) return;
  await follow(plane, name);
  if (finish(context, id, name) > 0)
    throw new StrataError('IO', `open files of ${name} could not be copied wholly for frozen layer ${id}`);
}

/** It may have been unmounted meanwhile. */
async function follow(plane: DataPlane, name: string): Promise<void> {
  try {
    await plane.follow(name);
  } catch (error) {
    if (!(error instanceof StrataError) || error.code !== 'NOT_FOUND') throw error;
  }
}

function finish({ paths }: FleetContext, id: FrozenId, name: string): number {
  return finishFollowing(frozenDir(paths, id), applianceDirs(paths, name).privateDir);
}

/** Whether copies still follow into a frozen layer. */
export function isUnfinished({ paths }: FleetContext, id: FrozenId): boolean {
  return isThere(followingDir(frozenDir(paths, id)));
}

/** At the opening: what was cut off. */
export async function finishAllFrozen(context: FleetContext, notes: string[]): Promise<void> {
  const unfinished = namesIn(context.paths.frozen).filter((id) => isUnfinished(context, id));
  if (unfinished.length === 0) return;
  const plane = await context.runningDataPlane();
  for (const id of unfinished) {
    const names = context.catalog
      .all()
      .filter(({ frozen }) => frozen.includes(id))
      .map(({ name }) => name);
    // strata-fs may be at it.
    if (plane !== null) for (const name of names) await follow(plane, name);
    for (const name of names) if (finish(context, id, name) === 0) break;
    if (isUnfinished(context, id)) notes.push(`frozen layer ${id} is not whole: see strata fsck`);
  }
}
