/**
 * What `strata daemon stop` does to mounts: idle ones are unmounted, busy ones stay and go on being served by strata-fs;
 * with force every one goes, lazily. strata-fs itself ends when it serves nothing any more.
 */
import { asStrataError } from '../base/index.ts';
import type { Fleet } from '../fleet/contract.ts';
import type { DataPlane } from '../fuse/contract.ts';
import type { Log } from './log.ts';

export interface StopMounts {
  fleet: Fleet;
  /** null when no data plane runs: then nothing is mounted. */
  plane: DataPlane | null;
  force: boolean;
  shutdown(force: boolean): Promise<void>;
  log: Log;
}

export async function unmountForStop(o: StopMounts): Promise<{ unmounted: string[]; busy: string[] }> {
  const unmounted: string[] = [];
  const busy: string[] = [];
  if (o.plane === null) return { unmounted, busy };
  const { appliances } = await o.fleet.list();
  for (const target of appliances.flatMap((appliance) => appliance.mounts)) {
    try {
      unmounted.push(...(await o.fleet.umount({ target, force: o.force })).unmounted);
    } catch (thrown) {
      const error = asStrataError(thrown);
      if (error.code !== 'NOT_FOUND') busy.push(target);
      if (error.code !== 'BUSY') o.log('warn', 'could not unmount', { target, error: error.message });
    }
  }
  const { mounts } = await o.plane.status();
  if (mounts.length === 0 || o.force) await o.shutdown(o.force);
  return { unmounted, busy };
}
