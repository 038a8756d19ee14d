/** The mounts of appliances as they are now: what strata-fs serves, and what the kernel's list shows of sealed doors. */
import { setTimeout as delay } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import type { DataPlane, FoundMounts } from '../../fuse/contract.ts';
import type { CacheMode } from '../../vlfs/contract.ts';
import type { FleetContext } from '../context.ts';
import { sealedMounts } from '../sealed/door.ts';

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

/**
 * The mounts of one appliance, and the one at a directory, as `allMounts` gives them; `found` is what strata-fs answered, null when it serves
 * nothing. Costs the same however many others it serves.
 */
export async function mountsOf(
  context: FleetContext,
  name: string,
  dir?: string,
): Promise<{ mounts: ApplianceMount[]; found: FoundMounts | null }> {
  const plane = await context.runningDataPlane();
  const found = (await plane?.find({ id: name, ...(dir === undefined ? {} : { mountpoint: dir }) })) ?? null;
  const served = (found?.mounts ?? []).filter(({ id }) => !id.startsWith('.'));
  const sealed = sealedMounts(context.paths).filter((mount) => mount.name === name || mount.dir === dir);
  return {
    mounts: [
      ...served.map((one) => ({
        name: one.id,
        dir: one.mountpoint,
        door: 'fuse' as const,
        cache: one.cache,
      })),
      ...sealed.map((one) => ({ ...one, door: 'sealed' as const })),
    ],
    found,
  };
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

/** How long a connection may take to end after its last unmount, when nobody uses it. */
const ENDING_MS = 2000;
const ENDING_POLL_MS = 10;

/** Which of the appliances strata-fs still serves without a mountpoint, since programs, or mount namespaces, go on using what was unmounted. */
export async function lingering(context: FleetContext, names: string[]): Promise<string[]> {
  const until = performance.now() + ENDING_MS;
  for (;;) {
    const plane = await context.runningDataPlane();
    const left = plane === null ? [] : await lingeringNow(plane, names);
    if (left.length === 0 || performance.now() > until) return left;
    await delay(ENDING_POLL_MS);
  }
}

async function lingeringNow(plane: DataPlane, names: string[]): Promise<string[]> {
  const [name] = names;
  if (name !== undefined && names.length === 1)
    return (await plane.find({ id: name })).isLingering ? names : [];
  const served = new Set((await plane.status()).lingering);
  return names.filter((one) => served.has(one));
}

/** Throws BUSY when one of them is lingering. */
export async function refuseLingering(context: FleetContext, names: string[]): Promise<void> {
  const [name] = await lingering(context, names);
  if (name === undefined) return;
  throw new StrataError('BUSY', `appliance ${name} was unmounted, but is still in use elsewhere`, {
    hint: 'end the programs that kept files of it open, and the mount namespaces that had copied its mount (lsns -t mnt lists them)',
  });
}

/** Mountpoints of every mounted appliance. */
export async function mountpoints(context: FleetContext): Promise<Map<string, string[]>> {
  const byName = new Map<string, string[]>();
  for (const { name, dir } of await allMounts(context)) byName.set(name, [...(byName.get(name) ?? []), dir]);
  return byName;
}
