/** An appliance that nobody has mounted, made ready for what freezes or replaces its private layer. */
import { completePrivate, finishPrivate } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceDefinition, vlfsSpec } from '../templates/follow.ts';

/**
 * Under the appliance's lock, when strata-fs does not serve it: finishes what is left to do in its private layer, which may take a while. Throws BUSY when it is mounted by the sealed
 * door.
 */
export async function makeQuiet(context: FleetContext, row: CatalogRow): Promise<void> {
  refuseSealed(context, row.name);
  await context.locks.with([COMMIT], () =>
    settleSealed(context, row.name, applianceDefinition(context, row).record),
  );
  finishPrivate(vlfsSpec(context, row));
  await completePrivate(applianceDirs(context.paths, row.name).privateDir);
}
