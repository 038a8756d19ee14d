/**
 * What two open VLFSs have in common, so that it need not be looked at: levels of both stacks are the same units, with the same numbers of entries. What lies in a common
 * directory of a common unit shows alike in both, but for entries that only one of them hides.
 */
import type { Core } from '../core.ts';
import { hasRedirects } from '../stack/child-directories.ts';
import { entryOf, type Reference, unitOf } from '../stack/merged-directory.ts';
import type { Unit } from '../stack/stack.ts';

export interface Common {
  /** By unit and directory: names at or below which only one of the two hides something. */
  readonly uneven: ReadonlyMap<Unit, ReadonlyMap<number, ReadonlySet<string>>>;
  /** Common units with renamed directories over different units: what those show may differ. */
  readonly unsure: ReadonlySet<Unit>;
}

export function commonOf(left: Core, right: Core): Common {
  const levels = new Map(right.stack.units.map((unit, level) => [unit, level]));
  const uneven = new Map<Unit, Map<number, Set<string>>>();
  const unsure = new Set<Unit>();
  let sameBelow = true;
  for (
    let level = left.stack.units.length - 1, other = right.stack.units.length - 1;
    level >= 0;
    level--, other--
  ) {
    const unit = left.stack.units[level]!;
    const at = levels.get(unit);
    if (at !== undefined) {
      noteUneven(left, level, right, at, uneven);
      if (!(sameBelow && at === other) && unit.overlay && hasRedirects({ units: [unit] })) unsure.add(unit);
    }
    sameBelow = sameBelow && at === other;
  }
  return { uneven, unsure };
}

/** What hides an entry of a level: the appliance's own sets and those of the levels above. */
function marksOf({ hidden, stack }: Core, level: number): [ReadonlySet<number>[], ReadonlySet<number>[]] {
  const there = (set: ReadonlySet<number> | undefined): ReadonlySet<number>[] =>
    set === undefined ? [] : [set];
  return [[...there(hidden.levels[level]), ...there(stack.blocked[level])], there(hidden.opened?.[level])];
}

function noteUneven(
  left: Core,
  level: number,
  right: Core,
  other: number,
  uneven: Map<Unit, Map<number, Set<string>>>,
): void {
  const unit = left.stack.units[level]!;
  const mine = marksOf(left, level);
  const theirs = marksOf(right, other);
  for (const kind of [0, 1] as const) {
    const note = (these: ReadonlySet<number>[], those: ReadonlySet<number>[]): void => {
      for (const set of these)
        for (const entry of set) if (!those.some((one) => one.has(entry))) noteAbove(unit, entry, uneven);
    };
    note(mine[kind], theirs[kind]);
    note(theirs[kind], mine[kind]);
  }
}

function noteAbove(unit: Unit, entry: number, uneven: Map<Unit, Map<number, Set<string>>>): void {
  const directories = uneven.get(unit) ?? new Map<number, Set<string>>();
  uneven.set(unit, directories);
  for (let at = entry; at !== 0; ) {
    const parent = unit.index.parent(at);
    const names = directories.get(parent) ?? new Set<string>();
    if (names.has(unit.index.name(at))) return;
    directories.set(parent, names);
    names.add(unit.index.name(at));
    at = parent;
  }
}

/** The contributors that two merged directories do not share: what is left of each before their longest common end. */
export function unsharedOf(
  common: Common,
  left: Core,
  a: readonly Reference[],
  right: Core,
  b: readonly Reference[],
): { left: readonly Reference[]; right: readonly Reference[]; shared: readonly Reference[] } {
  let count = 0;
  while (count < a.length && count < b.length) {
    const one = a[a.length - 1 - count]!;
    const two = b[b.length - 1 - count]!;
    const unit = unitOf(left.stack, one);
    if (unit !== unitOf(right.stack, two) || entryOf(one) !== entryOf(two) || common.unsure.has(unit)) break;
    count++;
  }
  const end = a.length - count;
  return { left: a.slice(0, end), right: b.slice(0, b.length - count), shared: a.slice(end) };
}
