/**
 * Whiteout sets on disk: whiteouts/REPO/LAYER_VERSION/PATH, a 0:0 character device for each path of that unit which is hidden, directories
 * in between. A directory that is hidden while whiteouts below it still count (a part of it was renamed away) is a directory with
 * `trusted.overlay.opaque`. Here they are read; `whiteouts.ts` changes an appliance's. A path that the unit does not hold (any more) hides nothing.
 */
import { nameFromText } from '../base/index.ts';
import type { TreeIndex } from '../layer/contract.ts';
import {
  AT_FDCWD,
  close,
  DT_CHR,
  DT_DIR,
  fgetxattr,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../sys/index.ts';
import type { LevelSpec } from './contract.ts';
import { type HiddenEntries, isOpaque, OPAQUE } from './merged-directory.ts';
import type { Unit } from './stack.ts';

const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
const stat = newStat();

/** Opens a directory for reading without following a symlink in the last place; a negative errno when there is none. */
export function openDirectory(dirfd: number, name: string): number {
  return openat(dirfd, name, DIRECTORY);
}

/** Directories and whiteouts in an open directory; -errno gives none. */
function children(fd: number): { name: string; type: number }[] {
  const entries = readDirectory(fd);
  if (typeof entries === 'number') return [];
  const found = [];
  for (const { name, type } of entries) {
    if (type === DT_DIR) found.push({ name, type });
    else if (type === DT_CHR || type === 0) {
      if (statAt(fd, name, stat) !== 0) continue;
      const kind = stat.mode & S_IFMT;
      if (kind === S_IFDIR) found.push({ name, type: DT_DIR });
      else if (kind === S_IFCHR && stat.rdev === 0) found.push({ name, type: DT_CHR });
    }
  }
  return found;
}

/** Entries of `index` that the set in the open directory `fd` hides. */
function readSet(fd: number, index: TreeIndex, directory: number, into: Set<number>): void {
  for (const { name, type } of children(fd)) {
    const entry = index.child(directory, name as never);
    if (entry < 0) continue;
    if (type === DT_CHR) {
      into.add(entry);
      continue;
    }
    const sub = openDirectory(fd, name);
    if (sub < 0) continue;
    if (isOpaqueFd(sub)) into.add(entry);
    readSet(sub, index, entry, into);
    close(sub);
  }
}

function isOpaqueFd(fd: number): boolean {
  const value = fgetxattr(fd, OPAQUE);
  return typeof value !== 'number' && isOpaque(value);
}

/** The set of one unit in a whiteouts/ directory, or undefined when it is empty. */
export function loadSet(whiteoutsFd: number, unit: Unit): Set<number> | undefined {
  let fd = openDirectory(whiteoutsFd, '.');
  for (const part of unit.setDir.split('/')) {
    if (fd < 0) return undefined;
    const next = openDirectory(fd, part);
    close(fd);
    fd = next;
  }
  if (fd < 0) return undefined;
  const found = new Set<number>();
  readSet(fd, unit.index, 0, found);
  close(fd);
  return found.size > 0 ? found : undefined;
}

const prefixes = new WeakMap<ReadonlyMap<string, number>, Set<string>>();

/** The directories above those of the sets; the same for all appliances of a stack. */
function prefixesOf(levelOfSet: ReadonlyMap<string, number>): Set<string> {
  const known = prefixes.get(levelOfSet);
  if (known !== undefined) return known;
  const found = new Set<string>();
  for (const dir of levelOfSet.keys()) {
    for (let at = dir.indexOf('/'); at >= 0; at = dir.indexOf('/', at + 1)) found.add(dir.slice(0, at));
  }
  prefixes.set(levelOfSet, found);
  return found;
}

/** Calls `visit` for each directory below whiteouts/ that is the set of a level (or, level -1, of none: then the shallowest such directory). */
export function eachSet(
  whiteoutsFd: number,
  levelOfSet: ReadonlyMap<string, number>,
  visit: (setDir: string, level: number) => void,
): void {
  const descend = (fd: number, path: string): void => {
    for (const { name, type } of children(fd)) {
      if (type !== DT_DIR) continue;
      const inner = path === '' ? name : `${path}/${name}`;
      const level = levelOfSet.get(inner);
      if (level !== undefined) visit(inner, level);
      else if (prefixesOf(levelOfSet).has(inner)) {
        const sub = openDirectory(fd, name);
        if (sub < 0) continue;
        descend(sub, inner);
        close(sub);
      } else visit(inner, -1);
    }
  };
  const fd = openDirectory(whiteoutsFd, '.');
  if (fd < 0) return;
  descend(fd, '');
  close(fd);
}

/** Everything a whiteouts/ directory hides in a stack's units. The cost is that of the whiteouts, not of the levels. */
export function loadHidden(
  whiteoutsFd: number,
  units: readonly Unit[],
  levelOfSet: ReadonlyMap<string, number>,
): HiddenEntries {
  const hidden: HiddenEntries = { count: 0, levels: [] };
  eachSet(whiteoutsFd, levelOfSet, (_, level) => {
    if (level < 0) return;
    const found = loadSet(whiteoutsFd, units[level]!);
    if (found === undefined) return;
    hidden.levels[level] = found;
    hidden.count += found.size;
  });
  return hidden;
}

/** What the whiteout sets of config and frozen levels hide in the levels below them. */
export function loadBlockedEntries(
  levels: readonly LevelSpec[],
  units: readonly Unit[],
  levelOfSet: ReadonlyMap<string, number>,
): (Set<number> | undefined)[] {
  const blocked: (Set<number> | undefined)[] = new Array(levels.length).fill(undefined);
  for (const [upper, level] of levels.entries()) {
    if (level.whiteoutsDir === null) continue;
    const fd = openDirectory(AT_FDCWD, nameFromText(level.whiteoutsDir));
    if (fd < 0) continue;
    const hidden = loadHidden(fd, units, levelOfSet);
    close(fd);
    for (let lower = upper + 1; lower < levels.length; lower++) {
      const found = hidden.levels[lower];
      if (found === undefined) continue;
      const known = blocked[lower];
      if (known === undefined) blocked[lower] = found;
      else for (const entry of found) known.add(entry);
    }
  }
  return blocked;
}
