/** For the tests of fleet/: a state root in a temporary directory, layers made by hand, and a data plane that only remembers. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { noProgress, StrataError } from '../base/index.ts';
import type { DataPlane, MountInfo, MountRequest } from '../fuse/contract.ts';
import type { PrivateFile, StackSpec } from '../vlfs/contract.ts';
import { exchangeOffline, freezeOffline } from '../vlfs/index.ts';
import type { Fleet } from './contract.ts';
import { type FleetInternals, openFleetWith } from './fleet.ts';

export interface FakePlane extends DataPlane {
  mounts: MountInfo[];
  /** Every relayer call as it came. */
  relayers: { id: string; stack: StackSpec; privateFiles?: PrivateFile[] }[][];
  busy: Set<string>;
  lingering: string[];
  requests: MountRequest[];
}

export function fakePlane(): FakePlane {
  const shown = new Map<string, StackSpec>();
  const show = (id: string, stack: StackSpec): void => {
    shown.set(id, stack);
    for (const mount of plane.mounts) if (mount.id === id) mount.stackKey = stack.key;
  };
  const requestOf = (id: string): MountRequest => {
    const request = plane.requests.findLast((one) => one.id === id);
    if (request === undefined) throw new StrataError('NOT_FOUND', `${id} is not mounted`);
    return request;
  };
  const plane: FakePlane = {
    mounts: [],
    relayers: [],
    busy: new Set(),
    lingering: [],
    requests: [],
    async mount(request) {
      const { id, mountpoint, vlfs, readOnly } = request;
      plane.requests.push(request);
      shown.set(id, vlfs.stack);
      plane.mounts.push({
        id,
        mountpoint,
        stackKey: vlfs.stack.key,
        readOnly,
        cache: vlfs.cache ?? 'shared',
        requests: 0,
        kinds: {},
        openFiles: 0,
      });
    },
    async unmount(mountpoint, { force }) {
      if (plane.busy.has(mountpoint) && !force) throw new StrataError('BUSY', `${mountpoint} is busy`);
      plane.mounts = plane.mounts.filter((mount) => mount.mountpoint !== mountpoint);
    },
    async relayer(changes) {
      plane.relayers.push(changes);
      for (const { id, stack } of changes) show(id, stack);
    },
    async prepareFreeze() {},
    async freeze({ id, stack, dir }) {
      if (!plane.mounts.some((mount) => mount.id === id))
        throw new StrataError('NOT_FOUND', `${id} is not mounted`);
      freezeOffline(requestOf(id).vlfs, dir);
      show(id, stack);
      return true;
    },
    async exchange({ id, stack, fresh }) {
      const { vlfs } = requestOf(id);
      exchangeOffline({ ...vlfs, stack: shown.get(id) ?? vlfs.stack }, stack, fresh);
      show(id, stack);
    },
    follow: async () => {},
    revert: async (_, paths) => paths,
    reset: async () => {},
    readScanState: async () => {},
    find: async ({ id, mountpoint }) => ({
      pid: process.pid,
      mounts: plane.mounts.filter((mount) => mount.id === id || mount.mountpoint === mountpoint),
      isLingering: plane.lingering.includes(id),
    }),
    status: async () => ({
      pid: process.pid,
      uptimeMs: 0,
      mounts: plane.mounts,
      lingering: plane.lingering,
      memoryBytes: 0,
      passthroughOpens: 0,
      kernel: { fuseMinor: 45, passthrough: true, incEpoch: true },
    }),
    close() {},
  };
  return plane;
}

export interface World {
  dir: string;
  root: string;
  fleet: Fleet;
  plane: FakePlane;
  build(
    layer: string,
    version: string,
    files: Record<string, string>,
    more?: Record<string, string>,
  ): Promise<void>;
  reopen(internals?: FleetInternals): Promise<void>;
  /** After `fleet.close()`. */
  reopenClosed(): Promise<Fleet>;
  remove(): Promise<void>;
}

/** A fleet with one empty repository `local`. */
export async function makeWorld(): Promise<World> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-fleet-'));
  const root = join(dir, 'root');
  const plane = fakePlane();
  // The fleet asks a data plane only when there may be one.
  mkdirSync(join(root, 'run'), { recursive: true });
  writeFileSync(join(root, 'run/strata-fs.sock'), '');
  const open = (internals?: FleetInternals) =>
    openFleetWith({ root, dataPlane: async () => plane }, internals);
  const world: World = {
    dir,
    root,
    plane,
    fleet: await open(),
    async build(layer, version, files, more = {}) {
      await buildLayer(world.fleet, dir, layer, version, files, more);
    },
    async reopen(internals) {
      await world.fleet.close();
      world.fleet = await open(internals);
    },
    reopenClosed: () => open(),
    async remove() {
      await world.fleet.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  await world.fleet.repoAdd({ name: 'local', source: join(dir, 'units') }, noProgress);
  return world;
}

export async function buildLayer(
  fleet: Fleet,
  dir: string,
  layer: string,
  version: string,
  files: Record<string, string>,
  more: Record<string, string> = {},
): Promise<void> {
  const tree = join(dir, 'trees', `${layer}_${version}`);
  mkdirSync(tree, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
  await fleet.layerBuild({ dir: tree, repo: 'local', name: layer, version, ...more }, noProgress);
}
