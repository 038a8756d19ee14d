/** The mounts of appliances as they are now: what strata-fs serves, and what the kernel's list shows of sealed doors. */
import type { FleetContext } from './context.ts';
import { sealedMounts } from './sealed-door.ts';

export interface ApplianceMount {
  name: string;
  dir: string;
  door: 'fuse' | 'sealed';
}

/** Every mountpoint of every appliance, whatever the door. */
export async function allMounts(context: FleetContext): Promise<ApplianceMount[]> {
  const plane = await context.runningDataPlane();
  const served = plane ? (await plane.status()).mounts : [];
  return [
    ...served
      .filter(({ id }) => !id.startsWith('.'))
      .map(({ id, mountpoint }) => ({ name: id, dir: mountpoint, door: 'fuse' as const })),
    ...sealedMounts(context.paths).map(({ name, dir }) => ({ name, dir, door: 'sealed' as const })),
  ];
}
