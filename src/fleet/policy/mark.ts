/** `strata policy mark`: what no clone of the appliance may get, said on the objects themselves. */
import { StrataError } from '../../base/index.ts';
import { markObjects } from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { allMounts, refuseLingering } from '../mounts/mount-list.ts';
import { settleSealed } from '../sealed/settle.ts';
import { syncFileSystemAside } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceDefinition, vlfsSpec } from '../templates/follow.ts';

export async function markPaths(
  context: FleetContext,
  o: { name: string; paths: string[]; marked: boolean },
): Promise<{ name: string; paths: string[] }> {
  const { name } = applianceRow(context, o.name);
  const wrong = o.paths.find((path) => !path.startsWith('/') || path.split('/').includes('..'));
  if (wrong !== undefined)
    throw new StrataError('USAGE', `${wrong} is not an absolute path in the appliance`);
  await refuseLingering(context, [name]);
  return context.locks.with([applianceLock(name)], async () => {
    const row = applianceRow(context, name);
    const mount = (await allMounts(context)).find((one) => one.name === name);
    if (mount === undefined) {
      await context.locks.with([COMMIT], () =>
        settleSealed(context, name, applianceDefinition(context, row).record),
      );
    }
    const spec = vlfsSpec(context, row);
    await markObjects({ spec, mountpoint: mount?.dir ?? null, paths: o.paths, marked: o.marked });
    await syncFileSystemAside(applianceDirs(context.paths, name).dir);
    return { name, paths: o.paths };
  });
}
