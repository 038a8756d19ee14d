/**
 * A redirect leads to a directory of the layers whatever whiteouts hide the directories on its way, so that the part outlives the deletion of the
 * place it came from. What had been deleted before the redirect was made would come back by that: it is hidden name by name. And a hidden directory that
 * is opaque, or was renamed itself, would end the way before what is shown from below it: then no redirect is made.
 */
import type { Core } from '../core.ts';
import { childDirectory, directoryAt } from '../stack/child-directories.ts';
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
} from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import { hide } from './whiteouts.ts';

/** `shown`: the directory as it is seen before a redirect leads to it. 0 or a negative errno; nothing that one can see changes. */
export function hideBeyond(core: Core, shown: MergedDirectory): number {
  for (const ref of childrenBeyond(core, shown, reachedFrom(core, shown))) {
    const hidden = hide(core, [ref]);
    if (hidden < 0) return hidden;
  }
  return 0;
}

/** Whether a redirect to the directory, once `hideBeyond` is done, shows what is shown now; nothing is changed. */
export function isReachable(core: Core, shown: MergedDirectory): boolean {
  const reached = reachedFrom(core, shown);
  if (reached === null) return false;
  const found = new Set(reached.contributors);
  if (!shown.contributors.every((ref) => found.has(ref))) return false;
  // The same contributors: all below is the same, too.
  if (found.size === shown.contributors.length) return true;
  return showsSame(
    shown,
    core.hidden,
    reached,
    withHidden(core.hidden, childrenBeyond(core, shown, reached)),
  );
}

function reachedFrom(core: Core, shown: MergedDirectory): MergedDirectory | null {
  return directoryAt(core.stack, shown.path, core.hidden);
}

/** What directories that are reached, but not shown, hold. */
function* childrenBeyond(
  core: Core,
  shown: MergedDirectory,
  reached: MergedDirectory | null,
): Generator<Reference, void, undefined> {
  const known = new Set(shown.contributors);
  for (const ref of reached?.contributors ?? []) {
    if (known.has(ref)) continue;
    const { index } = unitOf(core.stack, ref);
    const first = index.firstChild(entryOf(ref));
    for (let child = first; child < first + index.childCount(entryOf(ref)); child++)
      yield reference(levelOf(ref), child);
  }
}

/** `hidden` with more. */
function withHidden(hidden: HiddenEntries, refs: Iterable<Reference>): HiddenEntries {
  const levels = [...hidden.levels];
  const copied = new Set<number>();
  let { count } = hidden;
  for (const ref of refs) {
    if (isHidden(hidden, ref)) continue;
    const level = levelOf(ref);
    if (!copied.has(level)) levels[level] = new Set(levels[level]);
    copied.add(level);
    levels[level]!.add(entryOf(ref));
    count++;
  }
  return { ...hidden, levels, count };
}

/** Whether two directories show the same of the layers, each with what is hidden in it. */
function showsSame(
  a: MergedDirectory,
  hiddenInA: HiddenEntries,
  b: MergedDirectory,
  hiddenInB: HiddenEntries,
): boolean {
  for (const name of new Set([...namesOf(a).keys(), ...namesOf(b).keys()])) {
    const ref = visibleOf(namesOf(a).get(name), hiddenInA);
    if (visibleOf(namesOf(b).get(name), hiddenInB) !== ref) return false;
    if (ref < 0 || !isDirectory(a.stack, ref)) continue;
    const inA = childDirectory(a, name, hiddenInA)?.contributors ?? [];
    const inB = childDirectory(b, name, hiddenInB)?.contributors ?? [];
    if (inA.length !== inB.length || inA.some((one, i) => one !== inB[i])) return false;
  }
  return true;
}
