/**
 * Where the contract of a file system is run: a plain directory of the host (the oracle), and one mounted appliance with the planted objects in its
 * private layer, in a shared software layer (whose directories a second layer holds too), and in its template's config layer; and a second appliance
 * with the exact cache mode. The mounts are served by another process.
 */
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AT_FDCWD, newStat, statAt, utimensat } from '../../../src/sys/index.ts';
import { mountsBelow, type StrataRoot, sh, strataRoot } from '../../helpers/strata.ts';
import { ok, type Topic } from './behaviour.ts';

export interface Place {
  name: string;
  /** The directory of a topic's n-th behaviour. */
  dirOf(topic: Topic, n: number): string;
  /** Planted when the behaviour begins; otherwise everything is there before the mount. */
  plantsLate: boolean;
}

export interface Places {
  places: Place[];
  /** The mounted appliance's name and mountpoint. */
  appliance: string;
  mount: string;
  strata: StrataRoot;
}

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

/** Builds the layers and mounts the appliance. `strata.remove()` ends everything, also when this throws. */
export async function openPlaces({ strata, at }: Workshop, topics: readonly Topic[]): Promise<Places> {
  for (const name of ['plain', 'mnt', 'seed', 'tree/private', 'tree/config', 'under'])
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
  await strata.json('create', 'a', '--template', 't');
  await strata.json('mount', 'a', at('mnt'));
  await strata.json('create', 'b', '--template', 't');
  await strata.json('mount', 'b', at('exact'), '--cache', 'exact');
  const place = (name: string, root: string, plantsLate: boolean): Place => ({
    name,
    plantsLate,
    dirOf: (topic, n) => dirIn(root, topic, n),
  });
  return {
    strata,
    appliance: 'a',
    mount: at('mnt'),
    places: [
      place('a plain directory', at('plain'), true),
      place('the private layer', at('mnt/private'), true),
      place('a shared layer', at('mnt/shared'), false),
      place('the config layer', at('mnt/config'), false),
      place('a shared layer, cached exactly', at('exact/shared'), false),
    ],
  };
}
