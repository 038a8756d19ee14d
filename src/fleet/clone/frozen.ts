/**
 * Frozen layers: frozen/ID/{private, whiteouts} is what an appliance had in its private layer at the instant of a clone. It belongs to every
 * appliance whose state.json lists it (newest first) and never changes; who shows it is known from those lists alone, so nothing is counted.
 */
import { join } from 'node:path';
import type { LevelSpec, StackSpec } from '../../vlfs/contract.ts';
import type { FleetContext } from '../context.ts';
import { mountedDirs } from '../gc/references.ts';
import { isThere, namesIn, readJsonIfThere } from '../state/files.ts';
import type { FleetPaths } from '../state/paths.ts';
import { stackOfLevels } from '../templates/compose.ts';

/** Twelve hexadecimal digits. */
export type FrozenId = string;

const ID = /^[0-9a-f]{12}$/;

/** The list in a state.json; null when it is damaged. */
export function frozenList(value: unknown): FrozenId[] | null {
  if (value === undefined) return [];
  const isGood = Array.isArray(value) && value.every((id) => typeof id === 'string' && ID.test(id));
  return isGood ? (value as FrozenId[]) : null;
}

export function frozenDir(paths: FleetPaths, id: FrozenId): string {
  return join(paths.frozen, id);
}

/** In the directory of a frozen layer that was merged: of which it was, the newest first. */
export const MERGED_FILE = 'merged.json';

/** What is frozen never changes, so neither does what it was merged from. */
const known = new Map<string, readonly FrozenId[] | null>();
const MOST_KNOWN = 65_536;

/** The layers that a frozen layer was merged from, the newest first; null: it was not. */
export function mergedFrom(dir: string): readonly FrozenId[] | null {
  const before = known.get(dir);
  if (before !== undefined) return before;
  const found = frozenList(readJsonIfThere(join(dir, MERGED_FILE))?.['of']) ?? [];
  const ids = found.length > 0 ? found : null;
  if (known.size >= MOST_KNOWN) known.clear();
  known.set(dir, ids);
  return ids;
}

/** The layers that a frozen layer stands for, newest first, none of which was merged itself. */
export function leavesOf(paths: FleetPaths, id: FrozenId): readonly FrozenId[] {
  const dir = frozenDir(paths, id);
  const of = mergedFrom(dir);
  if (of === null) return [id];
  const before = leaves.get(dir);
  if (before !== undefined) return before;
  const noted = frozenList(readJsonIfThere(join(dir, MERGED_FILE))?.['leaves']) ?? [];
  const found = noted.length > 0 ? noted : of;
  if (leaves.size >= MOST_KNOWN) leaves.clear();
  leaves.set(dir, found);
  return found;
}

const leaves = new Map<string, readonly FrozenId[]>();

function frozenLevel(paths: FleetPaths, id: FrozenId): LevelSpec {
  const dir = frozenDir(paths, id);
  const merged = mergedFrom(dir);
  return {
    kind: 'frozen',
    id: `frozen/${id}`,
    treeDir: join(dir, 'private'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: join(dir, 'whiteouts'),
    ...(merged === null ? {} : { mergedFrom: merged.map((one) => `frozen/${one}`) }),
  };
}

/** A stack with an appliance's frozen layers on top. */
export function withFrozen(paths: FleetPaths, stack: StackSpec, frozen: readonly FrozenId[]): StackSpec {
  if (frozen.length === 0) return stack;
  return stackOfLevels([...frozen.map((id) => frozenLevel(paths, id)), ...stack.levels]);
}

/**
 * Frozen layers that nobody lists or shows. `among`: only these are looked at, which costs the same however many appliances there are; else all. Under the commit lock. Empty when
 * an appliance's state cannot be read: then it is not known what it needs.
 */
export function unusedFrozen(context: FleetContext, among?: readonly FrozenId[]): FrozenId[] {
  const { paths, catalog } = context;
  if (!catalog.isWhole()) return [];
  const there = among?.filter((id) => isThere(frozenDir(paths, id))) ?? namesIn(paths.frozen);
  const unused = [...new Set(there)].filter((id) => ID.test(id) && !catalog.needsFrozen(id));
  if (unused.length === 0) return [];
  const shown = mountedDirs(context.root);
  return unused.filter((id) => !shown.has(frozenDir(paths, id)));
}
