/** Other directories in the place of an appliance's private layer and whiteouts, as steps of the journal; nobody may have them in use. */
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import { completePrivate, finishPrivate } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { isThere } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import { inState } from '../state/paths.ts';
import { applianceDefinition, vlfsSpec } from '../templates/follow.ts';

/** `from`/{private, whiteouts} take the appliance's places, and what was there goes to `to`/{private, whiteouts}. */
export function replacePrivate(
  { paths }: FleetContext,
  name: string,
  { from, to }: { from: string; to: string },
): JournalStep[] {
  const { privateDir, whiteoutsDir } = applianceDirs(paths, name);
  return ([privateDir, whiteoutsDir] as const).map((own, i) => {
    const part = i === 0 ? 'private' : 'whiteouts';
    const fresh = inState(paths, join(from, part));
    return isThere(own)
      ? { do: 'replace', from: fresh, to: inState(paths, own), trash: inState(paths, join(to, part)) }
      : { do: 'rename', from: fresh, to: inState(paths, own) };
  });
}

/** Throws BUSY for an appliance that is mounted, by whatever door. */
async function refuseMounted(context: FleetContext, name: string): Promise<void> {
  refuseSealed(context, name);
  const plane = await context.runningDataPlane();
  if (plane === null || !(await plane.status()).mounts.some((mount) => mount.id === name)) return;
  throw new StrataError('BUSY', `appliance ${name} is mounted`, { hint: `first: strata umount ${name}` });
}

/** Under the appliance's lock: refuses one that is mounted, and finishes what is left to do in its private layer, which may take a while. */
export async function makeQuiet(context: FleetContext, row: CatalogRow): Promise<void> {
  await refuseMounted(context, row.name);
  await context.locks.with([COMMIT], () =>
    settleSealed(context, row.name, applianceDefinition(context, row).record),
  );
  finishPrivate(vlfsSpec(context, row));
  await completePrivate(applianceDirs(context.paths, row.name).privateDir);
}
