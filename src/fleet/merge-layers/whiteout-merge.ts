/**
 * Whiteout sets (docs/formats/private-layer.md) when a layer is merged over another: what its set of the other layer hides is removed from that one,
 * its sets of further layers are merged over the other layer's own. A mark is a 0:0 device, or a directory with
 * `trusted.overlay.opaque` where marks below it count for parts that were renamed away. The sets that are merged are only read.
 */
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { latin1, listDirectory, must, openDirectory, removeEntry } from './untrusted-tree.ts';

const OPAQUE = 'trusted.overlay.opaque';
const OPENED = 'trusted.strata.opened';
const DEPTH = 1024;

type Kind = 'device' | 'directory' | 'opaque' | 'none';

function kindAt(dirfd: number, name: string): Kind {
  const stat = sys.newStat();
  const found = sys.statAt(dirfd, name, stat);
  if (found === -sys.E.NOENT) return 'none';
  must(found, `stat ${name}`);
  const type = stat.mode & sys.S_IFMT;
  if (type === sys.S_IFCHR && stat.rdev === 0) return 'device';
  if (type !== sys.S_IFDIR) return 'none';
  return isOpaque(dirfd, name) ? 'opaque' : 'directory';
}

function isOpaque(dirfd: number, name: string): boolean {
  const value = sys.getxattrAt(dirfd, name, OPAQUE);
  return typeof value !== 'number' && value.length === 1 && value[0] === 0x79;
}

/** A whiteout set, opened; null when there is none. */
export function openSet(dir: string): number | null {
  const fd = sys.openat(
    sys.AT_FDCWD,
    latin1(dir),
    sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC,
  );
  return fd === -sys.E.NOENT ? null : must(fd, `open ${dir}`);
}

/** Calls `visit` for everything in a set, the deepest first, with the open directory of the same path in `to`. */
function eachMark(
  set: number,
  to: number,
  visit: (kind: Kind, name: string, to: number) => void,
  depth = 0,
): void {
  if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
  for (const { name } of listDirectory(set)) {
    const kind = kindAt(set, name);
    if (kind === 'directory' || kind === 'opaque') {
      const below = sys.openat(to, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC);
      if (below >= 0) {
        const fd = openDirectory(set, name);
        try {
          eachMark(fd, below, visit, depth + 1);
        } finally {
          sys.close(fd);
          sys.close(below);
        }
      }
    }
    visit(kind, name, to);
  }
}

/** Removes from the layer `to` what marks that are devices hide. `keepsHiding`: opaque directories leave a whiteout. */
export function removeMarked(set: number, to: number, keepsHiding: boolean): void {
  eachMark(set, to, (kind, name, dir) => {
    if (kind === 'device') removeHidden(dir, name, keepsHiding);
  });
}

/** Removes from the layer `to` the directories that are hidden as such; call it once their renamed parts are elsewhere. */
export function removeMarkedDirectories(set: number, to: number, keepsHiding: boolean): void {
  eachMark(set, to, (kind, name, dir) => {
    if (kind === 'opaque') removeHidden(dir, name, keepsHiding);
  });
}

/** Directories of the frozen layer `to` that were opened hide nothing any more. */
export function openMarked(set: number, to: number, depth = 0): void {
  if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
  for (const { name } of listDirectory(set)) {
    const kind = kindAt(set, name);
    if (kind !== 'directory' && kind !== 'opaque') continue;
    const below = sys.openat(to, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC);
    if (below < 0) continue;
    const fd = openDirectory(set, name);
    try {
      if (typeof sys.fgetxattr(fd, OPENED) !== 'number') {
        const opened = sys.fremovexattr(below, OPAQUE);
        if (opened !== -sys.E.NODATA) must(opened, `open ${name}`);
      }
      openMarked(fd, below, depth + 1);
    } finally {
      sys.close(fd);
      sys.close(below);
    }
  }
}

/** A directory of a config layer that hid the layers below goes on hiding them; below a frozen one they have marks of their own. */
function removeHidden(dirfd: number, name: string, keepsHiding: boolean): void {
  const hidesBelow = keepsHiding && isOpaque(dirfd, name);
  removeEntry(dirfd, name);
  if (hidesBelow) must(sys.mknodat(dirfd, name, sys.S_IFCHR, 0), `make whiteout ${name}`);
}

/** Merges the sets below the directory `from` over those below `to`; a missing `from` counts as empty. */
export function mergeWhiteouts(from: string, to: string): void {
  const fromFd = openSet(from);
  if (fromFd === null) return;
  try {
    const toFd = openDirectory(sys.AT_FDCWD, latin1(to));
    try {
      merge(fromFd, toFd, 0);
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
  }
}

function merge(from: number, to: number, depth: number): void {
  if (depth > DEPTH) throw new StrataError('LIMIT', `directories are nested deeper than ${DEPTH}`);
  for (const { name } of listDirectory(from)) {
    const added = kindAt(from, name);
    if (added === 'none') continue;
    const there = kindAt(to, name);
    if (added === 'device') {
      if (there === 'none') must(sys.mknodat(to, name, sys.S_IFCHR, 0), `make whiteout ${name}`);
      else if (there === 'directory') markOpaque(to, name);
      continue;
    }
    if (there === 'device') removeEntry(to, name);
    if (there === 'device' || there === 'none') must(sys.mkdirat(to, name, 0o755), `make ${name}`);
    if (there === 'device' || added === 'opaque') markOpaque(to, name);
    if (typeof sys.getxattrAt(from, name, OPENED) !== 'number')
      must(sys.setxattrAt(to, name, OPENED, Buffer.from('y')), `mark ${name}`);
    mergeBelow(from, to, name, depth);
  }
}

function mergeBelow(from: number, to: number, name: string, depth: number): void {
  const fromFd = openDirectory(from, name);
  try {
    const toFd = openDirectory(to, name);
    try {
      merge(fromFd, toFd, depth + 1);
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
  }
}

function markOpaque(dirfd: number, name: string): void {
  must(sys.setxattrAt(dirfd, name, OPAQUE, Buffer.from('y')), `mark ${name}`);
}
