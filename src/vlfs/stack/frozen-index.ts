/**
 * The index of a frozen layer, read lazily: a directory when it is first used, the attributes of an entry when they are first asked for. So
 * freezing a layer costs nothing, whatever it holds. The tree never changes once it is frozen; what was read is right for ever. Entries get
 * consecutive numbers in the order in which directories are read: they mean nothing to another process.
 * Which names are hard links of one inode is known of those that were asked for; `completeLinks` finds all.
 */
import { LIMITS, type Name, nameFromText, StrataError } from '../../base/index.ts';
import type { TreeIndex } from '../../layer/contract.ts';
import {
  AT_FDCWD,
  close,
  type DirectoryEntry,
  DT_DIR,
  E,
  fgetxattr,
  flistxattr,
  fstat,
  getxattrAt,
  listxattrAt,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
  readlinkat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  type Stat,
  splitXattrList,
  statAt,
} from '../../sys/index.ts';
import { decodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { privateIno } from '../nodes/inode-numbers.ts';
import { type KeptInodes, openKeptInodes, readFormerNames } from '../nodes/kept-inodes.ts';
import { walkEntries } from '../private-layer/walk-entries.ts';

export interface FrozenIndex extends TreeIndex {
  stat(entry: number): Readonly<Stat>;
  /** The inode on disk, as the directory lists it: without looking at the entry itself. */
  listedIno(entry: number): number;
  /** st_ino of what is no directory: as while it was private. */
  ino(entry: number): number;
  /** The number in `trusted.strata.ino`, or 0. */
  keptIno(entry: number): number;
  /** Opens a file for reading, or a directory; a negative errno. */
  open(entry: number, flags?: number): number;
  /** Names that a file had in the layers of which this one was merged. */
  formerPaths(entry: number): readonly string[];
  /** From here on hardLinkNext knows every name of every inode. Reads all directories. */
  completeLinks(): void;
  close(): void;
}

const NONE: ReadonlyMap<Name, Uint8Array> = new Map();
const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
const MOST = 2 ** 22;

/** An open directory of a frozen layer. */
interface OpenDirectory {
  /** Those of its layer, by entry. */
  readonly among: Map<number, OpenDirectory>;
  readonly entry: number;
  readonly fd: number;
}

/**
 * Directories that were used last, of all frozen layers of the thread: a stack may have a thousand of them, and each a tree of any depth. So what a step
 * to another directory costs does not grow with its depth: of a long way from the root each ANCHOR-th directory is kept too.
 */
const recent = new Set<OpenDirectory>();
const MOST_OPEN = 64;
const ANCHOR = 128;

function keepOpen(among: Map<number, OpenDirectory>, entry: number, fd: number): void {
  const kept = { among, entry, fd };
  among.set(entry, kept);
  recent.add(kept);
  if (recent.size <= MOST_OPEN) return;
  for (const oldest of recent) {
    giveUp(oldest);
    return;
  }
}

function giveUp(kept: OpenDirectory): void {
  recent.delete(kept);
  kept.among.delete(kept.entry);
  close(kept.fd);
}

/** The index of the frozen tree at `treeDir`, which need not be there before its first use. */
export function openFrozenIndex(treeDir: string): FrozenIndex {
  const names: string[] = [''];
  const parents: number[] = [0];
  /** S_IFMT bits. */
  const kinds: number[] = [S_IFDIR];
  const inos: number[] = [0];
  /** First child and number of children; -1: not read. */
  const first: number[] = [-1];
  const counts: number[] = [-1];
  const stats: (Stat | undefined)[] = [undefined];
  const attributes: (ReadonlyMap<Name, Uint8Array> | undefined)[] = [undefined];
  /** Entries of an inode with several names, in the order in which they were asked for. */
  const links = new Map<number, number[]>();
  let complete = false;
  /** undefined: not looked for. */
  let kept: KeptInodes | null | undefined;
  let former: ReadonlyMap<string, readonly string[]> | null = null;
  const openedAt = Date.now() / 1000;
  const opened = new Map<number, OpenDirectory>();
  let closed = false;

  function failure(errno: number): StrataError {
    return new StrataError('IO', `the frozen layer ${treeDir} cannot be read (errno ${-errno})`);
  }

  /** The descriptor of a directory, valid until the next call. */
  function directory(entry: number): number {
    const known = opened.get(entry);
    if (known !== undefined) return used(known);
    if (closed) return -E.STALE;
    const way: number[] = [];
    let from: OpenDirectory | undefined;
    for (let at = entry; at !== 0 && from === undefined; at = parents[at]!) {
      way.push(at);
      from = opened.get(parents[at]!);
    }
    if (from === undefined) {
      const root = openat(AT_FDCWD, nameFromText(treeDir), DIRECTORY);
      if (root < 0) return root;
      keepOpen(opened, 0, root);
      if (entry === 0) return root;
      from = opened.get(0)!;
    }
    return openAlong(way, used(from));
  }

  function used(kept: OpenDirectory): number {
    recent.delete(kept);
    recent.add(kept);
    return kept.fd;
  }

  /** Opens the directories of a way, the last one first in the list, name by name, so that no link is followed and no path is too long. */
  function openAlong(way: readonly number[], from: number): number {
    let fd = from;
    let isKept = true;
    for (let i = way.length - 1; i >= 0; i--) {
      const next = openat(fd, names[way[i]!]!, DIRECTORY);
      if (!isKept) close(fd);
      if (next < 0) return next;
      fd = next;
      isKept = i % ANCHOR === 0;
      if (isKept) keepOpen(opened, way[i]!, fd);
    }
    return fd;
  }

  function pathParts(entry: number): string[] {
    const parts: string[] = [];
    for (let at = entry; at !== 0; at = parents[at]!) parts.push(names[at]!);
    return parts.reverse();
  }

  function load(entry: number): void {
    if (counts[entry]! >= 0) return;
    if (kinds[entry] !== S_IFDIR) {
      counts[entry] = 0;
      return;
    }
    const fd = directory(entry);
    const listing = fd < 0 ? fd : openat(fd, '.', DIRECTORY);
    if (listing < 0) throw failure(listing);
    const found = readDirectory(listing);
    close(listing);
    if (typeof found === 'number') throw failure(found);
    if (names.length + found.length > Math.min(MOST, LIMITS.layerEntries + 1))
      throw new StrataError(
        'LIMIT',
        `the frozen layer ${treeDir} has more than ${LIMITS.layerEntries} entries`,
      );
    found.sort((a, b) => (a.name < b.name ? -1 : 1));
    first[entry] = names.length;
    counts[entry] = found.length;
    for (const one of found) add(entry, one);
  }

  function add(parent: number, { name, type, ino }: DirectoryEntry): void {
    const entry = names.push(name) - 1;
    parents.push(parent);
    inos.push(ino);
    kinds.push(type << 12);
    first.push(-1);
    counts.push(-1);
    stats.push(undefined);
    attributes.push(undefined);
    if (type === 0) kinds[entry] = index.stat(entry).mode & S_IFMT;
  }

  /** Link count and change time are those of when it was frozen, though merged layers have linked to the inode since. */
  function restore(stat: Stat): void {
    const mayBeNew = stat.nlink > 1 || stat.ctimeSec >= openedAt - 1;
    if (kept === undefined || (kept === null && mayBeNew)) kept = openKeptInodes(treeDir);
    const known = kept?.(stat.ino) ?? null;
    if (known !== null) Object.assign(stat, known);
  }

  function group(entry: number): number[] | null {
    const { nlink, ino } = index.stat(entry);
    if (kinds[entry] === S_IFDIR || nlink < 2) return null;
    let known = links.get(ino);
    if (known === undefined) {
      known = [];
      links.set(ino, known);
    }
    if (!known.includes(entry)) known.push(entry);
    return known;
  }

  function readXattrs(entry: number): ReadonlyMap<Name, Uint8Array> {
    const isDirectory = kinds[entry] === S_IFDIR;
    const fd = directory(isDirectory ? entry : parents[entry]!);
    if (fd < 0) throw failure(fd);
    const name = names[entry]!;
    const list = isDirectory ? flistxattr(fd) : listxattrAt(fd, name);
    if (typeof list === 'number' || list.length === 0) return NONE;
    const found = new Map<Name, Uint8Array>();
    for (const attribute of splitXattrList(list)) {
      const value = isDirectory ? fgetxattr(fd, attribute) : getxattrAt(fd, name, attribute);
      if (typeof value !== 'number') found.set(attribute as Name, value);
    }
    return found;
  }

  const index: FrozenIndex = {
    get entryCount() {
      return names.length;
    },
    totalBytes: 0,
    stat(entry) {
      const known = stats[entry];
      if (known !== undefined) return known;
      const into = newStat();
      const isRoot = entry === 0;
      const fd = directory(isRoot ? 0 : parents[entry]!);
      const result = fd < 0 ? fd : isRoot ? fstat(fd, into) : statAt(fd, names[entry]!, into);
      if (result < 0) throw failure(result);
      restore(into);
      stats[entry] = into;
      inos[entry] = into.ino;
      return into;
    },
    listedIno: (entry) => inos[entry]!,
    ino: (entry) => index.keptIno(entry) || privateIno(index.stat(entry).ino),
    keptIno: (entry) => {
      const value = index.xattrs(entry).get(INO_XATTR as Name);
      return value === undefined ? 0 : decodeIno(value);
    },
    open(entry, flags = O_RDONLY | O_CLOEXEC) {
      const fd = directory(entry === 0 ? 0 : parents[entry]!);
      return fd < 0 ? fd : openat(fd, entry === 0 ? '.' : names[entry]!, flags | O_NOFOLLOW);
    },
    child(parent, name) {
      load(parent);
      let low = first[parent]!;
      let high = low + counts[parent]! - 1;
      while (low <= high) {
        const middle = (low + high) >>> 1;
        const at = names[middle]!;
        if (at === name) return middle;
        if (at < name) low = middle + 1;
        else high = middle - 1;
      }
      return -1;
    },
    find(path) {
      let entry = 0;
      for (const part of path.split('/')) {
        if (part === '') continue;
        entry = index.child(entry, part as Name);
        if (entry < 0) return -1;
      }
      return entry;
    },
    firstChild(entry) {
      load(entry);
      return counts[entry] === 0 ? 0 : first[entry]!;
    },
    childCount(entry) {
      load(entry);
      return counts[entry]!;
    },
    parent: (entry) => parents[entry]!,
    name: (entry) => names[entry]! as Name,
    path: (entry) => pathParts(entry).join('/') as Name,
    kind: (entry) => kinds[entry]!,
    mode: (entry) => index.stat(entry).mode,
    uid: (entry) => index.stat(entry).uid,
    gid: (entry) => index.stat(entry).gid,
    size: (entry) => index.stat(entry).size,
    blocks: (entry) => index.stat(entry).blocks,
    mtimeSec: (entry) => index.stat(entry).mtimeSec,
    mtimeNsec: (entry) => index.stat(entry).mtimeNsec,
    rdev(entry) {
      const kind = kinds[entry];
      return kind === S_IFCHR || kind === S_IFBLK ? index.stat(entry).rdev : 0;
    },
    nlink: (entry) => index.stat(entry).nlink,
    hardLinkLeader: (entry) => group(entry)?.[0] ?? entry,
    hardLinkNext(entry) {
      const known = group(entry);
      return known === null ? entry : known[(known.indexOf(entry) + 1) % known.length]!;
    },
    symlinkTarget(entry) {
      if (kinds[entry] !== S_IFLNK) return '' as Name;
      const fd = directory(parents[entry]!);
      const target = fd < 0 ? fd : readlinkat(fd, names[entry]!);
      if (typeof target === 'number') throw failure(target);
      return target as Name;
    },
    digest: () => null,
    hasXattrs: (entry) => index.xattrs(entry).size > 0,
    xattrs(entry) {
      const known = attributes[entry];
      if (known !== undefined) return known;
      const found = readXattrs(entry);
      attributes[entry] = found;
      return found;
    },
    formerPaths(entry) {
      former ??= readFormerNames(treeDir);
      return former.size === 0 ? [] : (former.get(index.path(entry)) ?? []);
    },
    completeLinks() {
      if (complete) return;
      for (const path of namesOfLinks(directory(0))) {
        const entry = index.find(path);
        if (entry >= 0) group(entry);
      }
      complete = true;
    },
    close() {
      for (const kept of [...opened.values()]) giveUp(kept);
      closed = true;
    },
  };
  return index;
}

/** The paths of a tree that share their inode with another. */
function namesOfLinks(rootFd: number): string[] {
  const firstPath = new Map<number, string>();
  const found: string[] = [];
  for (const { type, ino, path } of rootFd < 0 ? [] : walkEntries(rootFd, { lenient: true })) {
    if (type === DT_DIR) continue;
    const known = firstPath.get(ino);
    if (known === undefined) firstPath.set(ino, path);
    else {
      if (known !== '') found.push(known);
      firstPath.set(ino, '');
      found.push(path);
    }
  }
  return found;
}
