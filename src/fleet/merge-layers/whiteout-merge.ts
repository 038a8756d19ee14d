/**
 * Whiteout sets (docs/formats/private-layer.md) when a layer is merged over another: what its set of the other layer hides is removed from that one,
 * its sets of further layers are merged over the other layer's own. A mark is a 0:0 device, or a directory with
 * `trusted.overlay.opaque` where marks below it count for parts that were renamed away. The sets that are merged are only read.
 */
import * as sys from '../../sys/index.ts';
import { alongBoth, type Trail } from './trail.ts';
import { latin1, listDirectory, must, openDirectory, removeEntry } from './untrusted-tree.ts';

const OPAQUE = 'trusted.overlay.opaque';
const OPENED = 'trusted.strata.opened';

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
): Promise<void> {
  const walk = async (marks: Trail, below: Trail): Promise<void> => {
    await marks.rested();
    for (const { name } of listDirectory(marks.fd)) {
      const kind = kindAt(marks.fd, name);
      if (isAnyDirectory(kind) && below.enter(name) >= 0) {
        marks.down(name);
        await walk(marks, below);
        marks.up();
        below.up();
      }
      visit(kind, name, below.fd);
    }
  };
  return alongBoth(set, to, walk);
}

const isAnyDirectory = (kind: Kind): boolean => kind === 'directory' || kind === 'opaque';

/** Removes from the layer `to` what marks that are devices hide. `keepsHiding`: opaque directories leave a whiteout. */
export function removeMarked(set: number, to: number, keepsHiding: boolean): Promise<void> {
  return eachMark(set, to, (kind, name, dir) => {
    if (kind === 'device') removeHidden(dir, name, keepsHiding);
  });
}

/** Removes from the layer `to` the directories that are hidden as such; call it once their renamed parts are elsewhere. */
export function removeMarkedDirectories(set: number, to: number, keepsHiding: boolean): Promise<void> {
  return eachMark(set, to, (kind, name, dir) => {
    if (kind === 'opaque') removeHidden(dir, name, keepsHiding);
  });
}

/** Directories of the frozen layer `to` that were opened hide nothing any more. */
export function openMarked(set: number, to: number): Promise<void> {
  const walk = async (marks: Trail, below: Trail): Promise<void> => {
    await marks.rested();
    for (const { name } of listDirectory(marks.fd)) {
      if (!isAnyDirectory(kindAt(marks.fd, name)) || below.enter(name) < 0) continue;
      marks.down(name);
      if (typeof sys.fgetxattr(marks.fd, OPENED) !== 'number') {
        const opened = sys.fremovexattr(below.fd, OPAQUE);
        if (opened !== -sys.E.NODATA) must(opened, `open ${name}`);
      }
      await walk(marks, below);
      marks.up();
      below.up();
    }
  };
  return alongBoth(set, to, walk);
}

/** A directory of a config layer that hid the layers below goes on hiding them; below a frozen one they have marks of their own. */
function removeHidden(dirfd: number, name: string, keepsHiding: boolean): void {
  const hidesBelow = keepsHiding && isOpaque(dirfd, name);
  removeEntry(dirfd, name);
  if (hidesBelow) must(sys.mknodat(dirfd, name, sys.S_IFCHR, 0), `make whiteout ${name}`);
}

/** Merges the sets below the directory `from` over those below `to`; a missing `from` counts as empty. */
export async function mergeWhiteouts(from: string, to: string): Promise<void> {
  const fromFd = openSet(from);
  if (fromFd === null) return;
  try {
    const toFd = openDirectory(sys.AT_FDCWD, latin1(to));
    try {
      await alongBoth(fromFd, toFd, merge);
    } finally {
      sys.close(toFd);
    }
  } finally {
    sys.close(fromFd);
  }
}

async function merge(from: Trail, to: Trail): Promise<void> {
  await from.rested();
  for (const { name } of listDirectory(from.fd)) {
    if (!mergeMark(from.fd, to.fd, name)) continue;
    from.down(name);
    to.down(name);
    await merge(from, to);
    to.up();
    from.up();
  }
}

/** Merges one mark; true when it is a directory, so that what is below it is to be merged too. */
function mergeMark(from: number, to: number, name: string): boolean {
  const added = kindAt(from, name);
  if (added === 'none') return false;
  const there = kindAt(to, name);
  if (added === 'device') {
    if (there === 'none') must(sys.mknodat(to, name, sys.S_IFCHR, 0), `make whiteout ${name}`);
    else if (there === 'directory') markOpaque(to, name);
    return false;
  }
  if (there === 'device') removeEntry(to, name);
  if (there === 'device' || there === 'none') must(sys.mkdirat(to, name, 0o755), `make ${name}`);
  if (there === 'device' || added === 'opaque') markOpaque(to, name);
  if (typeof sys.getxattrAt(from, name, OPENED) !== 'number')
    must(sys.setxattrAt(to, name, OPENED, Buffer.from('y')), `mark ${name}`);
  return true;
}

function markOpaque(dirfd: number, name: string): void {
  must(sys.setxattrAt(dirfd, name, OPAQUE, Buffer.from('y')), `mark ${name}`);
}
