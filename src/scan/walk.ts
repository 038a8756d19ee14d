/**
 * The files of layers: of an indexed layer from its index, without a system call; of a private or frozen one by walking its tree. Names are
 * bytes, no link is followed, one directory is open for each level of depth, a directory is read in parts. What vanishes meanwhile is not there.
 */
import { type Digest, nameFromText } from '../base/index.ts';
import type { TreeIndex } from '../layer/contract.ts';
import * as sys from '../sys/index.ts';
import { basesOf, openShown } from '../vlfs/index.ts';

/** Deeper directories are reported, not walked. */
const DEPTH = 512;
const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;
const FILE = sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC;

/** A regular file with content. Valid until the next one is asked for. */
export interface WalkedFile {
  /** In its layer. */
  path(): string;
  size: number;
  /** By the layer's index; null: not known. */
  digest: Digest | null;
  /** Of a walked tree: what the file is now. */
  stat: sys.Stat | null;
  /** A descriptor for reading, or a negative errno. It belongs to the caller. */
  open(): number;
  /** As open, for what the file shows, when that is not its own alone (a partial file); null: it is. */
  openShown(): number | null;
  /** An extended attribute of a walked file. */
  attribute(name: string): Uint8Array | number;
}

/** All names of files that the index tells of. `rootFd` is the tree's. */
export function* indexedFiles(index: TreeIndex, rootFd: number): Generator<WalkedFile> {
  for (let entry = 0; entry < index.entryCount; entry++) {
    if ((index.mode(entry) & sys.S_IFMT) !== sys.S_IFREG || index.size(entry) === 0) continue;
    yield {
      path: () => index.path(entry),
      size: index.size(entry),
      digest: index.digest(entry),
      stat: null,
      open: () =>
        sys.openat2(
          rootFd,
          index.path(entry),
          sys.O_RDONLY | sys.O_CLOEXEC | sys.O_NOATIME,
          0,
          sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS,
        ),
      openShown: () => null,
      attribute: () => -sys.E.NODATA,
    };
  }
}

interface Level {
  fd: number;
  /** Ends with a slash, but for the root. */
  path: string;
  entries: sys.DirectoryEntry[];
  ended: boolean;
}

/** All files of a tree; directories that are too deep are given to `unwalked`. */
export function* walkedFiles(dir: string, unwalked: (path: string) => void): Generator<WalkedFile> {
  const root = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY | sys.O_NOATIME);
  if (root < 0) return;
  const bases = basesOf(dir);
  const levels: Level[] = [{ fd: root, path: '', entries: [], ended: false }];
  const stat = sys.newStat();
  try {
    for (let at = levels.at(-1); at !== undefined; at = levels.at(-1)) {
      const { fd, path } = at;
      const entry = at.entries.pop();
      if (entry === undefined) {
        if (!at.ended && sys.readSomeEntries(fd, at.entries) > 0) continue;
        at.ended = true;
        if (at.entries.length > 0) continue;
        levels.pop();
        sys.close(fd);
        continue;
      }
      const { name, type } = entry;
      if (type !== sys.DT_REG && type !== sys.DT_DIR && type !== 0) continue;
      if (sys.statAt(fd, name, stat) < 0) continue;
      const kind = stat.mode & sys.S_IFMT;
      if (kind === sys.S_IFDIR) {
        const below = `${path}${name}/`;
        if (levels.length >= DEPTH) {
          unwalked(path + name);
          continue;
        }
        const sub = sys.openat(fd, name, DIRECTORY | sys.O_NOATIME);
        if (sub >= 0) levels.push({ fd: sub, path: below, entries: [], ended: false });
      } else if (kind === sys.S_IFREG && stat.size > 0) {
        yield {
          path: () => path + name,
          size: stat.size,
          digest: null,
          stat,
          open: () => openSame(fd, name, stat),
          openShown: () => (bases.size === 0 ? null : shown(openSame(fd, name, stat), dir, bases)),
          attribute: (attribute) => sys.getxattrAt(fd, name, attribute),
        };
      }
    }
  } finally {
    for (const { fd } of levels) sys.close(fd);
  }
}

/** Takes over the descriptor. */
function shown(fd: number, dir: string, bases: ReadonlyMap<string, string>): number | null {
  if (fd < 0) return fd;
  try {
    return openShown(fd, bases, dir);
  } catch {
    return -sys.E.IO;
  } finally {
    sys.close(fd);
  }
}

const opened = sys.newStat();

/** Opens what the stat was of; -ENOENT when something else took its name. */
function openSame(dirfd: number, name: string, stat: sys.Stat): number {
  let fd = sys.openat(dirfd, name, FILE | sys.O_NOATIME);
  if (fd === -sys.E.PERM) fd = sys.openat(dirfd, name, FILE);
  if (fd < 0) return fd;
  if (sys.fstat(fd, opened) === 0 && opened.ino === stat.ino && opened.dev === stat.dev) return fd;
  sys.close(fd);
  return -sys.E.NOENT;
}
