/**
 * Walks over trees of any depth, with a bounded number of descriptors and no recursion: nothing is followed, and the way back up is by `..`, which must be the directory that it was before.
 */
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';

export interface WalkedEntry {
  /** The directory that it lies in: valid until the next entry. */
  dirfd: number;
  name: string;
  /** DT_*, as the file system says it. */
  type: number;
  /** Its inode, as the directory lists it. */
  ino: number;
  /** Below the root, latin1. */
  path: string;
}

/** Descriptors that are kept open: of the uppermost directories, where a walk turns most often. */
const KEPT = 64;
const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;

interface Level {
  fd: number;
  dev: number;
  ino: number;
  entries: sys.DirectoryEntry[];
  path: string;
}

/**
 * Every entry below an open directory, directories before what is in them. Throws IO when one cannot be read, or was moved meanwhile; `lenient`: what is in it, or
 * above it, is left out instead, because programs may be changing the tree. The caller closes `root`.
 */
export function* walkEntries(
  root: number,
  { lenient = false }: { lenient?: boolean } = {},
): Generator<WalkedEntry, void, undefined> {
  const stack: Level[] = [];
  const attempt = <T>(work: () => T): T | null => {
    try {
      return work();
    } catch (error) {
      if (!lenient) throw error;
      return null;
    }
  };
  try {
    const first = attempt(() => enter(must(sys.openat(root, '.', DIRECTORY)), ''));
    if (first !== null) stack.push(first);
    for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
      const next = level.entries.pop();
      if (next === undefined) {
        stack.pop();
        attempt(() => leave(level, stack.at(-1)));
        while (stack.length > 0 && stack.at(-1)!.fd < 0) stack.pop();
        continue;
      }
      const path = level.path === '' ? next.name : `${level.path}/${next.name}`;
      yield { dirfd: level.fd, name: next.name, type: next.type, ino: next.ino, path };
      if (next.type !== sys.DT_DIR && next.type !== sys.DT_UNKNOWN) continue;
      const fd = sys.openat(level.fd, next.name, DIRECTORY);
      if (fd === -sys.E.NOTDIR || fd === -sys.E.LOOP) continue;
      const below = attempt(() => enter(must(fd), path));
      if (below === null) continue;
      if (stack.length > KEPT) {
        sys.close(level.fd);
        level.fd = -1;
      }
      stack.push(below);
    }
  } finally {
    for (const { fd } of stack) if (fd >= 0) sys.close(fd);
  }
}

function enter(fd: number, path: string): Level {
  const stat = sys.newStat();
  const read = sys.fstat(fd, stat);
  const entries = read < 0 ? read : sys.readDirectory(fd);
  if (typeof entries !== 'number')
    return { fd, dev: stat.dev, ino: stat.ino, entries: entries.sort(lastFirst), path };
  sys.close(fd);
  throw unreadable(entries);
}

const lastFirst = (a: sys.DirectoryEntry, b: sys.DirectoryEntry): number => (a.name < b.name ? 1 : -1);

/** Back to the directory above, whose descriptor may have been closed. */
function leave(level: Level, above: Level | undefined): void {
  try {
    if (above === undefined || above.fd >= 0) return;
    const fd = must(sys.openat(level.fd, '..', DIRECTORY));
    const stat = sys.newStat();
    if (sys.fstat(fd, stat) === 0 && stat.dev === above.dev && stat.ino === above.ino) above.fd = fd;
    else {
      sys.close(fd);
      throw new StrataError('IO', 'a directory was moved while its tree was read');
    }
  } finally {
    sys.close(level.fd);
  }
}

function must(result: number): number {
  if (result < 0) throw unreadable(result);
  return result;
}

function unreadable(errno: number): StrataError {
  return new StrataError('IO', `a tree cannot be read (${sys.errnoName(-errno)})`);
}
