/**
 * Steps in a tree that somebody else wrote: an appliance's private layer, a config layer that came from one. Every step goes through
 * directory descriptors and follows no link, so nothing of the host is reached; only plain files of bounded size are read; names are
 * bytes (latin1), and neither the depth of a tree nor the length of a path is limited.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, readFileSync } from 'node:fs';
import { LIMITS, StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { readWhole } from '../../vlfs/index.ts';

const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;
export const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS;
/** Directories below this depth are deleted from the top of the tree, so that descriptors and calls stay few. */
const DELETE_DEPTH = 64;

/** Throws IO or NO_SPACE for a negative result of a system call. */
export function must(result: number, what: string): number {
  if (result >= 0) return result;
  if (result === -sys.E.NOSPC || result === -sys.E.DQUOT) {
    throw new StrataError('NO_SPACE', `no space left on the device: cannot ${what}`, {
      hint: 'free some space and repeat the command; nothing was changed',
    });
  }
  throw new StrataError('IO', `cannot ${what} (errno ${-result})`);
}

/** A path of this process as the latin1 name the system calls take. */
export function latin1(path: string): string {
  return Buffer.from(path).toString('latin1');
}

export function openDirectory(dirfd: number, name: string): number {
  return must(sys.openat(dirfd, name, DIRECTORY), `open directory ${name}`);
}

export function listDirectory(fd: number): sys.DirectoryEntry[] {
  // A descriptor may be listed more than once: from the start each time.
  must(sys.lseek(fd, 0, 0), 'rewind a directory');
  const entries = sys.readDirectory(fd);
  if (typeof entries === 'number') {
    must(entries, 'read a directory');
    return [];
  }
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Bytes of a path that the kernel takes in one call, less the NUL; longer ones are walked in pieces. */
const PIECE_BYTES = 4000;

/** The directory at `path` below `root`, however long the path is: a descriptor, or a negative errno. */
export function openBeneath(root: number, path: string): number {
  let at = root;
  for (let begin = 0; ; ) {
    const isLast = path.length - begin <= PIECE_BYTES;
    const end = isLast ? path.length : path.lastIndexOf('/', begin + PIECE_BYTES);
    const flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC;
    const next = sys.openat2(at, path.slice(begin, end) || '.', flags, 0, BENEATH);
    if (at !== root) sys.close(at);
    if (isLast || next < 0) return next;
    at = next;
    begin = end + 1;
  }
}

/** The parent of a path, `.` for the root itself, and its name there. */
export function splitParent(path: string): { parent: string; name: string } {
  const slash = path.lastIndexOf('/');
  return { parent: slash < 0 ? '.' : path.slice(0, slash), name: path.slice(slash + 1) };
}

/** Gives what is at `path` below `root` another name. */
export function linkBeneath(root: number, path: string, dirfd: number, name: string): void {
  const { parent, name: first } = splitParent(path);
  const fd = must(openBeneath(root, parent), `open ${parent}`);
  try {
    must(sys.linkat(fd, first, dirfd, name), `link ${name}`);
  } finally {
    sys.close(fd);
  }
}

/** Removes an entry with all below it; nothing to do when it is not there. */
export function removeEntry(dirfd: number, name: string): void {
  const gone = sys.unlinkat(dirfd, name);
  if (gone >= 0 || gone === -sys.E.NOENT || gone === -sys.E.NOTDIR) return;
  if (gone !== -sys.E.ISDIR && gone !== -sys.E.PERM) must(gone, `remove ${name}`);
  const fd = openDirectory(dirfd, name);
  try {
    const token = `.strata-deep-${randomBytes(6).toString('hex')}`;
    let deep = 0;
    const toTop = (from: number, entry: string) =>
      must(sys.renameat2(from, entry, fd, `${token}-${deep++}`), `remove ${entry}`);
    do emptyDirectory(fd, 0, toTop);
    while (listDirectory(fd).length > 0);
  } finally {
    sys.close(fd);
  }
  must(sys.unlinkat(dirfd, name, sys.AT_REMOVEDIR), `remove directory ${name}`);
}

function emptyDirectory(fd: number, depth: number, toTop: (from: number, name: string) => void): void {
  for (const { name } of listDirectory(fd)) {
    const gone = sys.unlinkat(fd, name);
    if (gone >= 0 || gone === -sys.E.NOENT) continue;
    if (gone !== -sys.E.ISDIR && gone !== -sys.E.PERM) must(gone, `remove ${name}`);
    if (depth >= DELETE_DEPTH) {
      toTop(fd, name);
      continue;
    }
    const child = openDirectory(fd, name);
    try {
      emptyDirectory(child, depth + 1, toTop);
    } finally {
      sys.close(child);
    }
    must(sys.unlinkat(fd, name, sys.AT_REMOVEDIR), `remove directory ${name}`);
  }
}

/** A file's text; undefined when nothing is at `path` below `root`; null when what is there (or on the way) is no plain file of bounded size. */
export function readPlainFile(root: string, path: string): string | null | undefined {
  const top = sys.openat(sys.AT_FDCWD, latin1(root), sys.O_PATH | sys.O_DIRECTORY | sys.O_CLOEXEC);
  if (top < 0) return undefined;
  try {
    // A fifo must not make the reader wait.
    const flags = sys.O_RDONLY | sys.O_NONBLOCK | sys.O_NOFOLLOW | sys.O_CLOEXEC;
    const fd = sys.openat2(top, path, flags, 0, BENEATH);
    if (fd < 0) return fd === -sys.E.NOENT ? undefined : null;
    try {
      const stat = sys.newStat();
      const isPlain = sys.fstat(fd, stat) >= 0 && (stat.mode & sys.S_IFMT) === sys.S_IFREG;
      if (!isPlain || stat.size > LIMITS.controlBytes) return null;
      // A private file may show a part of a shared one.
      return readWhole(root, fd, LIMITS.controlBytes)?.toString('utf8') ?? readFileSync(fd, 'utf8');
    } finally {
      closeSync(fd);
    }
  } finally {
    sys.close(top);
  }
}
