/**
 * Where the contract of a file system is run: a plain directory of the host (the oracle), and an appliance behind each door, with the planted objects
 * in its private layer, in a shared software layer (whose directories a second layer holds too), and in its template's config layer; and one
 * behind the FUSE door with the exact cache mode. FUSE mounts are served by another process.
 */
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AT_FDCWD, newStat, statAt, utimensat } from '../../../src/sys/index.ts';
import { mountsBelow, type StrataRoot, sh, strataRoot } from '../../helpers/strata.ts';
import { ok, type Topic } from './behaviour.ts';

/** Where the planted objects are, and the door they are reached by; null: a directory of the host. */
export interface Place {
  name: string;
  /** By what the objects are reached ('exact': the FUSE door with that cache mode); null: directly. */
  door: 'fuse' | 'exact' | 'sealed' | null;
  /** What holds the planted objects; null: the place itself, when a behaviour begins. Otherwise they are there before the mount. */
  layer: 'shared' | 'config' | null;
}

export const PLACES: readonly Place[] = [
  { name: 'a plain directory', door: null, layer: null },
  ...(['fuse', 'sealed'] as const).flatMap((door) => [
    { name: `the private layer, ${door} door`, door, layer: null },
    { name: `a shared layer, ${door} door`, door, layer: 'shared' as const },
    { name: `the config layer, ${door} door`, door, layer: 'config' as const },
  ]),
  { name: 'the private layer, fuse door, cached exactly', door: 'exact', layer: null },
  { name: 'a shared layer, fuse door, cached exactly', door: 'exact', layer: 'shared' },
  { name: 'the config layer, fuse door, cached exactly', door: 'exact', layer: 'config' },
];

function dirIn(root: string, topic: Topic, n: number): string {
  return join(root, topic.name, String(n));
}

function plantAll(root: string, topics: readonly Topic[]): void {
  for (const topic of topics) {
    for (let n = 0; n < Object.keys(topic.behaviours).length; n++) {
      const dir = dirIn(root, topic, n);
      mkdirSync(dir, { recursive: true });
      topic.plant(dir);
    }
  }
}

/** The directories of a tree, without the files, with their owners and modes. */
function copyDirectories(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.isDirectory()) copyDirectories(join(from, entry.name), join(to, entry.name));
  }
  const stat = lstatSync(from);
  chownSync(to, stat.uid, stat.gid);
  chmodSync(to, stat.mode & 0o7777);
  const times = newStat();
  ok(statAt(AT_FDCWD, from, times));
  ok(utimensat(AT_FDCWD, to, times.mtimeSec, times.mtimeNsec, times.mtimeSec, times.mtimeNsec));
}

/** A state root and a directory beside it for everything else, mountpoints too. */
export interface Workshop {
  strata: StrataRoot;
  dir: string;
  /** A path in `dir`. */
  at(name: string): string;
  /** Ends and deletes everything. */
  remove(): Promise<void>;
}

export function openWorkshop(): Workshop {
  const strata = strataRoot('contract');
  const dir = mkdtempSync(join(tmpdir(), 'strata-contract-work-'));
  chmodSync(dir, 0o755);
  return {
    strata,
    dir,
    at: (name) => join(dir, name),
    async remove() {
      await strata.remove();
      for (const point of mountsBelow(dir)) await sh(`umount -l '${point}'`);
      if (mountsBelow(dir).length === 0) rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The directory of a topic's n-th behaviour. */
export function dirAt({ at }: Workshop, place: Place, topic: Topic, n: number): string {
  return dirIn(join(at(place.door ?? 'plain'), place.layer ?? 'private'), topic, n);
}

/** Builds the layers and mounts an appliance at each door. `remove()` of the workshop ends everything, also when this throws. */
export async function openPlaces({ strata, at }: Workshop, topics: readonly Topic[]): Promise<void> {
  for (const name of ['seed', 'tree/private', 'tree/config', 'under'])
    mkdirSync(at(name), { recursive: true });
  await strata.json('repo', 'add', 'local', at('units'));
  plantAll(at('tree/shared'), topics);
  copyDirectories(at('tree'), at('under'));
  for (const [name, dir] of [
    ['objects', 'tree'],
    ['under', 'under'],
  ] as const) {
    await strata.json('layer', 'build', at(dir), '--repo', 'local', '--name', name, '--version', '1');
  }
  await strata.json('template', 'create', 't', 'objects', 'under');
  await strata.json('create', 'seed', '--template', 't');
  await strata.json('mount', 'seed', at('seed'));
  plantAll(at('seed/config'), topics);
  await strata.json('umount', 'seed');
  await strata.json('template', 'freeze', 't', '--from', 'seed');
  for (const [door, ...options] of [
    ['fuse'],
    ['exact', '--cache', 'exact'],
    ['sealed', '--door', 'sealed'],
  ] as const) {
    await strata.json('create', door, '--template', 't');
    await strata.json('mount', door, at(door), ...options);
  }
}
