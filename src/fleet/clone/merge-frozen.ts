/**
 * Merges consecutive frozen layers into one that stands for all of them in every respect: what it shows, diff, revert and reset, inode numbers, link counts,
 * times, policies. Files are hard links, so nothing is copied and pages stay shared; the layers themselves stay as they are for whoever else has them. From
 * the newest down, because the whiteouts of a layer name the entries of each layer below it by that layer's own paths.
 */
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import {
  basesOf,
  encodeIno,
  encodeKeptInodes,
  INO_XATTR,
  type KeptInode,
  type KeptInodes,
  keptInodesFile,
  MARK_XATTR,
  openKeptInodes,
  privateIno,
  USER_MARK,
  writeBases,
} from '../../vlfs/index.ts';
import { mergePrivateOver } from '../merge-layers/layer-merge.ts';
import { openTrail } from '../merge-layers/trail.ts';
import { copyTree, type OnMade } from '../merge-layers/tree-copy.ts';
import { latin1, listDirectory, must, openDirectory, removeEntry } from '../merge-layers/untrusted-tree.ts';
import { mergeWhiteouts } from '../merge-layers/whiteout-merge.ts';
import { removeTree, replaceFile, syncDirectory } from '../state/files.ts';
import { keepFormerNames } from './former-names.ts';
import { walkTree } from './walk-tree.ts';

/** In a whiteouts directory: those of the layers below count no more. */
const WHOLE = '.whole';

export interface MergeJob {
  /**
   * Directories of frozen layers (frozen/ID), the newest first: at least two. `withoutMarked`: what is marked as nonclonable is hidden in the result, as it is
   * from a clone.
   */
  layers: { id: string; dir: string; withoutMarked?: boolean }[];
  /** An empty directory for the result. */
  to: string;
  /** The first one is a private layer, which somebody may be writing to: its files are copied. */
  firstIsPrivate?: boolean;
}

interface Layer {
  tree: string;
  whiteouts: string;
}

/** What is so of an inode of the result, whatever is done to it on the way. */
interface Made extends KeptInode {
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
}

/** Of the inodes of one layer, what its own stat does not tell (any more). */
type Before = (ino: number) => Partial<Made> | null;

/**
 * Builds to/{private, whiteouts, inodes}; nothing is synced but what must be on the disk before the first link. `onLayer`: so many layers are done.
 * Throws IO, NO_SPACE or LIMIT; then the caller removes `to`.
 */
export async function mergeFrozen(job: MergeJob, onLayer: (done: number) => void = () => {}): Promise<void> {
  const tables: KeptInodes[] = [];
  for (const [i, { dir }] of job.layers.entries())
    tables.push(i === 0 && job.firstIsPrivate ? () => null : await keepInodes(dir));
  const [first, ...below] = job.layers.map(({ dir, ...layer }) => ({ ...layer, ...partsOf(dir) }));
  let upper: Layer = first!;
  let before: Before = tables[0]!;
  let last = new Map<number, Made>();
  const bases = job.firstIsPrivate ? new Map<string, string>() : basesOf(upper.tree);
  for (const [i, layer] of below.entries()) {
    const step = join(job.to, `step-${i}`);
    mkdirSync(step, { mode: 0o700 });
    const next = partsOf(step);
    const made = new Map<number, Made>();
    await copyTree(layer.tree, next.tree, { how: 'link', onMade: noteMade(tables[i + 1]!, made) });
    await copySets(layer.whiteouts, next.whiteouts);
    if (layer.withoutMarked) await hideMarked(next.tree);
    const how = i === 0 && job.firstIsPrivate ? 'copy' : 'link';
    await mergeOver(upper, next, { id: layer.id, how, onMade: noteMade(before, made) });
    if (i > 0) removeTree(join(job.to, `step-${i - 1}`));
    for (const [unit, dir] of basesOf(layer.tree)) bases.set(unit, dir);
    upper = next;
    last = made;
    before = (ino) => made.get(ino) ?? null;
    onLayer(i + 2);
  }
  const result = partsOf(job.to);
  renameSync(upper.tree, result.tree);
  renameSync(upper.whiteouts, result.whiteouts);
  removeTree(join(job.to, `step-${below.length - 1}`));
  if (bases.size > 0) noteBases(result.tree, bases);
  await finish(result.tree, last, tables);
  const parts = job.layers.map(({ dir }, i) => ({ tree: partsOf(dir).tree, table: tables[i]! }));
  if (!job.firstIsPrivate) await keepFormerNames(parts, job.to);
}

function partsOf(dir: string): Layer {
  return { tree: join(dir, 'private'), whiteouts: join(dir, 'whiteouts') };
}

/** A directory of the result is another inode: it keeps number, link count and times of the one that it stands for. */
function noteMade(before: Before, made: Map<number, Made>): OnMade {
  const stat = sys.newStat();
  return (from, to, merged) => {
    must(sys.statAt(to.dirfd, to.name, stat), `stat ${to.name}`);
    const { ino, nlink, ctimeSec, ctimeNsec, mtimeSec, mtimeNsec, atimeSec, atimeNsec } = {
      ...from.stat,
      ...before(from.stat.ino),
    };
    const isDirectory = (stat.mode & sys.S_IFMT) === sys.S_IFDIR;
    made.set(stat.ino, {
      nlink: isDirectory && merged ? 1 : nlink,
      ctimeSec,
      ctimeNsec,
      mtimeSec,
      mtimeNsec,
      atimeSec,
      atimeNsec,
    });
    if (to.name === '.' || typeof sys.getxattrAt(from.dirfd, from.name, INO_XATTR) !== 'number') return;
    must(sys.setxattrAt(to.dirfd, to.name, INO_XATTR, encodeIno(privateIno(ino))), `mark ${to.name}`);
  };
}

/** Merges `upper` over `lower`, a copy of the layer `id`. */
async function mergeOver(
  upper: Layer,
  lower: Layer,
  { id, how, onMade }: { id: string; how: 'copy' | 'link'; onMade: OnMade },
): Promise<void> {
  const set = join(upper.whiteouts, 'frozen', id);
  await mergePrivateOver(upper.tree, lower.tree, { hidden: set, how, frozen: { onMade } });
  if (existsSync(join(upper.whiteouts, WHOLE))) {
    removeTree(lower.whiteouts);
    await copySets(upper.whiteouts, lower.whiteouts);
  } else await mergeWhiteouts(upper.whiteouts, lower.whiteouts);
  removeTree(join(lower.whiteouts, 'frozen', id));
}

async function copySets(from: string, to: string): Promise<void> {
  mkdirSync(to, { mode: 0o755 });
  await mergeWhiteouts(from, to);
  if (existsSync(join(from, WHOLE))) writeFileSync(join(to, WHOLE), '', { mode: 0o600 });
}

/** What no clone may get, in a copy of an inherited layer: a whiteout takes its place, so that nothing older shows there either. */
async function hideMarked(tree: string): Promise<void> {
  const root = openDirectory(sys.AT_FDCWD, latin1(tree));
  const trail = openTrail(root);
  const walk = async (): Promise<void> => {
    await trail.rested();
    for (const [i, { name, type }] of listDirectory(trail.fd).entries()) {
      if (i % 512 === 511) await breathe();
      const { fd } = trail;
      if ([MARK_XATTR, USER_MARK].some((mark) => typeof sys.getxattrAt(fd, name, mark) !== 'number')) {
        removeEntry(fd, name);
        must(sys.mknodat(fd, name, sys.S_IFCHR, 0), `hide ${name}`);
      } else if (type === sys.DT_DIR) {
        trail.down(name);
        await walk();
        trail.up();
      }
    }
  };
  try {
    await walk();
  } finally {
    trail.close();
    sys.close(root);
  }
}

/** The units below the partial files of all layers. */
function noteBases(tree: string, bases: ReadonlyMap<string, string>): void {
  const fd = openDirectory(sys.AT_FDCWD, latin1(tree));
  try {
    must(writeBases(fd, tree, bases), 'note what partial files need');
  } finally {
    sys.close(fd);
  }
}

/** The table of a layer's inodes, written before anything links to them. */
async function keepInodes(dir: string): Promise<KeptInodes> {
  const { tree } = partsOf(dir);
  const known = openKeptInodes(tree);
  if (known !== null) return known;
  const found = new Map<number, KeptInode>();
  await walkTree(tree, ({ stat: { ino, nlink, ctimeSec, ctimeNsec, mode } }) => {
    if ((mode & sys.S_IFMT) !== sys.S_IFDIR) found.set(ino, { nlink, ctimeSec, ctimeNsec });
  });
  replaceFile(keptInodesFile(tree), encodeKeptInodes(found));
  syncDirectory(dir);
  const written = openKeptInodes(tree);
  if (written === null) throw new StrataError('IO', `${keptInodesFile(tree)} cannot be read`);
  return written;
}

/** Directories get the times that they had before names came and went in them. The table of the merged layer: its own names count. */
async function finish(
  tree: string,
  made: ReadonlyMap<number, Made>,
  tables: readonly KeptInodes[],
): Promise<void> {
  const found = new Map<number, KeptInode>();
  await walkTree(tree, ({ stat, dirfd, name }) => {
    const known = found.get(stat.ino);
    if (known !== undefined) {
      known.nlink++;
      return;
    }
    const own = made.get(stat.ino);
    const { ctimeSec, ctimeNsec, nlink } = own ?? tableOf(tables, stat.ino) ?? stat;
    const isDirectory = (stat.mode & sys.S_IFMT) === sys.S_IFDIR;
    if (isDirectory && own !== undefined) {
      const { atimeSec, atimeNsec, mtimeSec, mtimeNsec } = own;
      must(sys.utimensat(dirfd, name, atimeSec, atimeNsec, mtimeSec, mtimeNsec), `set times of ${name}`);
    }
    found.set(stat.ino, { nlink: isDirectory ? nlink : 1, ctimeSec, ctimeNsec });
  });
  replaceFile(keptInodesFile(tree), encodeKeptInodes(found));
}

function tableOf(tables: readonly KeptInodes[], ino: number): KeptInode | null {
  for (const table of tables) {
    const known = table(ino);
    if (known !== null) return known;
  }
  return null;
}
