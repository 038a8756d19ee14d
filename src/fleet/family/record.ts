/**
 * What an appliance's state.json says of its family: whom it was cloned from, what both had then, its snapshots, when it ends. The catalog holds the same.
 * Names may be given again, so a parent is known by its name and the instant of its creation.
 */
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { ApplianceState } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FrozenId, frozenList } from '../clone/frozen.ts';
import { readJsonIfThere } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import type { FleetPaths } from '../state/paths.ts';

/** What an appliance was at one instant: its frozen layers then, newest first. */
export interface Snapshot {
  name: string;
  createdAt: string;
  frozen: FrozenId[];
}

export interface Parent {
  name: string;
  /** Null: a clone of an earlier version of Strata, which did not note it. */
  createdAt: string | null;
}

/** A merge between clone and parent, as the clone notes it. */
export interface Merge {
  into: 'clone' | 'parent';
  /** The frozen layer that the target got. */
  layer: FrozenId;
  /** What the source was, as frozen layers. */
  base: FrozenId[];
}

export interface Family {
  createdAt: string;
  parent: Parent | null;
  /** Frozen layers that clone and parent both showed when they parted; null: not known. See base.ts. */
  base: FrozenId[] | null;
  /** Oldest first. */
  merges: Merge[];
  /** Oldest first. */
  snapshots: Snapshot[];
  /** When `strata expire` deletes it. */
  expires: string | null;
}

const isDate = (value: unknown): value is string =>
  typeof value === 'string' && !Number.isNaN(Date.parse(value));

/** Of an appliance whose state.json does not say when it was created. */
const EPOCH = new Date(0).toISOString();

/** What a state.json says; null when that is damaged. */
export function familyOf(state: ApplianceState): Family | null {
  const { createdAt = EPOCH, parent, parentCreatedAt, base, expires, merges = [], snapshots = [] } = state;
  const common = base === undefined ? null : frozenList(base);
  const isGood =
    isDate(createdAt) &&
    (parent === undefined || typeof parent === 'string') &&
    (parentCreatedAt === undefined || isDate(parentCreatedAt)) &&
    (base === undefined || common !== null) &&
    (expires === undefined || isDate(expires)) &&
    Array.isArray(merges) &&
    merges.every(isMerge) &&
    Array.isArray(snapshots) &&
    snapshots.every(
      (one) => typeof one?.name === 'string' && isDate(one.createdAt) && frozenList(one.frozen) !== null,
    );
  if (!isGood) return null;
  return {
    createdAt,
    parent: parent === undefined ? null : { name: parent, createdAt: parentCreatedAt ?? null },
    base: common,
    merges: merges.map(({ into, layer, base: then }) => ({ into, layer, base: then })),
    snapshots: snapshots.map(({ name, createdAt: at, frozen }) => ({ name, createdAt: at, frozen })),
    expires: expires ?? null,
  };
}

function isMerge(one: Partial<Merge> | null): boolean {
  const isInto = one?.into === 'clone' || one?.into === 'parent';
  return (
    isInto && frozenList([one.layer]) !== null && one.base !== undefined && frozenList(one.base) !== null
  );
}

/** The appliance that this one was cloned from; null: it was no clone, or the parent is deleted. */
export function parentOf(row: CatalogRow, get: (name: string) => CatalogRow | null): CatalogRow | null {
  const { parent, createdAt } = row.family;
  const found = parent === null ? null : get(parent.name);
  if (parent === null || found === null) return null;
  if (parent.createdAt === null) return found.family.createdAt <= createdAt ? found : null;
  return found.family.createdAt === parent.createdAt ? found : null;
}

/** Every frozen layer that an appliance needs. `common`: those that it needs for merges, while its parent is there. */
export function frozenNeeds({ frozen, family }: CatalogRow): { own: FrozenId[]; common: FrozenId[] } {
  const { snapshots, base, merges, parent } = family;
  const own = new Set([...frozen, ...snapshots.flatMap((one) => one.frozen)]);
  const common = new Set(parent === null ? [] : [...(base ?? []), ...merges.flatMap((one) => one.base)]);
  return { own: [...own], common: [...common].filter((id) => !own.has(id)) };
}

/** The snapshot of this name. Throws NOT_FOUND. */
export function snapshotOf(row: CatalogRow, name: string): Snapshot {
  const found = row.family.snapshots.find((one) => one.name === name);
  if (found !== undefined) return found;
  throw new StrataError('NOT_FOUND', `appliance ${row.name} has no snapshot ${name}`, {
    hint: `strata snapshots ${row.name} lists them`,
  });
}

/** `NAME@SNAPSHOT`, or `NAME` alone: no name holds an @. */
export function splitPlace(place: string): { name: string; snapshot: string | null } {
  const at = place.indexOf('@');
  return at < 0
    ? { name: place, snapshot: null }
    : { name: place.slice(0, at), snapshot: place.slice(at + 1) };
}

/** The state.json of an appliance. Throws BAD_FORMAT. */
export function readState(paths: FleetPaths, name: string): ApplianceState {
  const state = readJsonIfThere(join(paths.appliances, name, 'state.json')) as ApplianceState | null;
  if (state === null) throw new StrataError('BAD_FORMAT', `appliance ${name} has no state.json`);
  return state;
}

/** The journal's step that writes what a row says of family and frozen layers into the appliance's state.json; all else in it stays. */
export function stateStep(paths: FleetPaths, row: CatalogRow): JournalStep {
  const {
    frozen: _f,
    parent: _p,
    parentCreatedAt: _c,
    base: _b,
    merges: _m,
    snapshots: _s,
    expires: _e,
    ...rest
  } = readState(paths, row.name);
  const state: ApplianceState = { ...rest, ...stateFields(row.family, row.frozen) };
  return {
    do: 'write',
    path: join('appliances', row.name, 'state.json'),
    text: `${JSON.stringify(state)}\n`,
  };
}

/** As state.json holds them: what is empty is not there. */
export function stateFields(family: Family, frozen: FrozenId[]): Partial<ApplianceState> {
  const { parent, base, merges, snapshots, expires } = family;
  return {
    ...(frozen.length > 0 ? { frozen } : {}),
    ...(parent === null ? {} : { parent: parent.name }),
    ...(parent === null || parent.createdAt === null ? {} : { parentCreatedAt: parent.createdAt }),
    ...(base === null ? {} : { base }),
    ...(merges.length > 0 ? { merges } : {}),
    ...(snapshots.length > 0 ? { snapshots } : {}),
    ...(expires === null ? {} : { expires }),
  };
}
