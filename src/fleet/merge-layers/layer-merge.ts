/**
 * Merges a private layer over a config layer (a template freeze), or a frozen layer over the one below it. All are overlayfs upper directories, so this
 * is overlayfs' own meaning applied to the files: a whiteout or a non-directory replaces what stood there, an opaque directory too, other directories
 * merge, and a directory renamed by `redirect` takes the lower layer's part of it along. The upper layer is only read.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import * as sys from '../../sys/index.ts';
import { basesOf, MARK_XATTR, USER_MARK, WAS_XATTR } from '../../vlfs/index.ts';
import { removeTree } from '../state/files.ts';
import type { Owner } from '../state/paths.ts';
import { alongBoth, openTrail, type Trail } from './trail.ts';
import {
  type CopyOptions,
  type CopyState,
  copyAttributes,
  copyEntry,
  newCopyState,
  type OnMade,
} from './tree-copy.ts';
import {
  latin1,
  listDirectory,
  must,
  openBeneath,
  openDirectory,
  removeEntry,
  splitParent,
} from './untrusted-tree.ts';
import {
  mergeWhiteouts,
  openMarked,
  openSet,
  removeMarked,
  removeMarkedDirectories,
} from './whiteout-merge.ts';

const OPAQUE = 'trusted.overlay.opaque';
const REDIRECT = 'trusted.overlay.redirect';
const FOLLOW_NOTHING = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;

function xattr(dirfd: number, name: string, attribute: string): string | null {
  const value = sys.getxattrAt(dirfd, name, attribute);
  return typeof value === 'number' ? null : Buffer.from(value).toString('latin1');
}

function isDirectory(stat: sys.Stat): boolean {
  return (stat.mode & sys.S_IFMT) === sys.S_IFDIR;
}

async function withDirectories<T>(
  from: string,
  to: string,
  work: (from: number, to: number) => Promise<T>,
): Promise<T> {
  const fromFd = openDirectory(sys.AT_FDCWD, latin1(from));
  try {
    const toFd = openDirectory(sys.AT_FDCWD, latin1(to));
    try {
      return await work(fromFd, toFd);
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
  }
}

/** A private or config layer on disk: its tree, and its whiteout sets by level. */
export interface LayerDirs {
  tree: string;
  whiteouts: string;
}

/**
 * Merges a private layer with its whiteouts over the config layer of `owner`, which is changed in place; files that other trees hold too
 * are replaced, never written. `how`: 'link' when nothing writes to the private layer any more.
 */
export async function mergeLayerOver(
  from: LayerDirs,
  to: LayerDirs,
  owner: Owner,
  how: CopyOptions['how'],
): Promise<void> {
  const own = join('config', owner);
  await mergePrivateOver(from.tree, to.tree, { hidden: join(from.whiteouts, own), how });
  await mergeWhiteouts(from.whiteouts, to.whiteouts);
  removeTree(join(to.whiteouts, own));
}

export interface MergeOptions {
  /** The upper layer's whiteout set of the lower one; what it hides goes first. */
  hidden?: string | null;
  how?: CopyOptions['how'];
  /** Both are frozen: the result stands for both of them in every respect, partial files stay what they are where they are linked. */
  frozen?: { onMade: OnMade };
}

interface MergeState extends CopyState {
  isFrozen: boolean;
  /** Inodes of directories in which nothing of the lower layer shows. */
  fresh: Set<number>;
}

/** Merges the private (or frozen) layer `from` over the config (or frozen) layer `to`, which is changed in place. */
export async function mergePrivateOver(
  from: string,
  to: string,
  { hidden = null, how = 'copy', frozen }: MergeOptions = {},
): Promise<void> {
  const isFrozen = frozen !== undefined;
  await withDirectories(from, to, async (fromFd, toFd) => {
    const set = hidden === null ? null : openSet(hidden);
    const bases = isFrozen && how === 'link' ? undefined : basesOf(from);
    const copy = newCopyState(toFd, { how, ...frozen, ...(bases === undefined ? {} : { bases }) });
    const state: MergeState = { ...copy, isFrozen, fresh: new Set() };
    try {
      if (set !== null && isFrozen) await openMarked(set, toFd);
      if (set !== null) await removeMarked(set, toFd, !isFrozen);
      const moves = await renamedDirectories(fromFd, toFd);
      extract(toFd, moves);
      // Only now: a part of a hidden directory may have been renamed before.
      if (set !== null) await removeMarkedDirectories(set, toFd, !isFrozen);
      await alongBoth(fromFd, toFd, (above, below) => clearHidden(above, below, state));
      place(toFd, moves);
      await alongBoth(fromFd, toFd, (above, below) => mergeDirectory(above, below, state, ''));
      for (const move of moves) mark(toFd, move, isFrozen);
    } finally {
      if (set !== null) sys.close(set);
    }
    const stat = sys.newStat();
    must(sys.fstat(fromFd, stat), 'stat the private layer');
    copyAttributes(fromFd, '.', toFd, '.', stat, (name) => !isFrozen && name.startsWith('trusted.'));
    frozen?.onMade({ dirfd: fromFd, name: '.', stat }, { dirfd: toFd, name: '.' }, true);
  });
}

/** A directory of the private layer that shows what the layers below hold under another name. */
interface Move {
  path: string;
  /** Its name in the layers below. */
  source: string;
  /** Its name below the config layer, which may have renamed it too; null: nothing of it is there. */
  base: string | null;
  /** Where the config layer's part of it waits meanwhile; null: there is none. */
  parked: string | null;
}

/** All renamed directories of the private layer, parents first. */
async function renamedDirectories(from: number, to: number): Promise<Move[]> {
  const moves: Move[] = [];
  const trail = openTrail(from);
  const stat = sys.newStat();
  const walk = async (path: string, lower: string): Promise<void> => {
    await trail.rested();
    for (const { name } of listDirectory(trail.fd)) {
      must(sys.statAt(trail.fd, name, stat), `stat ${path}${name}`);
      if (!isDirectory(stat)) continue;
      const redirect = xattr(trail.fd, name, OPAQUE) === 'y' ? null : xattr(trail.fd, name, REDIRECT);
      const source = redirected(lower, redirect ?? name);
      if (redirect !== null)
        moves.push({ path: `${path}${name}`, source, base: baseName(to, source), parked: null });
      trail.down(name);
      await walk(`${path}${name}/`, source);
      trail.up();
    }
  };
  try {
    await walk('', '');
  } finally {
    trail.close();
  }
  return moves;
}

/** A redirect is absolute, or a name beside the directory's own. */
function redirected(parent: string, redirect: string): string {
  if (redirect.startsWith('/')) return redirect.slice(1);
  return parent === '' ? redirect : `${parent}/${redirect}`;
}

/** What a path of the config layer's view is called in the layers below it; null when an opaque directory hides them. */
function baseName(root: number, path: string): string | null {
  let fd = must(sys.dup(root), 'open a directory');
  let base = '';
  try {
    for (const name of path.split('/')) {
      if (fd >= 0 && xattr(fd, name, OPAQUE) === 'y') return null;
      base = redirected(base, (fd >= 0 ? xattr(fd, name, REDIRECT) : null) ?? name);
      const next = fd < 0 ? -1 : sys.openat(fd, name, FOLLOW_NOTHING);
      if (fd >= 0) sys.close(fd);
      fd = next;
    }
    return base;
  } finally {
    if (fd >= 0) sys.close(fd);
  }
}

/** Takes the config layer's parts of renamed directories out of their places, the deepest first. */
function extract(root: number, moves: Move[]): void {
  const token = randomBytes(8).toString('hex');
  const depthOf = (move: Move) => move.source.split('/').length;
  for (const [at, move] of [...moves].sort((a, b) => depthOf(b) - depthOf(a)).entries()) {
    const { parent, name } = splitParent(move.source);
    const fd = openBeneath(root, parent);
    if (fd < 0) continue;
    const stat = sys.newStat();
    if (sys.statAt(fd, name, stat) >= 0 && isDirectory(stat)) {
      move.parked = `.strata-move-${token}-${at}`;
      must(sys.renameat2(fd, name, root, move.parked), `move ${move.source}`);
    }
    sys.close(fd);
  }
}

/** Removes from the config layer what the private layer hides wholly: replaced objects, and below opaque or renamed directories. */
async function clearHidden(from: Trail, to: Trail, state: MergeState): Promise<void> {
  await from.rested();
  const stat = sys.newStat();
  const below = sys.newStat();
  for (const { name } of listDirectory(from.fd)) {
    must(sys.statAt(from.fd, name, stat), `stat ${name}`);
    if (sys.statAt(to.fd, name, below) < 0) continue;
    if (!isDirectory(stat)) {
      removeEntry(to.fd, name);
      continue;
    }
    const isOpaque = xattr(from.fd, name, OPAQUE) === 'y';
    if (isOpaque || !isDirectory(below) || xattr(from.fd, name, REDIRECT) !== null) {
      removeEntry(to.fd, name);
      must(sys.mkdirat(to.fd, name, 0o700), `make ${name}`);
      must(sys.setxattrAt(to.fd, name, OPAQUE, Buffer.from('y')), `mark ${name}`);
      if (sys.statAt(to.fd, name, below) >= 0) state.fresh.add(below.ino);
      continue;
    }
    from.down(name);
    to.down(name);
    await clearHidden(from, to, state);
    to.up();
    from.up();
  }
}

/** Puts the parts that were taken out under their new names, parents first. */
function place(root: number, moves: Move[]): void {
  for (const { path, parked } of moves) {
    if (parked === null) continue;
    const { parent, name } = splitParent(path);
    const fd = makeParents(root, parent);
    try {
      removeEntry(fd, name);
      must(sys.renameat2(root, parked, fd, name), `move a directory to ${path}`);
    } finally {
      sys.close(fd);
    }
  }
}

/** Says at a renamed directory what it is called below the config layer. */
function mark(root: number, move: Move, isFrozen: boolean): void {
  const { parent, name } = splitParent(move.path);
  const fd = must(openBeneath(root, parent), `open ${parent}`);
  try {
    const absent = (result: number) => (result === -sys.E.NODATA ? 0 : result);
    // To a policy it goes on being where it was on the way.
    if (isFrozen && move.base !== move.source) addFormerPaths(fd, name, [move.source]);
    if (move.base === null) {
      must(absent(sys.removexattrAt(fd, name, REDIRECT)), `mark ${move.path}`);
      must(sys.setxattrAt(fd, name, OPAQUE, Buffer.from('y')), `mark ${move.path}`);
    } else {
      must(absent(sys.removexattrAt(fd, name, OPAQUE)), `mark ${move.path}`);
      must(sys.setxattrAt(fd, name, REDIRECT, Buffer.from(`/${move.base}`, 'latin1')), `mark ${move.path}`);
    }
  } finally {
    sys.close(fd);
  }
}

/** The directory `path` below root, made where it is missing (the merge gives it its attributes). */
function makeParents(root: number, path: string): number {
  let fd = must(sys.dup(root), 'open a directory');
  for (const name of path.split('/')) {
    if (name === '.' || name === '') continue;
    const stat = sys.newStat();
    if (sys.statAt(fd, name, stat) < 0 || !isDirectory(stat)) {
      removeEntry(fd, name);
      must(sys.mkdirat(fd, name, 0o755), `make ${name}`);
    }
    const next = openDirectory(fd, name);
    sys.close(fd);
    fd = next;
  }
  return fd;
}

async function mergeDirectory(from: Trail, to: Trail, state: MergeState, path: string): Promise<void> {
  await from.rested();
  const stat = sys.newStat();
  const below = sys.newStat();
  for (const { name } of listDirectory(from.fd)) {
    must(sys.statAt(from.fd, name, stat), `stat ${path}${name}`);
    const there = sys.statAt(to.fd, name, below) >= 0;
    if (!isDirectory(stat) || !there || !isDirectory(below)) {
      if (there) removeEntry(to.fd, name);
      await copyEntry(from, name, to, state, path);
      continue;
    }
    from.down(name);
    to.down(name);
    await mergeDirectory(from, to, state, `${path}${name}/`);
    to.up();
    from.up();
    mergeAttributes(from.fd, name, to.fd, state, path);
  }
}

/** What a merged directory is, once all below it is merged. */
function mergeAttributes(from: number, name: string, to: number, state: MergeState, path: string): void {
  const stat = sys.newStat();
  must(sys.statAt(from, name, stat), `stat ${path}${name}`);
  const was = state.isFrozen ? formerPaths(to, name) : [];
  const isMarked = state.isFrozen && [MARK_XATTR, USER_MARK].some((one) => xattr(to, name, one) !== null);
  dropOtherXattrs(from, name, to);
  copyAttributes(from, name, to, name, stat, (attribute) => attribute === REDIRECT);
  if (!state.isFrozen) return;
  // What no clone may get is in it still.
  if (isMarked) must(sys.setxattrAt(to, name, MARK_XATTR, Buffer.from('y')), `mark ${name}`);
  addFormerPaths(to, name, was);
  const made = sys.newStat();
  must(sys.statAt(to, name, made), `stat ${path}${name}`);
  state.onMade?.({ dirfd: from, name, stat }, { dirfd: to, name }, !state.fresh.has(made.ino));
}

/** Attributes of the lower directory that the upper one has no more; those of Strata and overlayfs say what it is. */
function dropOtherXattrs(from: number, name: string, to: number): void {
  const names = sys.listxattrAt(to, name);
  for (const attribute of typeof names === 'number' ? [] : sys.splitXattrList(names)) {
    if (attribute.startsWith('trusted.overlay.') || attribute.startsWith('trusted.strata.')) continue;
    if (xattr(from, name, attribute) !== null) continue;
    const gone = sys.removexattrAt(to, name, attribute);
    if (gone !== -sys.E.NODATA) must(gone, `set attributes of ${name}`);
  }
}

function formerPaths(dirfd: number, name: string): string[] {
  return xattr(dirfd, name, WAS_XATTR)?.split('\0') ?? [];
}

function addFormerPaths(dirfd: number, name: string, paths: readonly string[]): void {
  const known = formerPaths(dirfd, name);
  const all = [...new Set([...known, ...paths])];
  if (all.length === known.length) return;
  const kept = sys.setxattrAt(dirfd, name, WAS_XATTR, Buffer.from(all.join('\0'), 'latin1'));
  // No room for a long path: then the whole directory is kept from clones.
  if (kept < 0) must(sys.setxattrAt(dirfd, name, MARK_XATTR, Buffer.from('y')), `mark ${name}`);
}
