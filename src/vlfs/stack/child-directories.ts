/** The directories in a merged directory, and those that an upper level has renamed: from the contributors of the parent. */
import type { Name } from '../../base/index.ts';
import { NO_RULE } from '../policy/matcher.ts';
import { entryState, ruleHiding, SHOWN, unionOf } from '../policy/stack-policy.ts';
import { loadAllHidden } from '../whiteouts/whiteout-sets.ts';
import {
  entryOf,
  type HiddenEntries,
  isDirectory,
  isHidden,
  isOpened,
  levelOf,
  type MergedDirectory,
  NOTHING_HIDDEN,
  newMergedDirectory,
  OPAQUE,
  REDIRECT,
  REDIRECTS_XATTR,
  type Reference,
  reference,
  unitOf,
} from './merged-directory.ts';
import { isWhiteout, namesOf, withOlder } from './merged-names.ts';
import type { Stack, Unit } from './stack.ts';

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

/** The path of a name in a directory; '' is the root. */
export function under(parent: string, name: string): string {
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
    directory = mergeAt(directory, part, candidatesIn(directory, part, level), NOTHING_HIDDEN);
    if (directory === null) return null;
  }
  return directory;
}

/**
 * As namesOf(directory).get(name), without building the map: for directories that are used once, on the way to a redirect's target. As in
 * directoryAt, whiteouts of directories do not count: the level that renamed a part may have deleted the rest. Nor do files and whiteouts that were hidden
 * when the layer of the redirect, `level`, was frozen.
 */
function candidatesIn(directory: MergedDirectory, name: string, level: number): Reference[] {
  const found: Reference[] = [];
  const { policy } = directory.stack;
  let ended = NO_RULE;
  for (const [i, contributor] of directory.contributors.entries()) {
    const at = levelOf(contributor);
    const unit = directory.stack.units[at]!;
    const child = unit.index.child(entryOf(contributor), name as never);
    if (child < 0) continue;
    const ref = reference(at, child);
    const isWhite = unit.overlay && isWhiteout(unit.index, child);
    if (isWhite && unit.frozen === null) break;
    if (!isDirectory(directory.stack, ref)) {
      if (directory.stack.blocked[at]?.has(child) && !isWhite) continue;
      if (isHidden(hiddenAtFreeze(directory.stack, level), ref)) continue;
    }
    if (isWhite) break;
    const state = directory.states?.[i] ?? SHOWN;
    if (policy !== null && state !== SHOWN) {
      if (ended >= policy.from[at]!) continue;
      const rule = ruleHiding(policy, at, child, entryState(policy, at, child, state));
      if (rule !== NO_RULE) {
        ended = Math.max(ended, rule);
        continue;
      }
    }
    found.push(ref);
  }
  return found;
}

const hiddenAtFreezes = new WeakMap<Pick<Stack, 'units'>, Map<number, HiddenEntries>>();

/** What was hidden when this layer was frozen, read on first use; nothing for a config level, whose sets block what they hide. */
function hiddenAtFreeze(stack: Stack, level: number): HiddenEntries {
  const spec = stack.spec.levels[level]!;
  if (spec.kind !== 'frozen' || spec.whiteoutsDir === null) return NOTHING_HIDDEN;
  const known = hiddenAtFreezes.get(stack) ?? new Map<number, HiddenEntries>();
  hiddenAtFreezes.set(stack, known);
  const read = known.get(level);
  if (read !== undefined) return read;
  const levels = stack.spec.levels.slice(level + 1);
  const below = { spec: { ...stack.spec, levels }, units: stack.units, levelOfSet: stack.levelOfSet };
  const hidden = loadAllHidden(spec.whiteoutsDir, below);
  known.set(level, hidden);
  return hidden;
}
