/**
 * Whiteout sets on disk: whiteouts/REPO/LAYER_VERSION/PATH, a 0:0 character device for each path of that unit which is hidden, directories
 * in between. A directory that is hidden while whiteouts below it still count (a part of it was renamed away) is a directory with
 * `trusted.overlay.opaque`. Here they are read; `whiteouts.ts` changes an appliance's. A path that the unit does not hold (any more) hides nothing.
 */
import { nameFromText } from '../../base/index.ts';
import type { TreeIndex } from '../../layer/contract.ts';
import {
  AT_FDCWD,
  close,
  type DirectoryEntry,
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
  readSomeEntries,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../../sys/index.ts';
import type { LevelSpec } from '../contract.ts';
import { isOpaque } from '../stack/child-directories.ts';
import { type HiddenEntries, OPAQUE } from '../stack/merged-directory.ts';
import type { Stack, Unit } from '../stack/stack.ts';
import { finished, type Steps } from '../steps.ts';

const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
const stat = newStat();

/** Opens a directory for reading without following a symlink in the last place; a negative errno when there is none. */
export function openDirectory(dirfd: number, name: string): number {
  return openat(dirfd, name, DIRECTORY);
}

type Child = Pick<DirectoryEntry, 'name' | 'type'>;

/** Directories and whiteouts in an open directory; -errno gives none. */
function children(fd: number): Child[] {
  const entries = readDirectory(fd);
  return typeof entries === 'number' ? [] : directoriesAndMarks(fd, entries);
}

function directoriesAndMarks(fd: number, entries: readonly DirectoryEntry[]): Child[] {
  const found: Child[] = [];
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

/** About 250 entries. */
const A_STEP_BYTES = 8192;

/** A directory of a set that is being read: the entry of the unit that it stands for, and its children that were read and not looked at. */
interface Reading {
  fd: number;
  entry: number;
  some: Child[];
}

/** Entries of `index` that the set in the open directory `fd` hides; closes it. A set may be as deep, and a directory as large, as an appliance made them. */
function* readSet(fd: number, index: TreeIndex, { hidden, opened }: Marks): Steps<void> {
  const path: Reading[] = [{ fd, entry: 0, some: [] }];
  try {
    for (let at = path.at(-1); at !== undefined; at = path.at(-1)) {
      const child = at.some.pop();
      if (child === undefined) {
        const entries: DirectoryEntry[] = [];
        if (readSomeEntries(at.fd, entries, A_STEP_BYTES) <= 0) close(path.pop()!.fd);
        else at.some = directoriesAndMarks(at.fd, entries);
        yield;
        continue;
      }
      const entry = index.child(at.entry, child.name as never);
      if (entry < 0) continue;
      if (child.type === DT_CHR) {
        hidden.add(entry);
        continue;
      }
      const sub = openDirectory(at.fd, child.name);
      if (sub < 0) continue;
      if (isOpaqueFd(sub)) hidden.add(entry);
      else if (typeof fgetxattr(sub, OPENED) !== 'number') opened.add(entry);
      path.push({ fd: sub, entry, some: [] });
    }
  } finally {
    for (const { fd: open } of path) close(open);
  }
}

function isOpaqueFd(fd: number): boolean {
  const value = fgetxattr(fd, OPAQUE);
  return typeof value !== 'number' && isOpaque(value);
}

/** The marks of one unit. */
interface Marks {
  hidden: Set<number>;
  opened: Set<number>;
}

/** The set of one unit in a whiteouts/ directory, or undefined when it is empty. */
function* loadSet(whiteoutsFd: number, unit: Unit): Steps<Marks | undefined> {
  const fd = openDirectoryAt(whiteoutsFd, unit.setDir);
  if (fd < 0) return undefined;
  const found: Marks = { hidden: new Set(), opened: new Set() };
  yield* readSet(fd, unit.index, found);
  return found.hidden.size + found.opened.size > 0 ? found : undefined;
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

/** The paths of all marks in a whiteouts/ directory, in the terms of the units that they hide something of. */
export function* eachMark(
  whiteoutsFd: number,
  levelOfSet: ReadonlyMap<string, number>,
): Generator<string, void, undefined> {
  const sets: string[] = [];
  eachSet(whiteoutsFd, levelOfSet, (setDir, level) => {
    if (level >= 0) sets.push(setDir);
  });
  for (const setDir of sets) {
    const pending = [''];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      const fd = openDirectoryAt(whiteoutsFd, `${setDir}/${path}`);
      if (fd < 0) continue;
      const isMark = path !== '' && [OPAQUE, OPENED].some((mark) => typeof fgetxattr(fd, mark) !== 'number');
      const found = children(fd);
      close(fd);
      if (isMark) yield path;
      for (const { name, type } of found) {
        const at = path === '' ? name : `${path}/${name}`;
        if (type === DT_DIR) pending.push(at);
        else yield at;
      }
    }
  }
}

/** Opens the directory at a path, part by part; a negative errno when there is none. */
function openDirectoryAt(dirfd: number, path: string): number {
  let fd = openDirectory(dirfd, '.');
  for (const part of path.split('/')) {
    if (fd < 0 || part === '') continue;
    const next = openDirectory(fd, part);
    close(fd);
    fd = next;
  }
  return fd;
}

/** Everything a whiteouts/ directory hides in a stack's units. The cost is that of the whiteouts, not of the levels. */
export function loadHidden(
  whiteoutsFd: number,
  units: readonly Unit[],
  levelOfSet: ReadonlyMap<string, number>,
): HiddenEntries {
  const hidden = nothingHidden();
  eachSet(whiteoutsFd, levelOfSet, (_, level) => {
    if (level >= 0) addMarks(hidden, level, finished(loadSet(whiteoutsFd, units[level]!)));
  });
  return hidden;
}

function nothingHidden(): Required<HiddenEntries> {
  return { count: 0, levels: [], opened: [] };
}

function addMarks(to: Required<HiddenEntries>, level: number, marks: Marks | undefined): void {
  const add = (levels: (Set<number> | undefined)[], entries: Set<number>): void => {
    if (entries.size === 0) return;
    const set = levels[level] ?? new Set();
    levels[level] = set;
    for (const entry of entries) {
      if (!set.has(entry)) to.count++;
      set.add(entry);
    }
  };
  if (marks === undefined) return;
  add(to.levels, marks.hidden);
  add(to.opened, marks.opened);
}

/** On a frozen directory's mark: what it hides by being opaque shows again. */
export const OPENED = 'trusted.strata.opened';

/** A file in an appliance's whiteouts/ (or the one that was frozen with a layer): those of the frozen layers below it count no more. */
export const WHOLE = '.whole';

/**
 * The whiteouts/ directories that count for an appliance, newest first: its own, and those that were frozen with its layers. Only the first can be
 * changed. The caller closes the descriptors.
 */
export function openWhiteouts(whiteoutsDir: string, levels: readonly LevelSpec[]): number[] {
  const opened: number[] = [];
  const frozen = levels.filter((level) => level.kind === 'frozen');
  for (const dir of [whiteoutsDir, ...frozen.map((level) => level.whiteoutsDir)]) {
    const fd = dir === null ? -1 : openDirectory(AT_FDCWD, nameFromText(dir));
    if (fd < 0) continue;
    opened.push(fd);
    if (frozen.length > 0 && statAt(fd, WHOLE, stat) === 0) break;
  }
  return opened;
}

/** Everything that an appliance hides, its frozen layers included. `only`: of these units. */
export function loadAllHidden(
  whiteoutsDir: string,
  stack: Pick<Stack, 'spec' | 'units' | 'levelOfSet'>,
  only?: (unit: Unit) => boolean,
): HiddenEntries {
  return finished(loadAllHiddenSteps(whiteoutsDir, stack, only));
}

/** The same in steps. */
export function* loadAllHiddenSteps(
  whiteoutsDir: string,
  stack: Pick<Stack, 'spec' | 'units' | 'levelOfSet'>,
  only: (unit: Unit) => boolean = () => true,
): Steps<HiddenEntries> {
  const hidden = nothingHidden();
  const open = openWhiteouts(whiteoutsDir, stack.spec.levels);
  try {
    for (const fd of open) {
      const levels: number[] = [];
      eachSet(fd, stack.levelOfSet, (_, level) => {
        const unit = stack.units[level];
        if (unit !== undefined && only(unit)) levels.push(level);
      });
      for (const level of levels) addMarks(hidden, level, yield* loadSet(fd, stack.units[level]!));
    }
  } finally {
    for (const fd of open) close(fd);
  }
  return hidden;
}

/** What the whiteout sets of config levels hide in the levels below them. Those of frozen ones count as the appliance's own. */
export function loadBlockedEntries(
  levels: readonly LevelSpec[],
  units: readonly Unit[],
  levelOfSet: ReadonlyMap<string, number>,
): (Set<number> | undefined)[] {
  const blocked: (Set<number> | undefined)[] = new Array(levels.length).fill(undefined);
  for (const [upper, level] of levels.entries()) {
    if (level.whiteoutsDir === null || level.kind === 'frozen') continue;
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
