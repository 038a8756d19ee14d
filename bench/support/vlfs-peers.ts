/**
 * The file systems that bench/vlfs.ts compares, each with its own way to be mounted over the same lower tree. Peers served by a process tell its
 * id, so that its processor time counts. All run with their default options.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type OwnedDataPlane, startDataPlane } from '../../src/fuse/index.ts';
import { MNT_DETACH, mount, umount } from '../../src/sys/index.ts';
import type { CacheMode, StackSpec } from '../../src/vlfs/contract.ts';

/** A mounted peer: where the shared tree is seen, where new files may be made, and which process serves it (null: the kernel). */
export interface Mounted {
  tree: string;
  fresh: string;
  pid: number | null;
  mountMs: number;
  unmount(): Promise<void>;
}

export interface Peer {
  name: string;
  /** The time of mount() is measured; it returns when the tree can be used. */
  mount(): Promise<Mounted>;
}

const POLL_MS = 1;
const WAIT_MS = 20_000;

function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .some((line) => line.split(' ')[4] === path);
}

function check(result: number, what: string): void {
  if (result < 0) throw new Error(`${what} failed: errno ${-result}`);
}

/** New directories of one mount. */
function places(work: string): { dir: string; upper: string; workdir: string; mnt: string } {
  const dir = mkdtempSync(join(work, 'mount-'));
  const made = (name: string): string => {
    mkdirSync(join(dir, name));
    return join(dir, name);
  };
  return { dir, upper: made('upper'), workdir: made('work'), mnt: made('mnt') };
}

/** The directory itself; new files go to another one of the same file system. */
export function plainPeer(work: string, tree: string): Peer {
  return {
    name: 'ext4',
    async mount() {
      const { dir, upper } = places(work);
      return {
        tree,
        fresh: upper,
        pid: null,
        mountMs: 0,
        async unmount() {
          rmSync(dir, { recursive: true });
        },
      };
    },
  };
}

export function overlayPeer(work: string, lower: string): Peer {
  return {
    name: 'overlayfs',
    async mount() {
      const { dir, upper, workdir, mnt } = places(work);
      const began = performance.now();
      check(
        mount('overlay', mnt, 'overlay', 0, `lowerdir=${lower},upperdir=${upper},workdir=${workdir}`),
        'mount of overlayfs',
      );
      return {
        tree: mnt,
        fresh: mnt,
        pid: null,
        mountMs: performance.now() - began,
        async unmount() {
          check(umount(mnt, 0), 'unmount of overlayfs');
          rmSync(dir, { recursive: true });
        },
      };
    },
  };
}

/** A program that serves in the foreground until it is unmounted. */
function servedPeer(
  name: string,
  work: string,
  command: (p: { upper: string; workdir: string; mnt: string }) => string[],
): Peer {
  return {
    name,
    async mount() {
      const { dir, upper, workdir, mnt } = places(work);
      const [file, ...args] = command({ upper, workdir, mnt });
      const began = performance.now();
      const child = spawn(file!, args, { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.on('data', (chunk) => {
        said += chunk;
      });
      const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.once('error', () => {});
      while (!isMounted(mnt)) {
        if (child.exitCode !== null || performance.now() - began > WAIT_MS)
          throw new Error(`${name} does not mount: ${said}`);
        await delay(POLL_MS);
      }
      return {
        tree: mnt,
        fresh: mnt,
        pid: child.pid!,
        mountMs: performance.now() - began,
        async unmount() {
          check(umount(mnt, 0), `unmount of ${name}`);
          await ended;
          rmSync(dir, { recursive: true });
        },
      };
    },
  };
}

export function fuseOverlayPeer(work: string, lower: string): Peer {
  return servedPeer('fuse-overlayfs', work, ({ upper, workdir, mnt }) => [
    'fuse-overlayfs',
    '-f',
    '-o',
    `lowerdir=${lower},upperdir=${upper},workdir=${workdir}`,
    mnt,
  ]);
}

/** Not a union: it shows one directory as it is, so it is given a copy that may change. */
export function bindfsPeer(work: string, copy: string): Peer {
  return servedPeer('bindfs', work, ({ mnt }) => ['bindfs', '-f', copy, mnt]);
}

export function unionfsPeer(work: string, lower: string): Peer {
  return servedPeer('unionfs-fuse', work, ({ upper, mnt }) => [
    'unionfs',
    '-f',
    '-o',
    'cow',
    `${upper}=RW:${lower}=RO`,
    mnt,
  ]);
}

/** Writes to an existing file go to its own branch, so it is given a copy too. */
export function mergerfsPeer(work: string, copy: string): Peer {
  return servedPeer('mergerfs', work, ({ upper, mnt }) => [
    'mergerfs',
    '-f',
    '-o',
    'fsname=mergerfs,category.create=ff,cache.files=auto-full,dropcacheonclose=false',
    `${upper}:${copy}`,
    mnt,
  ]);
}

/** Strata's data plane as stratad starts it; every mount has an appliance of its own. */
export interface StrataPlane {
  peer(name: string, stack: StackSpec, cache?: CacheMode): Peer;
  /** Requests so far of the mount at a directory, by kind; null when the data plane serves none there. */
  requests(mountpoint: string): Promise<Record<string, number> | null>;
  stop(): Promise<void>;
}

export async function strataPlane(work: string): Promise<StrataPlane> {
  const root = join(work, 'root');
  mkdirSync(root);
  const plane: OwnedDataPlane = await startDataPlane(root);
  const { pid } = await plane.status();
  return {
    peer: (name, stack, cache) => ({
      name,
      async mount() {
        const { dir, upper: privateDir, mnt } = places(work);
        mkdirSync(join(dir, 'whiteouts'));
        const began = performance.now();
        await plane.mount({
          id: dir,
          mountpoint: mnt,
          vlfs: {
            name,
            privateDir,
            whiteoutsDir: join(dir, 'whiteouts'),
            stack,
            unitsStamp: 'bench',
            readOnly: false,
            ...(cache === undefined ? {} : { cache }),
          },
          readOnly: false,
        });
        return {
          tree: mnt,
          fresh: mnt,
          pid,
          mountMs: performance.now() - began,
          async unmount() {
            await plane.unmount(mnt, { force: false });
            rmSync(dir, { recursive: true });
          },
        };
      },
    }),
    requests: async (mountpoint) =>
      (await plane.status()).mounts.find((m) => m.mountpoint === mountpoint)?.kinds ?? null,
    async stop() {
      await plane.shutdown({ force: true });
      plane.close();
    },
  };
}

/** Takes every mount below a directory away, whoever serves it, and the directory with it. */
export function cleanUp(work: string): void {
  const left = readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${work}/`));
  for (const path of left.reverse()) umount(path, MNT_DETACH);
  spawnSync('rm', ['-rf', work]);
}
