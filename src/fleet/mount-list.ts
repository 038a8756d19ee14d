/** The mounts of appliances as they are now: what strata-fs serves, and what the kernel's list shows of sealed doors. */
import { StrataError } from '../base/index.ts';
import type { CacheMode } from '../vlfs/contract.ts';
import type { FleetContext } from './context.ts';
import { sealedMounts } from './sealed-door.ts';

export interface ApplianceMount {
  name: string;
  dir: string;
  door: 'fuse' | 'sealed';
  /** Of the door fuse. */
  cache?: CacheMode;
}

/** Every mountpoint of every appliance, whatever the door. */
export async function allMounts(context: FleetContext): Promise<ApplianceMount[]> {
  const plane = await context.runningDataPlane();
  const served = plane ? (await plane.status()).mounts : [];
  return [
    ...served
      .filter(({ id }) => !id.startsWith('.'))
      .map(({ id, mountpoint, cache }) => ({ name: id, dir: mountpoint, door: 'fuse' as const, cache })),
    ...sealedMounts(context.paths).map(({ name, dir }) => ({ name, dir, door: 'sealed' as const })),
  ];
}

/** All mounts of an appliance share one cache mode. Throws BUSY when another one than `wanted` is in use. */
export function refuseOtherCache(
  mounts: readonly ApplianceMount[],
  name: string,
  wanted: CacheMode | undefined,
): void {
  const other = mounts.find(
    (mount) => mount.name === name && mount.cache !== undefined && mount.cache !== (wanted ?? mount.cache),
  );
  if (other === undefined) return;
  throw new StrataError('BUSY', `appliance ${name} is mounted at ${other.dir} with --cache ${other.cache}`, {
    hint: `all its mounts share one cache mode; first: strata umount ${name}`,
  });
}
