/**
 * Merges a private layer over a config layer (a template freeze). Both are overlayfs upper directories, so this is overlayfs' own
 * meaning applied to the files: a whiteout or a non-directory replaces what stood there, an opaque directory too, other directories
 * merge, and a directory renamed by `redirect` takes the lower layer's part of it along. The private layer is only read.
 */
import { StrataError } from '../base/index.ts';
import * as sys from '../sys/index.ts';
import { isThere } from './files.ts';
import {
  type CopyState,
  copyAttributes,
  copyEntry,
  latin1,
  listDirectory,
  must,
  newCopyState,
  openDirectory,
  removeEntry,
} from './tree-copy.ts';

const OPAQUE = 'trusted.overlay.opaque';
const REDIRECT = 'trusted.overlay.redirect';
const DEPTH = 1024;
const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS;

function xattr(dirfd: number, name: string, attribute: string): string | null {
  const value = sys.getxattrAt(dirfd, name, attribute);
  return typeof value === 'number' ? null : Buffer.from(value).toString('latin1');
}

function isWhiteout(stat: sys.Stat): boolean {
  return (stat.mode & sys.S_IFMT) === sys.S_IFCHR && stat.rdev === 0;
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

/** Merges the private layer `from` over the config layer `to`, which is changed in place. */
export async function mergePrivateOver(from: string, to: string): Promise<void> {
  await withDirectories(from, to, async (fromFd, toFd) => {
    for (const { path, source } of redirects(fromFd, '', 0)) moveLowerPart(toFd, source, path);
    await mergeDirectory(fromFd, toFd, newCopyState(toFd, { how: 'copy' }), '', 0);
  });
}

/** Merges whiteout sets (directories and whiteout devices only) over others; missing ones count as empty. */
export async function mergeWhiteouts(from: string, to: string): Promise<void> {
  if (!isThere(from)) return;
  await withDirectories(from, to, (fromFd, toFd) =>
    mergeDirectory(fromFd, toFd, newCopyState(toFd, { how: 'copy' }), '', 0),
  );
}

/** Removes from the layer `to` every path that is whited out in the set `from`. */
export async function applyWhiteouts(from: string, to: string): Promise<void> {
  if (!isThere(from)) return;
  const walk = (fromFd: number, toFd: number, depth: number): void => {
    if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
    const stat = sys.newStat();
    for (const { name } of listDirectory(fromFd)) {
      must(sys.statAt(fromFd, name, stat), `stat ${name}`);
      if (isWhiteout(stat)) removeEntry(toFd, name);
      if (!isDirectory(stat)) continue;
      const below = sys.openat(toFd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC);
      if (below < 0) continue;
      const fd = openDirectory(fromFd, name);
      try {
        walk(fd, below, depth + 1);
      } finally {
        sys.close(fd);
        sys.close(below);
      }
    }
  };
  await withDirectories(from, to, async (fromFd, toFd) => walk(fromFd, toFd, 0));
}

/** Directories that carry a redirect, parents first: where they are, and where the lower layers hold them. */
function redirects(dirfd: number, path: string, depth: number): { path: string; source: string }[] {
  if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
  const found: { path: string; source: string }[] = [];
  const stat = sys.newStat();
  for (const { name } of listDirectory(dirfd)) {
    must(sys.statAt(dirfd, name, stat), `stat ${path}${name}`);
    if (!isDirectory(stat)) continue;
    const redirect = xattr(dirfd, name, REDIRECT);
    if (redirect !== null && xattr(dirfd, name, OPAQUE) !== 'y') {
      const source = redirect.startsWith('/') ? redirect.slice(1) : `${path}${redirect}`;
      found.push({ path: `${path}${name}`, source });
    }
    const fd = openDirectory(dirfd, name);
    try {
      found.push(...redirects(fd, `${path}${name}/`, depth + 1));
    } finally {
      sys.close(fd);
    }
  }
  return found;
}

function split(path: string): { parent: string; name: string } {
  const slash = path.lastIndexOf('/');
  return { parent: slash < 0 ? '.' : path.slice(0, slash), name: path.slice(slash + 1) };
}

function openBeneath(root: number, path: string): number {
  return sys.openat2(root, path, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC, 0, BENEATH);
}

/** Moves the config layer's part of a renamed directory to the new name. */
function moveLowerPart(root: number, source: string, path: string): void {
  const from = split(source);
  const to = split(path);
  const fromFd = openBeneath(root, from.parent);
  if (fromFd < 0) return;
  try {
    const stat = sys.newStat();
    if (sys.statAt(fromFd, from.name, stat) < 0 || !isDirectory(stat)) return;
    const toFd = makeParents(root, to.parent);
    try {
      removeEntry(toFd, to.name);
      must(sys.renameat2(fromFd, from.name, toFd, to.name), `move ${source} to ${path}`);
      const hasOwn = xattr(toFd, to.name, REDIRECT) !== null || xattr(toFd, to.name, OPAQUE) === 'y';
      if (!hasOwn) {
        const value = Buffer.from(`/${source}`, 'latin1');
        must(sys.setxattrAt(toFd, to.name, REDIRECT, value), `mark ${path} as renamed`);
      }
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
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

async function mergeDirectory(
  from: number,
  to: number,
  state: CopyState,
  path: string,
  depth: number,
): Promise<void> {
  if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
  const stat = sys.newStat();
  const below = sys.newStat();
  for (const { name } of listDirectory(from)) {
    must(sys.statAt(from, name, stat), `stat ${path}${name}`);
    const there = sys.statAt(to, name, below) >= 0;
    if (!isDirectory(stat) || !there) {
      if (there) removeEntry(to, name);
      await copyEntry(from, name, to, state, path, depth);
      continue;
    }
    if (!isDirectory(below) || xattr(from, name, OPAQUE) === 'y') {
      const hides = !isDirectory(below);
      removeEntry(to, name);
      await copyEntry(from, name, to, state, path, depth);
      if (hides && xattr(from, name, REDIRECT) === null)
        must(sys.setxattrAt(to, name, OPAQUE, Buffer.from('y')), 'mark');
      continue;
    }
    await mergeInto(from, name, to, state, path, depth);
  }
}

async function mergeInto(
  from: number,
  name: string,
  to: number,
  state: CopyState,
  path: string,
  depth: number,
): Promise<void> {
  const fromFd = openDirectory(from, name);
  try {
    const toFd = openDirectory(to, name);
    try {
      await mergeDirectory(fromFd, toFd, state, `${path}${name}/`, depth + 1);
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
  }
  const stat = sys.newStat();
  must(sys.statAt(from, name, stat), `stat ${path}${name}`);
  const keepsPlace = xattr(to, name, REDIRECT) !== null || xattr(to, name, OPAQUE) === 'y';
  copyAttributes(from, name, to, name, stat, (attribute) => keepsPlace && attribute === REDIRECT);
}
