/** Other ways to have a second copy of a tree, each on a file system of its own in a loop image: full copies, hard links, shared blocks, btrfs snapshots. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export type DiskKind = 'ext4' | 'xfs' | 'btrfs';

export interface Disk {
  kind: DiskKind;
  dir: string;
  /** Bytes that are in use, after everything was written back. */
  usedBytes(): number;
  remove(): void;
}

const run = (command: string, ...args: string[]): void => {
  execFileSync(command, args, { stdio: 'pipe' });
};

/** An empty file system of 40 GiB at most, in a sparse image below `work`. */
export function makeDisk(work: string, kind: DiskKind): Disk {
  const image = join(work, `${kind}.image`);
  const dir = join(work, kind);
  mkdirSync(dir);
  run('truncate', '-s', '40G', image);
  run(`mkfs.${kind}`, '-q', ...(kind === 'ext4' ? ['-i', '8192'] : []), image);
  run('mount', '-o', 'loop', image, dir);
  return {
    kind,
    dir,
    usedBytes() {
      run('sync', '-f', dir);
      const { blocks, bfree, bsize } = statfsSync(dir);
      return (blocks - bfree) * bsize;
    },
    remove() {
      run('umount', '-l', dir);
      run('rm', '-f', image);
    },
  };
}

/** Files of a few KiB, as a system has: `directories` of them in two levels. */
export function makeTree(dir: string, files: number, directories: number): void {
  for (let i = 0; i < files; i++) {
    const at = i % directories;
    const place = join(dir, `d${at % 100}`, `e${at}`);
    if (i < directories) mkdirSync(place, { recursive: true });
    writeFileSync(join(place, `f${i}`), `${i} `.repeat(20 + ((i * 7919) % 900)));
  }
}

export interface Peer {
  name: string;
  disk: DiskKind;
  /** Makes `to` from `from`. */
  make(from: string, to: string): void;
}

export const PEERS: readonly Peer[] = [
  { name: 'full copy (cp -a)', disk: 'ext4', make: (from, to) => run('cp', '-a', from, to) },
  { name: 'hard links (cp -al), not isolated', disk: 'ext4', make: (from, to) => run('cp', '-al', from, to) },
  { name: 'cp --reflink', disk: 'xfs', make: (from, to) => run('cp', '-a', '--reflink=always', from, to) },
  { name: 'cp --reflink', disk: 'btrfs', make: (from, to) => run('cp', '-a', '--reflink=always', from, to) },
  {
    name: 'subvolume snapshot',
    disk: 'btrfs',
    make: (from, to) => run('btrfs', 'subvolume', 'snapshot', from, to),
  },
];

/** Where the tree is to be made on a disk. */
export function treeOn({ kind, dir }: Disk): string {
  const tree = join(dir, 'tree');
  if (kind === 'btrfs') run('btrfs', 'subvolume', 'create', tree);
  else mkdirSync(tree);
  return tree;
}
