/**
 * An appliance's whiteouts: adding and removing the marks that hide shared entries, on disk and in memory. A path that several levels hold
 * is hidden from the lowest to the topmost and uncovered from the topmost to the lowest, so that a crash between never shows a lower
 * level's file in place of the topmost one.
 */

import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  E,
  fsetxattr,
  getxattrAt,
  mkdirat,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  openat,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  renameat2,
  S_IFCHR,
  S_IFDIR,
  setxattrAt,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import { type Core, step } from '../core.ts';
import { discard, removeTree, removeTreeSteps, temporaryName, workFd } from '../private-layer/work-dir.ts';
import { hasRedirects } from '../stack/child-directories.ts';
import {
  entryOf,
  isDirectory,
  isHidden,
  levelOf,
  OPAQUE,
  type Reference,
  unitOf,
} from '../stack/merged-directory.ts';
import type { Steps } from '../steps.ts';
import { eachSet, OPENED, openDirectory, openWhiteouts, WHOLE } from './whiteout-sets.ts';

/** The descriptor of whiteouts/, made when missing, or a negative errno. */
export function whiteoutsFd(core: Core): number {
  if (core.whiteoutsFd >= 0) return core.whiteoutsFd;
  const path = nameFromText(core.whiteoutsDir);
  const made = mkdirat(AT_FDCWD, path, 0o755);
  if (made < 0 && made !== -E.EXIST) return made;
  core.whiteoutsFd = openDirectory(AT_FDCWD, path);
  return core.whiteoutsFd;
}

/** Opens the directory at `parts` below `dirfd`, making it when `core` is given; the caller closes it. */
export function openBelow(dirfd: number, parts: readonly string[], core: Core | null): number {
  let fd = openDirectory(dirfd, '.');
  for (const part of parts) {
    if (fd < 0) return fd;
    let next = openDirectory(fd, part);
    if (next === -E.NOENT && core !== null) {
      const made = mkdirat(fd, part, 0o755);
      next = made < 0 && made !== -E.EXIST ? made : openDirectory(fd, part);
    } else if (next === -E.NOTDIR && core !== null) next = openWhiteout(core, fd, part);
    close(fd);
    fd = next;
  }
  return fd;
}

/** The mark of a whole directory gets room for marks below it: a directory that says the same takes its place. */
function openWhiteout(core: Core, dirfd: number, name: string): number {
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mkdirat(work, temporary, 0o755);
  if (made < 0) return made;
  const marked = setxattrAt(work, temporary, OPAQUE, Buffer.from('y'));
  step(core, 'whiteout: open');
  const exchanged = marked < 0 ? marked : renameat2(work, temporary, dirfd, name, RENAME_EXCHANGE);
  removeTree(work, temporary);
  return exchanged < 0 ? exchanged : openDirectory(dirfd, name);
}

function place(core: Core, ref: Reference): { parts: string[]; name: string } {
  const unit = unitOf(core.stack, ref);
  const parts = `${unit.setDir}/${unit.index.path(entryOf(ref))}`.split('/');
  const name = parts.pop()!;
  return { parts, name };
}

/** Hides shared entries: `refs` top first, as the lookup gives them. 0 or a negative errno (then some may be hidden, none of them the topmost). */
export function hide(core: Core, refs: readonly Reference[]): number {
  for (let i = refs.length - 1; i >= 0; i--) {
    const ref = refs[i]!;
    if (isHidden(core.hidden, ref)) continue;
    const result = writeWhiteout(core, ref);
    if (result < 0) return result;
    const level = levelOf(ref);
    let set = core.hidden.levels[level];
    if (set === undefined) {
      set = new Set();
      core.hidden.levels[level] = set;
    }
    if (result === REPLACED) forgetBelow(core, ref);
    if (core.hidden.opened?.[level]?.delete(entryOf(ref))) core.hidden.count--;
    set.add(entryOf(ref));
    core.hidden.count++;
  }
  return 0;
}

/** The marks below took part in a change of the one above. */
function forgetBelow(core: Core, ref: Reference): void {
  const set = core.hidden.levels[levelOf(ref)];
  const { index } = unitOf(core.stack, ref);
  const above = entryOf(ref);
  for (const entry of set ?? []) {
    let at = entry;
    while (at !== 0 && at !== above) at = index.parent(at);
    if (at !== above || entry === above) continue;
    set!.delete(entry);
    core.hidden.count--;
  }
}

/** Result of writeWhiteout: the mark took the place of marks below. */
const REPLACED = 1;

function writeWhiteout(core: Core, ref: Reference): number {
  const root = whiteoutsFd(core);
  if (root < 0) return root;
  const { parts, name } = place(core, ref);
  const fd = openBelow(root, parts, core);
  if (fd < 0) return fd;
  try {
    if (isDirectory(core.stack, ref) && (core.hasRedirects || hasRedirects(core.stack)))
      return writeOpaque(core, fd, name);
    step(core, 'whiteout');
    const made = mknodat(fd, name, S_IFCHR, 0);
    return made === -E.EXIST ? replaceByWhiteout(core, fd, name) : made;
  } finally {
    changed(core, fd);
  }
}

/** Takes the descriptor of a directory of a set that was changed, for the next fsyncdir. */
function changed(core: Core, fd: number): void {
  if (core.changedSetFd >= 0) close(core.changedSetFd);
  core.changedSetFd = fd;
}

/** Marks below a directory count, now or later, for a part of it that was renamed away: so its own mark is an opaque directory. */
function writeOpaque(core: Core, fd: number, name: string): number {
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mkdirat(work, temporary, 0o755);
  if (made < 0) return made;
  const marked = setxattrAt(work, temporary, OPAQUE, Buffer.from('y'));
  step(core, 'whiteout: opaque');
  const moved = marked < 0 ? marked : renameat2(work, temporary, fd, name, RENAME_NOREPLACE);
  if (moved < 0) removeTree(work, temporary);
  return moved === -E.EXIST ? setxattrAt(fd, name, OPAQUE, Buffer.from('y')) : moved;
}

/** The directory's own children were hidden one by one; one mark takes the place of all. */
function replaceByWhiteout(core: Core, fd: number, name: string): number {
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mknodat(work, temporary, S_IFCHR, 0);
  if (made < 0) return made;
  step(core, 'whiteout: exchange');
  const exchanged = renameat2(work, temporary, fd, name, RENAME_EXCHANGE);
  removeTree(work, temporary);
  return exchanged < 0 ? exchanged : REPLACED;
}

/** Lets a frozen directory that is opaque show what lies below it. 0 or a negative errno. */
export function openOpaque(core: Core, ref: Reference): number {
  const { hidden } = core;
  const root = whiteoutsFd(core);
  if (root < 0) return root;
  const unit = unitOf(core.stack, ref);
  const fd = openBelow(root, `${unit.setDir}/${unit.index.path(entryOf(ref))}`.split('/'), core);
  if (fd < 0) return fd;
  step(core, 'whiteout: opened');
  const marked = fsetxattr(fd, OPENED, Buffer.from('y'));
  close(fd);
  if (marked < 0) return marked;
  core.hidden = hidden.opened === undefined ? { ...hidden, opened: [] } : hidden;
  const { opened } = core.hidden;
  const set = opened![levelOf(ref)] ?? new Set();
  opened![levelOf(ref)] = set;
  if (!set.has(entryOf(ref))) core.hidden.count++;
  set.add(entryOf(ref));
  return 0;
}

/**
 * Writes all marks that count into the appliance's own directory, so that marks which were frozen can be removed there. One exchange; a no-op when
 * the directory is whole already.
 */
export function makeWhole(core: Core): number {
  if (!core.stack.spec.levels.some((level) => level.kind === 'frozen' && level.whiteoutsDir !== null))
    return 0;
  const root = whiteoutsFd(core);
  if (root < 0) return root;
  if (statAt(root, WHOLE, stat) === 0) return 0;
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mkdirat(work, temporary, 0o755);
  const fresh = made < 0 ? made : openDirectory(work, temporary);
  if (fresh < 0) return fresh;
  const result = writeMarks(core, fresh);
  close(fresh);
  const exchanged =
    result < 0
      ? result
      : renameat2(work, temporary, AT_FDCWD, nameFromText(core.whiteoutsDir), RENAME_EXCHANGE);
  removeTree(work, temporary);
  if (exchanged < 0) return exchanged;
  close(core.whiteoutsFd);
  core.whiteoutsFd = -1;
  if (core.changedSetFd >= 0) close(core.changedSetFd);
  core.changedSetFd = -1;
  return Math.min(whiteoutsFd(core), 0);
}

/** All that is hidden, and that it is all. */
function writeMarks(core: Core, fresh: number): number {
  const { units } = core.stack;
  const opaque = core.hasRedirects || hasRedirects(core.stack);
  for (const [level, unit] of units.entries()) {
    const write = (entries: Iterable<number>, mark: 'hidden' | 'opened'): number => {
      for (const entry of entries) {
        const path = `${unit.setDir}/${unit.index.path(entry)}`.split('/');
        const isPlain = mark === 'hidden' && !(opaque && unit.index.kind(entry) === S_IFDIR);
        const fd = openBelow(fresh, isPlain ? path.slice(0, -1) : path, core);
        if (fd < 0) return fd;
        const made = isPlain
          ? mknodat(fd, path.at(-1)!, S_IFCHR, 0)
          : fsetxattr(fd, mark === 'hidden' ? OPAQUE : OPENED, Buffer.from('y'));
        close(fd);
        if (made < 0 && made !== -E.EXIST) return made;
      }
      return 0;
    };
    const done =
      write(core.hidden.levels[level] ?? [], 'hidden') || write(core.hidden.opened?.[level] ?? [], 'opened');
    if (done < 0) return done;
  }
  const fd = openat(fresh, WHOLE, O_CREAT | O_EXCL | O_CLOEXEC, 0o600);
  if (fd >= 0) close(fd);
  return Math.min(fd, 0);
}

const stat = newStat();

/** Uncovers shared entries (top first), directories with all below. Returns how many were hidden, or a negative errno. */
export function uncover(core: Core, refs: readonly Reference[]): number {
  let count = 0;
  for (const ref of refs) {
    if (!isHidden(core.hidden, ref)) continue;
    const whole = makeWhole(core);
    if (whole < 0) return whole;
    const result = removeWhiteout(core, ref);
    if (result < 0 && result !== -E.NOENT) return result;
    forgetBelow(core, ref);
    core.hidden.levels[levelOf(ref)]!.delete(entryOf(ref));
    core.hidden.count--;
    count++;
  }
  return count;
}

function removeWhiteout(core: Core, ref: Reference): number {
  const root = whiteoutsFd(core);
  if (root < 0) return root;
  const { parts, name } = place(core, ref);
  const fd = openBelow(root, parts, null);
  if (fd < 0) return fd;
  step(core, 'uncover');
  const removed = unlinkat(fd, name);
  const result = removed === -E.ISDIR || removed === -E.PERM ? discard(core, fd, name) : removed;
  changed(core, fd);
  // Directories that became empty go too; the first that is not (or is a mark itself) ends it.
  for (let depth = parts.length; result === 0 && depth > 1; depth--) {
    const above = openBelow(root, parts.slice(0, depth - 1), null);
    if (above < 0) break;
    const marked = [OPAQUE, OPENED].some(
      (mark) => typeof getxattrAt(above, parts[depth - 1]!, mark) !== 'number',
    );
    const gone = marked ? -E.NOTEMPTY : unlinkat(above, parts[depth - 1]!, AT_REMOVEDIR);
    close(above);
    if (gone < 0) break;
  }
  return result;
}

/** Whether a set that was frozen is of a unit that is not in the stack any more: if the unit came back, it would hide things again. */
function hasStaleFrozenSets(core: Core): boolean {
  if (!core.stack.spec.levels.some((level) => level.kind === 'frozen')) return false;
  let found = false;
  for (const fd of openWhiteouts(core.whiteoutsDir, core.stack.spec.levels)) {
    eachSet(fd, core.stack.levelOfSet, (_, level) => {
      found ||= level < 0;
    });
    close(fd);
  }
  return found;
}

/** Removes the sets of units that are not in the stack. Returns how many. Each goes in one rename, so that none is ever half there. */
export function* pruneSets(core: Core): Steps<number> {
  if (hasStaleFrozenSets(core) && makeWhole(core) < 0) return 0;
  const root = openDirectory(AT_FDCWD, nameFromText(core.whiteoutsDir));
  if (root < 0) return 0;
  const gone: string[] = [];
  eachSet(root, core.stack.levelOfSet, (setDir, level) => {
    if (level < 0) gone.push(setDir);
  });
  let count = 0;
  try {
    for (const setDir of gone) {
      const parts = setDir.split('/');
      const name = parts.pop()!;
      const fd = openBelow(root, parts, null);
      const work = workFd(core);
      const temporary = temporaryName(core);
      step(core, 'prune');
      const moved = fd < 0 || work < 0 ? -E.NOENT : renameat2(fd, name, work, temporary);
      if (fd >= 0) close(fd);
      if (moved < 0) continue;
      count++;
      yield* removeTreeSteps(work, temporary);
    }
  } finally {
    close(root);
  }
  return count;
}
