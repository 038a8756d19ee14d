/**
 * What two relatives have in common, as git's merge base: the newest state that is a part of both. A clone notes it when it is made, and with each merge the state of the source and the
 * layer that came to the target. Such a note counts while the target shows that layer and as far as the source still has that state; so who goes back to a snapshot (or was reset)
 * has the base of that time again.
 */
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FrozenId, leavesOf } from '../clone/frozen.ts';
import type { FleetContext } from '../context.ts';
import type { FleetPaths } from '../state/paths.ts';
import { type Family, type Merge, parentOf } from './record.ts';

/** Merges that are kept for snapshots from before them. */
const MOST_MERGES = 64;

/** Frozen layers, newest first: of relatives that are not clone and parent those at the end of both lists. */
export function baseOf(context: FleetContext, one: CatalogRow, other: CatalogRow): FrozenId[] {
  const { paths } = context;
  const clone = cloneOf(context, one, other);
  if (clone === null || clone.family.base === null) return commonEnd(paths, one.frozen, other.frozen);
  const parent = clone === one ? other : one;
  const sides = { clone: clone.frozen, parent: parent.frozen };
  const merge = clone.family.merges.findLast(({ layer, into }) => shows(paths, sides[into], layer));
  if (merge !== undefined)
    return commonEnd(paths, merge.base, sides[merge.into === 'clone' ? 'parent' : 'clone']);
  return commonEnd(paths, commonEnd(paths, clone.family.base, sides.clone), sides.parent);
}

/** Which of two is the clone of the other. */
export function cloneOf(context: FleetContext, one: CatalogRow, other: CatalogRow): CatalogRow | null {
  const get = (name: string): CatalogRow | null => context.catalog.get(name);
  if (parentOf(one, get)?.name === other.name) return one;
  return parentOf(other, get)?.name === one.name ? other : null;
}

/** The family of a clone with one more merge. `before`: the base until then; `keep`: earlier merges may be gone back to. */
export function withMerge(family: Family, merge: Merge, before: FrozenId[], keep: boolean): Family {
  if (!keep) return { ...family, base: before, merges: [merge] };
  return { ...family, base: family.base ?? before, merges: [...family.merges, merge].slice(-MOST_MERGES) };
}

function shows(paths: FleetPaths, list: readonly FrozenId[], layer: FrozenId): boolean {
  return list.some((id) => id === layer || leavesOf(paths, id).includes(layer));
}

/** The oldest layers of `list` that `other` ends with too; layers that were merged in the background count as those that they were made of. */
function commonEnd(paths: FleetPaths, list: readonly FrozenId[], other: readonly FrozenId[]): FrozenId[] {
  const theirs = other.flatMap((id) => leavesOf(paths, id));
  let matched = 0;
  let count = 0;
  for (const id of list.toReversed()) {
    const leaves = leavesOf(paths, id);
    const at = theirs.length - matched - leaves.length;
    if (at < 0 || !leaves.every((leaf, i) => theirs[at + i] === leaf)) break;
    matched += leaves.length;
    count++;
  }
  return list.slice(list.length - count);
}
