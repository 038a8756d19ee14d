/**
 * Copies of config and private layers (overlayfs upper directories): owners, modes, times, xattrs, hard links, holes and whiteout
 * devices as they are. What stands in such a tree was written by an appliance, so nothing in it is ever followed: every step goes
 * through directory descriptors with O_NOFOLLOW. Lets the event loop breathe every few megabytes.
 */
import { setImmediate as breathe } from 'node:timers/promises';
import * as sys from '../../sys/index.ts';
import {
  copyPartial,
  isMarkOfPartial,
  PARTIAL_XATTR,
  type PartialSource,
  partialSource,
} from '../../vlfs/index.ts';
import { alongBoth, type Trail } from './trail.ts';
import { latin1, linkBeneath, listDirectory, must, openDirectory } from './untrusted-tree.ts';

/** 'copy': own bytes; 'link': further names of the same inodes (only for trees that are never written in place). */
export interface CopyOptions {
  how: 'copy' | 'link';
  /** The units below partial files of the tree: those are copied whole, however the others are. */
  bases?: ReadonlyMap<string, string>;
  /** Directories of other devices are left empty, and told. */
  device?: number;
  /** So are directories of that device with these inodes. */
  except?: ReadonlySet<number>;
  onLeftOut?(path: string): void;
  /** Attributes that stay behind. */
  skipXattr?(name: string): boolean;
  /** Called for each entry with how many there were, and bytes of files. */
  onEntry?(entries: number, bytes: number): void;
  onMade?: OnMade;
}

/**
 * Told of each directory that was made or merged, and of each file that got an inode of its own, once it has its attributes. `from` has them too; `merged`:
 * other directories show in it.
 */
export type OnMade = (
  from: { dirfd: number; name: string; stat: sys.Stat },
  to: { dirfd: number; name: string },
  merged: boolean,
) => void;

export interface CopyState extends CopyOptions {
  rootTo: number;
  /** dev:ino of files with several names -> path of the first copy below rootTo. */
  inodes: Map<string, string>;
  bytes: number;
  entries: number;
  fileBytes: number;
}

const SLICE_BYTES = 8 << 20;

/** Copies the tree `from` to the new directory `to`. */
export async function copyTree(from: string, to: string, options: CopyOptions): Promise<void> {
  const fromFd = openDirectory(sys.AT_FDCWD, latin1(from));
  try {
    await copyTreeFrom(fromFd, to, options);
  } finally {
    sys.close(fromFd);
  }
}

/** As copyTree, of an open directory. */
export async function copyTreeFrom(fromFd: number, to: string, options: CopyOptions): Promise<void> {
  must(sys.mkdirat(sys.AT_FDCWD, latin1(to), 0o755), `make ${to}`);
  const toFd = openDirectory(sys.AT_FDCWD, latin1(to));
  try {
    const state = newCopyState(toFd, options);
    await alongBoth(fromFd, toFd, (from, to) => copyChildren(from, to, state, ''));
    const stat = sys.newStat();
    must(sys.fstat(fromFd, stat), 'stat');
    copyAttributes(fromFd, '.', toFd, '.', stat, options.skipXattr);
    options.onMade?.({ dirfd: fromFd, name: '.', stat }, { dirfd: toFd, name: '.' }, false);
  } finally {
    sys.close(toFd);
  }
}

export function newCopyState(rootTo: number, options: CopyOptions): CopyState {
  return { ...options, rootTo, inodes: new Map(), bytes: 0, entries: 0, fileBytes: 0 };
}

async function copyChildren(from: Trail, to: Trail, state: CopyState, path: string): Promise<void> {
  await from.rested();
  for (const { name } of listDirectory(from.fd)) await copyEntry(from, name, to, state, path);
}

/** Copies one entry (a directory with all below it) of where `from` is to where `to` is, under the same name. `path` is the parent's path below the copy's root. */
export async function copyEntry(
  from: Trail,
  name: string,
  to: Trail,
  state: CopyState,
  path: string,
): Promise<void> {
  const stat = sys.newStat();
  must(sys.statAt(from.fd, name, stat), `stat ${path}${name}`);
  const type = stat.mode & sys.S_IFMT;
  if (++state.entries % 512 === 0) await breathe();
  if (type === sys.S_IFREG) state.fileBytes += stat.size;
  state.onEntry?.(state.entries, state.fileBytes);
  if (type === sys.S_IFDIR) {
    must(sys.mkdirat(to.fd, name, 0o700), `make ${path}${name}`);
    from.down(name);
    to.down(name);
    if (isElsewhere(state, from.fd)) state.onLeftOut?.(`${path}${name}`);
    else await copyChildren(from, to, state, `${path}${name}/`);
    to.up();
    from.up();
    copyAttributes(from.fd, name, to.fd, name, stat, state.skipXattr);
    state.onMade?.({ dirfd: from.fd, name, stat }, { dirfd: to.fd, name }, false);
    return;
  }
  await copyOther({ from: from.fd, to: to.fd, name, path }, stat, state);
}

/** What is no directory. */
async function copyOther(
  { from, to, name, path }: { from: number; to: number; name: string; path: string },
  stat: sys.Stat,
  state: CopyState,
): Promise<void> {
  const type = stat.mode & sys.S_IFMT;
  const isPartial =
    type === sys.S_IFREG &&
    (state.bases?.size ?? 0) > 0 &&
    typeof sys.getxattrAt(from, name, PARTIAL_XATTR) !== 'number';
  if (state.how === 'link' && !isPartial) {
    const linked = sys.linkat(from, name, to, name);
    if (linked >= 0) return;
    if (linked !== -sys.E.MLINK) must(linked, `link ${path}${name}`);
  }
  const inode = `${stat.dev}:${stat.ino}`;
  const first = stat.nlink > 1 ? state.inodes.get(inode) : undefined;
  if (first !== undefined) {
    linkBeneath(state.rootTo, first, to, name);
    return;
  }
  if (type === sys.S_IFREG) await copyFile(from, name, to, stat, state);
  else if (type === sys.S_IFLNK) {
    const target = sys.readlinkat(from, name);
    if (typeof target === 'number') must(target, `read link ${path}${name}`);
    else must(sys.symlinkat(target, to, name), `make link ${path}${name}`);
  } else must(sys.mknodat(to, name, stat.mode, stat.rdev), `make node ${path}${name}`);
  copyAttributes(from, name, to, name, stat, isPartial ? isMarkOfPartial : state.skipXattr);
  state.onMade?.({ dirfd: from, name, stat }, { dirfd: to, name }, false);
  if (stat.nlink > 1) state.inodes.set(inode, `${path}${name}`);
}

/** The directory is the root of another file system, or excepted. */
function isElsewhere({ device, except }: CopyState, fd: number): boolean {
  const stat = sys.newStat();
  if (device === undefined || sys.fstat(fd, stat) !== 0) return false;
  return stat.dev !== device || except?.has(stat.ino) === true;
}

async function copyFile(
  from: number,
  name: string,
  to: number,
  stat: sys.Stat,
  state: CopyState,
): Promise<void> {
  // An appliance that is mounted meanwhile may have put a fifo in the file's place.
  const reading = sys.O_RDONLY | sys.O_NONBLOCK | sys.O_NOFOLLOW | sys.O_CLOEXEC;
  const source = must(sys.openat(from, name, reading), `open ${name}`);
  try {
    const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW | sys.O_CLOEXEC;
    const target = must(sys.openat(to, name, flags, 0o600), `create ${name}`);
    try {
      const partial = state.bases?.size ? partialSource(source, state.bases) : null;
      if (partial !== null) await copyWhole(partial, target);
      else if (stat.size > 0 && sys.ficlone(target, source) < 0)
        await copyExtents(source, target, stat.size, state);
    } finally {
      sys.close(target);
    }
  } finally {
    sys.close(source);
  }
}

async function copyWhole(partial: PartialSource, target: number): Promise<void> {
  try {
    await copyPartial(partial, target);
  } finally {
    sys.close(partial.baseFd);
  }
}

/** Only what holds data; holes stay holes. */
async function copyExtents(source: number, target: number, size: number, state: CopyState): Promise<void> {
  must(sys.ftruncate(target, size), 'set the size of a copy');
  for (let at = 0; at < size; ) {
    const start = sys.lseek(source, at, sys.SEEK_DATA);
    if (start === -sys.E.NXIO) return;
    must(start, 'find data');
    const end = Math.min(size, must(sys.lseek(source, start, sys.SEEK_HOLE), 'find a hole'));
    for (at = start; at < end; ) {
      const slice = Math.min(SLICE_BYTES, end - at);
      const ranged = sys.copyFileRange(source, at, target, at, slice);
      // Between file systems of two kinds the kernel copies nothing.
      const copied = must(
        ranged === -sys.E.XDEV ? copyByHand(source, target, at, slice) : ranged,
        'copy file data',
      );
      if (copied === 0) return;
      at += copied;
      state.bytes += copied;
      if (state.bytes > SLICE_BYTES) {
        state.bytes = 0;
        await breathe();
      }
    }
  }
}

const chunk = Buffer.allocUnsafeSlow(1 << 20);

/** As copy_file_range, with the same offset in both. */
function copyByHand(source: number, target: number, at: number, size: number): number {
  const got = sys.pread(source, chunk, Math.min(chunk.length, size), at);
  for (let done = 0; done < got; ) {
    const put = sys.pwrite(target, chunk.subarray(done, got), got - done, at + done);
    if (put <= 0) return put === 0 ? -sys.E.IO : put;
    done += put;
  }
  return got;
}

/** Owner, xattrs, mode, times (in this order: chown clears setuid and capabilities). */
export function copyAttributes(
  from: number,
  fromName: string,
  to: number,
  toName: string,
  stat: sys.Stat,
  skipXattr: (name: string) => boolean = () => false,
): void {
  const what = `set attributes of ${toName}`;
  must(sys.fchownat(to, toName, stat.uid, stat.gid), what);
  const isLink = (stat.mode & sys.S_IFMT) === sys.S_IFLNK;
  if (!isLink) must(sys.fchmodat(to, toName, stat.mode & 0o7777), what);
  const names = sys.listxattrAt(from, fromName);
  if (typeof names === 'number') {
    if (names !== -sys.E.OPNOTSUPP) must(names, what);
  } else {
    for (const name of sys.splitXattrList(names)) {
      if (skipXattr(name)) continue;
      const value = sys.getxattrAt(from, fromName, name);
      if (typeof value === 'number') must(value, what);
      else must(sys.setxattrAt(to, toName, name, value), what);
    }
  }
  must(sys.utimensat(to, toName, stat.atimeSec, stat.atimeNsec, stat.mtimeSec, stat.mtimeNsec), what);
}
