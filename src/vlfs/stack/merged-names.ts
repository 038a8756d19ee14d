/**
 * The names of a merged directory. A lookup is one Map access, however many levels there are. A name's candidates are all levels that hold it, top first, so that the
 * whiteouts of one appliance can uncover a lower one.
 */
import type { TreeIndex } from '../../layer/contract.ts';
import { S_IFCHR } from '../../sys/index.ts';
import { NO_RULE } from '../policy/matcher.ts';
import { entryState, ruleHiding, SHOWN } from '../policy/stack-policy.ts';
import { finished, type Steps } from '../steps.ts';
import {
  entryOf,
  type HiddenEntries,
  isDirectory,
  isHidden,
  levelOf,
  type MergedDirectory,
  type Reference,
  reference,
  unitOf,
} from './merged-directory.ts';

/** A 0:0 character device of an overlayfs-upper tree hides the name in all lower levels. */
export function isWhiteout(index: TreeIndex, entry: number): boolean {
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
