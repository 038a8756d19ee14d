/** Mounting appliances: through strata-fs (door fuse) or by the kernel alone (door sealed); unmounting by name or directory. */
import { mkdirSync, realpathSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { pruneAside } from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { FleetContext } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { refuseQuota } from '../quota/quotas.ts';
import { refuseQuarantined } from '../scan/refuse-sealed.ts';
import { openSealedDoor, prepareSealedDoor, unmountSealed } from '../sealed/door.ts';
import { settleSealed } from '../sealed/settle.ts';
import { namesIn } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceDefinition, reconcileMount, vlfsSpec } from '../templates/follow.ts';
import { type ApplianceMount, allMounts, mountsOf, refuseLingering, refuseOtherCache } from './mount-list.ts';
import { hasRun, runMountpoint } from './run-records.ts';

type MountOptions = Parameters<Fleet['mount']>[0];

export async function mountAppliance(
  context: FleetContext,
  options: MountOptions,
): Promise<{ name: string; dir: string }> {
  if (!isAbsolute(options.dir)) {
    throw new StrataError('USAGE', `${options.dir} is not an absolute path`, {
      hint: 'give the mountpoint from / on',
    });
  }
  if (options.door === 'sealed' && options.cache !== undefined) {
    throw new StrataError(
      'USAGE',
      '--cache is for the door fuse; what the sealed door shows is cached by the kernel alone',
      {
        hint: 'leave out --cache or --door sealed',
      },
    );
  }
  const { name } = applianceRow(context, options.name);
  refuseOwnPlaces(context, resolve(options.dir));
  const dir = mountpointAt(resolve(options.dir));
  refuseOwnPlaces(context, dir);
  const locks = [applianceLock(name), COMMIT];
  /** What to do with the appliance once it is ready, under its lock. When it still ends after an unmount, that is waited for without the lock. */
  const whenReady = async <T>(work: (spec: VlfsSpec) => Promise<T>): Promise<T> => {
    for (;;) {
      const done = await context.locks.with(locks, async () => {
        const spec = await readyForMount(context, name, dir, options);
        return spec === null ? null : { result: await work(spec) };
      });
      if (done !== null) return done.result;
      await refuseLingering(context, [name]);
    }
  };
  if (options.door === 'sealed')
    await prepareSealedDoor(context.paths, await whenReady((spec) => Promise.resolve(spec)));
  await whenReady(async (spec) => {
    if (options.door === 'sealed') return openSealed(context, spec, dir);
    const plane = await context.dataPlane();
    await plane.mount({ id: name, mountpoint: dir, vlfs: spec, readOnly: spec.readOnly });
  });
  return { name, dir };
}

async function openSealed(context: FleetContext, spec: VlfsSpec, dir: string): Promise<void> {
  try {
    await openSealedDoor(context, spec, applianceDefinition(context, applianceRow(context, spec.name)), dir);
  } catch (error) {
    settleNow(context, spec.name);
    throw error;
  }
}

/**
 * Checks that the appliance can be mounted there, and brings its private layer and its mounts to the stack of today. Under the appliance's lock. null: it is not
 * ready, because its last connection still ends.
 */
async function readyForMount(
  context: FleetContext,
  name: string,
  dir: string,
  options: MountOptions,
): Promise<VlfsSpec | null> {
  const { mounts, found } = await mountsOf(context, name, dir);
  if (found?.isLingering) return null;
  const there = mounts.find((mount) => mount.dir === dir);
  if (there) {
    throw new StrataError('BUSY', `appliance ${there.name} is mounted at ${dir} already`, {
      hint: `choose another directory, or first: strata umount ${dir}`,
    });
  }
  const door = options.door ?? 'fuse';
  const other = mounts.find((mount) => mount.name === name && (mount.door !== door || door === 'sealed'));
  if (other) {
    throw new StrataError('BUSY', `appliance ${name} is mounted at ${other.dir} by the door ${other.door}`, {
      hint: `its private layer has one door at a time; first: strata umount ${other.dir}`,
    });
  }
  refuseOtherCache(mounts, name, options.cache);
  const row = applianceRow(context, name);
  settleSealed(context, name, applianceDefinition(context, row).record);
  const spec = vlfsSpec(context, row, options);
  if (door === 'sealed' && !spec.readOnly) refuseQuota(spec.privateDir, name);
  if (door === 'sealed') refuseQuarantined(context, spec);
  if (
    (row.frozen.length > 0 || namesIn(spec.whiteoutsDir).length > 0) &&
    !mounts.some((mount) => mount.name === name)
  )
    await pruneAside(spec);
  if (door === 'fuse') await reconcileMount(context, name, found);
  return spec;
}

/** What Strata keeps in the state root. */
const OWN_PLACES = [
  'repos',
  'templates',
  'appliances',
  'frozen',
  'machines',
  'policies',
  'journal',
  'mnt',
  'run',
];

/** A mount must hide nothing that Strata itself needs: the state root, what is in it, or the directory of a repository. */
function refuseOwnPlaces(context: FleetContext, dir: string): void {
  const root = resolved(context.root);
  const own = OWN_PLACES.map((name) => join(root, name));
  const sources = context.repositories.all().map(({ config }) => config.source);
  const hidden =
    own.find((place) => isWithin(dir, place)) ??
    [root, ...sources.filter(isAbsolute).map(resolved)].find((place) => isWithin(place, dir));
  if (hidden === undefined) return;
  throw new StrataError('USAGE', `a mount at ${dir} would hide what is in ${hidden}`, {
    hint: 'choose a directory of its own, such as /mnt/NAME',
  });
}

function isWithin(path: string, dir: string): boolean {
  return path === dir || path.startsWith(dir === '/' ? '/' : `${dir}/`);
}

/** The directory to mount on, made when it is missing, without links in its path. */
function mountpointAt(dir: string): string {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 });
    return realpathSync(dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new StrataError('USAGE', `cannot use ${dir} as a mountpoint (${code})`, {
      hint: 'give a directory, or a path where one can be made',
      cause: error,
    });
  }
}

/** Unmounts all mountpoints of an appliance, or the one directory. Throws BUSY unless `force`. */
export async function unmountTarget(
  context: FleetContext,
  options: { target: string; force?: boolean | undefined },
): Promise<{ unmounted: string[] }> {
  const { target } = options;
  const byPath = target.startsWith('/');
  const dir = byPath ? resolved(target) : target;
  const mounts = (await allMounts(context)).filter((mount) =>
    byPath ? mount.dir === dir : mount.name === target,
  );
  if (mounts.length === 0) {
    if (!byPath) applianceRow(context, target);
    throw new StrataError(
      'NOT_FOUND',
      byPath ? `nothing of Strata is mounted at ${target}` : `appliance ${target} is not mounted`,
      {
        hint: 'strata list shows the mounts',
      },
    );
  }
  return context.locks.with([applianceLock(mounts[0]!.name), COMMIT], async () => {
    const unmounted: string[] = [];
    const rootOfRuns = runMountpoint(context, mounts[0]!.name);
    const isKept = (dir: string) => dir === rootOfRuns && !options.force && hasRun(context, mounts[0]!.name);
    const wanted = mounts.filter((mount) => !isKept(mount.dir));
    if (wanted.length === 0) {
      throw new StrataError('BUSY', `a container runs on appliance ${mounts[0]!.name}`, {
        hint: `end it, or: strata umount ${mounts[0]!.name} --force`,
      });
    }
    for (const mount of wanted.reverse()) {
      await patiently(() => unmountOne(context, mount, options.force ?? false));
      unmounted.push(mount.dir);
    }
    if (wanted.some((mount) => mount.door === 'sealed')) settleNow(context, wanted[0]!.name);
    return { unmounted };
  });
}

/** What cannot be absorbed at once (somebody still uses it, the disk is full) is absorbed when the appliance is next used. */
function settleNow(context: FleetContext, name: string): void {
  try {
    settleSealed(context, name, applianceDefinition(context, applianceRow(context, name)).record);
  } catch (error) {
    if (!(error instanceof StrataError)) throw error;
  }
}

/** Who copies the mount namespace (a container that begins anywhere on the machine) uses every mount for a moment. */
const MOMENT_MS = 200;
const MOMENT_POLL_MS = 10;

/** Tries again for a moment what is BUSY. */
async function patiently(unmount: () => Promise<void>): Promise<void> {
  for (const until = performance.now() + MOMENT_MS; ; ) {
    try {
      return await unmount();
    } catch (error) {
      const isBusy = error instanceof StrataError && error.code === 'BUSY';
      if (!isBusy || performance.now() > until) throw error;
    }
    await delay(MOMENT_POLL_MS);
  }
}

async function unmountOne(context: FleetContext, mount: ApplianceMount, force: boolean): Promise<void> {
  if (mount.door === 'sealed') {
    unmountSealed(mount.dir, force);
    return;
  }
  const plane = await context.dataPlane();
  try {
    await plane.unmount(mount.dir, { force });
  } catch (error) {
    if (!(error instanceof StrataError) || error.code !== 'BUSY') throw error;
    throw new StrataError('BUSY', `appliance ${mount.name} is in use at ${mount.dir}`, {
      hint: `end what uses it, or: strata umount ${mount.name} --force`,
      cause: error,
    });
  }
}

function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}
