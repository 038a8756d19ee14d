/**
 * Merged directories: what the levels of a stack together show in one directory, computed once, on first use, from the contributors of
 * the parent, and shared by all VLFSs of the stack. A lookup is one Map access, however many levels there are. A name's candidates
 * are all levels that hold it, top first, so that the whiteouts of one appliance can uncover a lower one.
 * Nothing here knows of private layers; `hidden` sets are given by the caller and never cached.
 */

import type { Name } from '../../base/index.ts';
import type { TreeIndex } from '../../layer/contract.ts';
import { S_IFCHR, S_IFDIR } from '../../sys/index.ts';
import { directoryIno, privateIno } from '../nodes/inode-numbers.ts';
import { NO_RULE } from '../policy/matcher.ts';
import { entryState, ruleHiding, SHOWN, unionOf } from '../policy/stack-policy.ts';
import { finished, type Steps } from '../steps.ts';
import type { Stack, Unit } from './stack.ts';

/**
 * One entry of one level, as a number: level * 2^22 + entry. base/limits keeps entries below 2^22 and levels below 2^14. Among the candidates of a
 * name -1 - reference is a whiteout of a frozen layer: unless it is hidden itself, what comes after it does not show.
 *
 * Of frozen levels that follow each other only those are candidates that can ever show: there may be a thousand of them. What hides an entry
 * hides what it covers, too; older directories still contribute (`MergedDirectory.older`).
 */
export type Reference = number;
const ENTRIES = 2 ** 22;

export const OPAQUE = 'trusted.overlay.opaque';
export const REDIRECT = 'trusted.overlay.redirect';

/** On private/ itself: a directory of the stack was renamed once. */
export const REDIRECTS_XATTR = 'trusted.strata.redirects';

export interface MergedDirectory {
  readonly stack: Stack;
  /** Path in the layers, latin1, '' for the root. */
  readonly path: string;
  /** The path that it has below the frozen layers that renamed it or a directory above it. */
  readonly originalPath: string;
  /** The directories that are merged here, top first; the first gives the attributes. Empty for an empty stack. */
  readonly contributors: readonly Reference[];
  /** Per contributor, its state in the stack's policy; null without a policy. */
  readonly states: readonly number[] | null;
  /** Names that the policy hides in some level, with the rule; known with `names`. */
  denied: Map<string, number> | null;
  names: Map<string, Reference | Reference[]> | null;
  /** By the newest frozen directory of a name, the older ones that contribute after it; known with `names`, null when there are none. */
  older: Map<Reference, Reference[]> | null;
  children: Map<string, MergedDirectory | null> | null;
  ino: number;
  times: { mtimeSec: number; mtimeNsec: number } | null;
}

/** Per level, entries that one appliance's whiteouts hide. */
export interface HiddenEntries {
  count: number;
  readonly levels: (Set<number> | undefined)[];
  /** Frozen directories that hide nothing below them any more, though they are opaque; counted too. */
  readonly opened?: (Set<number> | undefined)[];
}

export function reference(level: number, entry: number): Reference {
  return level * ENTRIES + entry;
}

export function levelOf(ref: Reference): number {
  return Math.floor(ref / ENTRIES);
}

export function entryOf(ref: Reference): number {
  return ref % ENTRIES;
}

export function unitOf(stack: Stack, ref: Reference): Unit {
  return stack.units[levelOf(ref)]!;
}

export function isHidden(hidden: HiddenEntries, ref: Reference): boolean {
  const at = ref < 0 ? -1 - ref : ref;
  return hidden.count > 0 && hidden.levels[levelOf(at)]?.has(entryOf(at)) === true;
}

export function isOpened(hidden: HiddenEntries, ref: Reference): boolean {
  return ref >= 0 && hidden.count > 0 && hidden.opened?.[levelOf(ref)]?.has(entryOf(ref)) === true;
}

export function newMergedDirectory(
  stack: Stack,
  path: string,
  contributors: readonly Reference[],
  states: readonly number[] | null,
  originalPath: string = path,
): MergedDirectory {
  return {
    stack,
    path,
    originalPath,
    contributors,
    states,
    denied: null,
    names: null,
    older: null,
    children: null,
    ino: 0,
    times: null,
  };
}

/** The contributor that gives the directory its attributes. -1 for an empty stack. */
export function topOf({ stack, contributors }: MergedDirectory): Reference {
  return contributors.find((ref) => unitOf(stack, ref).givesAttributes) ?? contributors[0] ?? -1;
}

/** st_ino of the directory while the private layer does not have it. */
export function mergedIno(directory: MergedDirectory): number {
  if (directory.ino === 0) directory.ino = frozenIno(directory) || directoryIno(directory.originalPath);
  return directory.ino;
}

/** What it was while its topmost part was private; 0: that part is not frozen, or had the number of the path. */
function frozenIno({ stack, contributors }: MergedDirectory): number {
  const top = contributors[0];
  const frozen = top === undefined ? null : unitOf(stack, top).frozen;
  if (frozen === null || top === undefined) return 0;
  const kept = frozen.keptIno(entryOf(top));
  return kept > 0 || contributors.length > 1 ? kept : privateIno(frozen.stat(entryOf(top)).ino);
}

/**
 * The newest of the contributors' modification times, so that a directory that got something by an update looks changed; those of a frozen
 * one, because it is as the private layer had it.
 */
export function mergedTimes(directory: MergedDirectory): { mtimeSec: number; mtimeNsec: number } {
  if (directory.times !== null) return directory.times;
  const times = { mtimeSec: Number.NEGATIVE_INFINITY, mtimeNsec: 0 };
  for (const ref of directory.contributors) {
    const { index, frozen } = unitOf(directory.stack, ref);
    const seconds = index.mtimeSec(entryOf(ref));
    const nanoseconds = index.mtimeNsec(entryOf(ref));
    if (seconds < times.mtimeSec || (seconds === times.mtimeSec && nanoseconds <= times.mtimeNsec)) continue;
    times.mtimeSec = seconds;
    times.mtimeNsec = nanoseconds;
    if (frozen !== null && ref === directory.contributors[0]) break;
  }
  directory.times = times;
  return times;
}

/** A 0:0 character device of an overlayfs-upper tree hides the name in all lower levels. */
function isWhiteout(index: TreeIndex, entry: number): boolean {
  return index.kind(entry) === S_IFCHR && index.rdev(entry) === 0;
}

/** All names with their candidates. Built on first use; do not change it. */
export function namesOf(directory: MergedDirectory): ReadonlyMap<string, Reference | Reference[]> {
  return directory.names ?? finished(nameSteps(directory));
}

/** Names between two steps. */
const NAMES_A_STEP = 512;

/** As namesOf, in steps: a directory may have a hundred thousand names. */
export function* nameSteps(directory: MergedDirectory): Steps<ReadonlyMap<string, Reference | Reference[]>> {
  if (directory.names !== null) return directory.names;
  const names = new Map<string, Reference | Reference[]>();
  const { policy } = directory.stack;
  /** By name, up to which rule levels must count it to be ended by what was above. */
  let ended: Map<string, number> | null = null;
  let denied: Map<string, number> | null = null;
  let looked = 0;
  for (const [i, contributor] of directory.contributors.entries()) {
    const level = levelOf(contributor);
    const unit = directory.stack.units[level]!;
    const index = unit.index;
    const blocked = directory.stack.blocked[level];
    const state = directory.states?.[i] ?? SHOWN;
    const from = policy?.from[level] ?? 0;
    const first = index.firstChild(entryOf(contributor));
    const end = first + index.childCount(entryOf(contributor));
    for (let child = first; child < end; child++) {
      if (++looked % NAMES_A_STEP === 0) yield;
      if (blocked?.has(child)) continue;
      const name = index.name(child);
      if (ended !== null && (ended.get(name) ?? NO_RULE) >= from) continue;
      let ref = reference(level, child);
      if (unit.overlay && isWhiteout(index, child)) {
        if (unit.frozen === null) {
          ended ??= new Map();
          ended.set(name, Number.POSITIVE_INFINITY);
          continue;
        }
        ref = -1 - ref;
      }
      const rule =
        state === SHOWN
          ? NO_RULE
          : ruleHiding(policy!, level, child, entryState(policy!, level, child, state));
      if (rule !== NO_RULE) {
        ended ??= new Map();
        ended.set(name, rule);
        denied ??= new Map();
        denied.set(name, rule);
        continue;
      }
      const known = names.get(name);
      if (known === undefined) names.set(name, ref);
      else if (
        unit.frozen !== null &&
        isCovered(directory, typeof known === 'number' ? known : known.at(-1)!, ref)
      )
        continue;
      else if (typeof known === 'number') names.set(name, [known, ref]);
      else known.push(ref);
    }
  }
  directory.names = names;
  directory.denied = denied;
  return names;
}

/** Whether an entry, or whiteout, of a frozen level cannot show because of `above`, the candidate before it. Notes directories that contribute. */
function isCovered(directory: MergedDirectory, above: Reference, ref: Reference): boolean {
  const { stack } = directory;
  const isFrozen = unitOf(stack, above < 0 ? -1 - above : above).frozen !== null;
  if (!isFrozen) return false;
  if (above < 0) return true;
  if (!isDirectory(stack, above)) return ref >= 0;
  if (!isDirectory(stack, ref)) return false;
  directory.older ??= new Map();
  const known = directory.older.get(above);
  if (known === undefined) directory.older.set(above, [ref]);
  else known.push(ref);
  return true;
}

/** Candidates of a name with the older directories that contribute too. */
export function withOlder(
  { older }: MergedDirectory,
  candidates: readonly Reference[],
): readonly Reference[] {
  if (older === null || !candidates.some((ref) => older.has(ref))) return candidates;
  return candidates.flatMap((ref) => [ref, ...(older.get(ref) ?? [])]);
}

/**
 * A directory of the next stack to which the same levels of the same units contribute has the same names: they are not gathered again.
 */
export function shareNames(from: MergedDirectory | null, to: MergedDirectory | null): void {
  if (from === null || to === null || from.names === null || to.names !== null) return;
  if (from.contributors.length !== to.contributors.length) return;
  if (from.stack.policy?.matcher !== to.stack.policy?.matcher) return;
  for (const [i, ref] of to.contributors.entries()) {
    const level = levelOf(ref);
    if (from.contributors[i] !== ref || from.stack.units[level] !== to.stack.units[level]) return;
    if (from.stack.blocked[level] !== to.stack.blocked[level]) return;
    if (from.stack.policy?.from[level] !== to.stack.policy?.from[level]) return;
    if (from.states?.[i] !== to.states?.[i]) return;
  }
  to.names = from.names;
  to.older = from.older;
  to.denied = from.denied;
}

/** The topmost candidate that is not hidden, or -1. */
export function visibleOf(candidates: Reference | Reference[] | undefined, hidden: HiddenEntries): Reference {
  if (candidates === undefined) return -1;
  if (typeof candidates === 'number') return candidates < 0 || isHidden(hidden, candidates) ? -1 : candidates;
  if (hidden.count === 0) return Math.max(candidates[0]!, -1);
  for (const ref of candidates) if (!isHidden(hidden, ref)) return Math.max(ref, -1);
  return -1;
}

export function isDirectory(stack: Stack, ref: Reference): boolean {
  return ref >= 0 && unitOf(stack, ref).index.kind(entryOf(ref)) === S_IFDIR;
}

/** The part of a directory that config and software layers give it: what it would show if nothing were private; null: none. */
export function originalOf(directory: MergedDirectory): MergedDirectory | null {
  const { stack, contributors, path, states } = directory;
  const isOriginal = (ref: Reference): boolean => unitOf(stack, ref).frozen === null;
  if (contributors.every(isOriginal)) return directory;
  const known = originals.get(directory);
  if (known !== undefined) return known;
  const left = contributors.filter(isOriginal);
  const ofLeft = states?.filter((_, i) => isOriginal(contributors[i]!)) ?? null;
  const original =
    left.length === 0 ? null : newMergedDirectory(stack, path, left, ofLeft, directory.originalPath);
  originals.set(directory, original);
  return original;
}

const originals = new WeakMap<MergedDirectory, MergedDirectory | null>();

/** The merged directory at `name`, or null when what is visible there is not a directory. */
export function childDirectory(
  parent: MergedDirectory,
  name: string,
  hidden: HiddenEntries,
): MergedDirectory | null {
  const candidates = namesOf(parent).get(name);
  if (candidates === undefined) return null;
  const list = typeof candidates === 'number' ? [candidates] : candidates;
  if (hidden.count > 0 && isTouched(parent, list, hidden)) return mergeAt(parent, name, list, hidden);
  const known = parent.children?.get(name);
  if (known !== undefined) return known;
  const merged = mergeAt(parent, name, list, NOTHING_HIDDEN);
  parent.children ??= new Map();
  parent.children.set(name, merged);
  return merged;
}

/** Whether marks of the appliance concern these candidates. */
function isTouched(parent: MergedDirectory, list: readonly Reference[], hidden: HiddenEntries): boolean {
  return withOlder(parent, list).some((ref) => isHidden(hidden, ref) || isOpened(hidden, ref));
}

export const NOTHING_HIDDEN: HiddenEntries = { count: 0, levels: [] };

/**
 * The directory at an absolute path in the layers (a redirect's target), or null. It outlives the deletion of the place it came from, so
 * whiteouts of directories do not count here; one of a file at its place does.
 */
export function directoryAt(stack: Stack, path: string, hidden: HiddenEntries): MergedDirectory | null {
  let directory: MergedDirectory | null = stack.root;
  for (const part of path.split('/')) {
    if (part !== '') directory = redirectStep(directory, part, hidden);
    if (directory === null) return null;
  }
  return directory;
}

function redirectStep(from: MergedDirectory, name: string, hidden: HiddenEntries): MergedDirectory | null {
  const candidates = namesOf(from).get(name);
  if (candidates === undefined) return null;
  const list = typeof candidates === 'number' ? [candidates] : candidates;
  const counted = list.filter((ref) => isDirectory(from.stack, ref) || !isHidden(hidden, ref));
  return counted.length === list.length
    ? childDirectory(from, name, NOTHING_HIDDEN)
    : mergeAt(from, name, counted, NOTHING_HIDDEN);
}

function mergeAt(
  parent: MergedDirectory,
  name: string,
  candidates: readonly Reference[],
  hidden: HiddenEntries,
): MergedDirectory | null {
  const { stack } = parent;
  const { policy } = stack;
  const contributors: Reference[] = [];
  const states: number[] = [];
  let originalPath = under(parent.originalPath, name);
  for (const ref of withOlder(parent, candidates)) {
    if (isHidden(hidden, ref)) continue;
    if (!isDirectory(stack, ref)) break;
    contributors.push(ref);
    const state =
      policy === null ? SHOWN : entryState(policy, levelOf(ref), entryOf(ref), stateIn(parent, ref));
    states.push(state);
    const unit = unitOf(stack, ref);
    if (!unit.overlay || !unit.index.hasXattrs(entryOf(ref))) continue;
    const xattrs: ReadonlyMap<string, Uint8Array> = unit.index.xattrs(entryOf(ref));
    if (isOpaque(xattrs.get(OPAQUE as Name)) && !isOpened(hidden, ref)) break;
    const redirect = xattrs.get(REDIRECT);
    if (redirect !== undefined) {
      const target = redirected(parent, levelOf(ref), Buffer.from(redirect).toString('latin1'));
      contributors.push(...(target?.contributors ?? []));
      if (unit.frozen !== null && target !== null) originalPath = target.originalPath;
      for (const other of target?.states ?? []) states.push(unionOf(policy!, other, state));
      break;
    }
  }
  if (contributors.length === 0) return null;
  const path = under(parent.path, name);
  return newMergedDirectory(stack, path, contributors, policy === null ? null : states, originalPath);
}

function under(parent: string, name: string): string {
  return parent === '' ? name : `${parent}/${name}`;
}

/** The state of the contributor of `ref`'s level. */
function stateIn(directory: MergedDirectory, ref: Reference): number {
  const level = levelOf(ref);
  return directory.states![directory.contributors.findIndex((other) => levelOf(other) === level)] ?? SHOWN;
}

const withRedirects = new WeakMap<Unit, boolean>();
const stacksWithRedirects = new WeakMap<Pick<Stack, 'units'>, boolean>();

/** Whether a config or frozen level has renamed directories, which show parts of the levels below at other places. */
export function hasRedirects(stack: Pick<Stack, 'units'>): boolean {
  const known = stacksWithRedirects.get(stack);
  if (known !== undefined) return known;
  const found = findRedirects(stack);
  stacksWithRedirects.set(stack, found);
  return found;
}

function findRedirects(stack: Pick<Stack, 'units'>): boolean {
  return stack.units.some((unit) => {
    if (!unit.overlay) return false;
    let found = withRedirects.get(unit);
    if (found === undefined) {
      // The private layer said so when it was frozen.
      found = unit.frozen?.xattrs(0).has(REDIRECTS_XATTR as Name) ?? false;
      for (
        let entry = unit.frozen === null ? 0 : unit.index.entryCount;
        entry < unit.index.entryCount && !found;
        entry++
      )
        found = unit.index.hasXattrs(entry) && unit.index.xattrs(entry).has(REDIRECT as Name);
      withRedirects.set(unit, found);
    }
    return found;
  });
}

export function isOpaque(value: Uint8Array | undefined): boolean {
  return value !== undefined && value.length > 0 && value[0] === 0x79; // 'y'
}

/** Contributors below `level` of a directory that was renamed in an upper level. */
function redirected(parent: MergedDirectory, level: number, target: string): MergedDirectory | null {
  const { stack } = parent;
  const absolute = target.startsWith('/');
  const from = absolute ? stack.root : parent;
  const below = (_: unknown, i: number): boolean => levelOf(from.contributors[i]!) > level;
  let directory: MergedDirectory | null = newMergedDirectory(
    stack,
    absolute ? '' : parent.path,
    from.contributors.filter(below),
    from.states?.filter(below) ?? null,
    absolute ? '' : parent.originalPath,
  );
  for (const part of target.split('/')) {
    if (part === '') continue;
    if (part === '.' || part === '..') return null;
    directory = mergeAt(directory, part, candidatesIn(directory, part), NOTHING_HIDDEN);
    if (directory === null) return null;
  }
  return directory;
}

/**
 * As namesOf(directory).get(name), without building the map: for directories that are used once, on the way to a redirect's target. As in
 * directoryAt, whiteouts of directories do not count: the level that renamed a part may have deleted the rest.
 */
function candidatesIn(directory: MergedDirectory, name: string): Reference[] {
  const found: Reference[] = [];
  const { policy } = directory.stack;
  let ended = NO_RULE;
  for (const [i, contributor] of directory.contributors.entries()) {
    const level = levelOf(contributor);
    const unit = directory.stack.units[level]!;
    const child = unit.index.child(entryOf(contributor), name as never);
    if (child < 0) continue;
    if (unit.overlay && isWhiteout(unit.index, child)) break;
    const ref = reference(level, child);
    if (directory.stack.blocked[level]?.has(child) && !isDirectory(directory.stack, ref)) continue;
    const state = directory.states?.[i] ?? SHOWN;
    if (policy !== null && state !== SHOWN) {
      if (ended >= policy.from[level]!) continue;
      const rule = ruleHiding(policy, level, child, entryState(policy, level, child, state));
      if (rule !== NO_RULE) {
        ended = Math.max(ended, rule);
        continue;
      }
    }
    found.push(ref);
  }
  return found;
}
