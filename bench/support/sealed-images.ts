/**
 * What one would use today instead of a sealed door's image, as far as Debian 12 has it (composefs is not in it): ostree, an EROFS or a squashfs image of the
 * merged tree below overlayfs, and fuse-overlayfs over all layers. Time to make it, its size, time to mount, and the first walk with cold caches.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mount, umount } from '../../src/sys/index.ts';
import type { StackSpec } from '../../src/vlfs/contract.ts';
import { fuseOverlayPeer, overlayPeer, type Peer } from './vlfs-peers.ts';

/** One way to get from layers to a mounted tree. */
export interface Way {
  name: string;
  /** Makes what is mounted, from trees on disk; returns its bytes. Its time is measured. */
  make(): Promise<number>;
  peer(): Peer;
  remove(): void;
}

export interface WayFigures {
  name: string;
  makeMs: number;
  bytes: number;
  mountMs: number[];
  /** Entries a second. */
  coldWalk: number[];
}

function run(file: string, ...args: string[]): void {
  execFileSync(file, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** An overlay over a directory on which something else is mounted first; both are measured as one mount. */
function overlayOn(work: string, lower: string, mountLower: () => void): Peer {
  const inner = overlayPeer(work, lower);
  return {
    name: inner.name,
    async mount() {
      const began = performance.now();
      mountLower();
      const ms = performance.now() - began;
      const m = await inner.mount();
      const unmount = async () => {
        await m.unmount();
        umount(lower, 0);
      };
      return { ...m, mountMs: m.mountMs + ms, unmount };
    },
  };
}

function imageWay(
  work: string,
  name: string,
  make: (file: string) => void,
  mountImage: (file: string, dir: string) => void,
): Way {
  const dir = mkdtempSync(join(work, 'way-'));
  const file = join(dir, 'image');
  mkdirSync(join(dir, 'lower'));
  return {
    name,
    async make() {
      rmSync(file, { force: true });
      make(file);
      return statSync(file).size;
    },
    peer: () => overlayOn(work, join(dir, 'lower'), () => mountImage(file, join(dir, 'lower'))),
    remove: () => rmSync(dir, { recursive: true }),
  };
}

function ostreeWay(work: string, merged: string): Way {
  const dir = mkdtempSync(join(work, 'way-'));
  const repo = join(dir, 'repo');
  const tree = join(dir, 'tree');
  run('ostree', `--repo=${repo}`, 'init', '--mode=bare');
  run('ostree', `--repo=${repo}`, 'commit', '--branch=merged', `--tree=dir=${merged}`, '--subject=merged');
  return {
    name: 'ostree checkout of hard links + overlayfs (the commit is made before)',
    async make() {
      rmSync(tree, { recursive: true, force: true });
      run('ostree', `--repo=${repo}`, 'checkout', '--require-hardlinks', 'merged', tree);
      // Directories; the files are the repository's.
      const blocks = execFileSync('find', [tree, '-type', 'd', '-printf', '%k\n'], { encoding: 'utf8' });
      return blocks.split('\n').reduce((sum, kib) => sum + Number(kib) * 1024, 0);
    },
    peer: () => overlayPeer(work, tree),
    remove: () => rmSync(dir, { recursive: true }),
  };
}

/** fuse-overlayfs takes its layers at once, and makes nothing ahead. */
function fuseOverlayWay(work: string, many: StackSpec): Way {
  return {
    name: `fuse-overlayfs, ${many.levels.length} layers`,
    make: async () => 0,
    peer: () => fuseOverlayPeer(work, many.levels.map(({ treeDir }) => treeDir).join(':')),
    remove: () => {},
  };
}

function check(result: number, what: string): void {
  if (result < 0) throw new Error(`${what}: errno ${-result}`);
}

export function otherWays(work: string, merged: string, many: StackSpec): Way[] {
  return [
    ostreeWay(work, merged),
    imageWay(
      work,
      'mkfs.erofs of the merged tree, with its data + overlayfs',
      (file) => run('mkfs.erofs', file, merged),
      (file, dir) => check(mount(file, dir, 'erofs', 1, ''), 'mount of erofs'),
    ),
    imageWay(
      work,
      'mksquashfs of the merged tree, with its data + overlayfs',
      (file) => run('mksquashfs', merged, file, '-no-progress', '-quiet', '-comp', 'zstd'),
      (file, dir) => run('mount', '-o', 'loop,ro', '-t', 'squashfs', file, dir),
    ),
    fuseOverlayWay(work, many),
  ];
}

/** Makes each once and walks it `walks` times, nothing in the kernel's caches. */
export async function measureWays(
  ways: Way[],
  walks: number,
  walk: (tree: string) => number,
): Promise<WayFigures[]> {
  const all: WayFigures[] = [];
  for (const way of ways) {
    const began = performance.now();
    const bytes = await way.make();
    all.push({ name: way.name, makeMs: performance.now() - began, bytes, mountMs: [], coldWalk: [] });
  }
  for (let i = 0; i < walks; i++) {
    for (const [at, way] of ways.entries()) {
      const m = await way.peer().mount();
      dropCaches(m.fresh);
      all[at]!.coldWalk.push(walk(m.tree));
      await m.unmount();
      const again = await way.peer().mount();
      all[at]!.mountMs.push(again.mountMs);
      await again.unmount();
    }
  }
  for (const way of ways) way.remove();
  return all;
}

/** `dir`: on the file system whose changes must be on disk first. */
export function dropCaches(dir: string): void {
  run('sync', '-f', dir);
  writeFileSync('/proc/sys/vm/drop_caches', '3');
}
