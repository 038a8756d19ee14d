/**
 * Composition: the order of the software layers, the check that none hides another's file, and the StackSpec of a generation.
 * A layer that declares Replaces stands above the layer it replaces. The check compares only what is new with the rest when the rest
 * has been checked before, directory by directory, so an update of one layer costs about what that layer holds.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { asStrataError, nameToText, parseUnitId, StrataError, type UnitId } from '../../base/index.ts';
import { parseRelations, type Relation, satisfies } from '../../formats/index.ts';
import type { LayerUnit, TreeIndex } from '../../layer/contract.ts';
import { findConflicts, openUnitIndex } from '../../layer/index.ts';
import { S_IFDIR, S_IFMT } from '../../sys/index.ts';
import type { LevelSpec, StackSpec } from '../../vlfs/contract.ts';
import type { Repositories } from '../repositories.ts';
import type { FleetPaths } from '../state/paths.ts';
import { type ConfigRef, configPaths, type GenerationRecord } from './generations.ts';

export interface ComposedUnit {
  id: UnitId;
  unit: LayerUnit;
}

/** Layers that each unit declares to replace, among those present. */
function replacements(units: ComposedUnit[]): Map<UnitId, Set<UnitId>> {
  const byLayer = new Map(units.map((u) => [u.unit.metadata.layer, u]));
  const replaced = new Map<UnitId, Set<UnitId>>();
  for (const { id, unit } of units) {
    if (!unit.metadata.replaces) continue;
    for (const relation of replacesOf(id, unit.metadata.replaces)) {
      const other = byLayer.get(relation.name);
      if (other === undefined || other.id === id) continue;
      const version = other.unit.metadata.version;
      if (relation.op !== undefined && !satisfies(version, relation.op, relation.version!)) continue;
      const set = replaced.get(id) ?? new Set();
      replaced.set(id, set.add(other.id));
    }
  }
  return replaced;
}

function replacesOf(id: UnitId, text: string): Relation[] {
  try {
    return parseRelations(text).flat();
  } catch (error) {
    throw new StrataError(
      'BAD_FORMAT',
      `what ${id} replaces cannot be read: ${asStrataError(error).message}`,
      {
        hint: `leave ${id} out, or correct its metadata`,
        cause: error,
      },
    );
  }
}

/** The units, top first: as given, but a unit that replaces another's files above it. */
export function orderUnits(units: ComposedUnit[]): ComposedUnit[] {
  const replaced = replacements(units);
  if (replaced.size === 0) return units;
  const replacers = new Map<UnitId, UnitId[]>();
  for (const [by, set] of replaced)
    for (const id of set) replacers.set(id, [...(replacers.get(id) ?? []), by]);
  const byId = new Map(units.map((u) => [u.id, u]));
  const ordered: ComposedUnit[] = [];
  const visited = new Set<UnitId>();
  const visit = (start: UnitId): void => {
    const pending = [{ id: start, next: 0 }];
    visited.add(start);
    for (let top = pending.at(-1); top !== undefined; top = pending.at(-1)) {
      const above = replacers.get(top.id)?.[top.next++];
      if (above === undefined) {
        ordered.push(byId.get(top.id)!);
        pending.pop();
      } else if (!visited.has(above)) {
        visited.add(above);
        pending.push({ id: above, next: 0 });
      }
    }
  };
  for (const { id } of units) if (!visited.has(id)) visit(id);
  return ordered;
}

const MAX_REPORTED = 20;
const INDEX_CACHE = 8192;
const indexes = new Map<string, TreeIndex>();

/** The unit's index, kept open in memory. */
export function unitIndex(unit: LayerUnit): TreeIndex {
  const known = indexes.get(unit.dir);
  if (known) return known;
  if (indexes.size >= INDEX_CACHE) indexes.delete(indexes.keys().next().value!);
  const index = openUnitIndex(unit);
  indexes.set(unit.dir, index);
  return index;
}

/** Forgets open indexes (after a unit was removed or replaced). */
export function forgetUnitIndexes(): void {
  indexes.clear();
}

/**
 * Refuses units that hold the same path, unless one is a directory in both or a declared Replaces decides it. `checked`: units
 * known to get on with each other. Throws CONFLICT and names both owners.
 */
export function checkConflicts(units: ComposedUnit[], checked: ReadonlySet<UnitId>, what: string): void {
  const fresh = units.filter(({ id }) => !checked.has(id));
  if (fresh.length === 0) return;
  const replaced = replacements(units);
  const settled = (a: UnitId, b: UnitId) => replaced.get(a)?.has(b) || replaced.get(b)?.has(a) || false;
  const found: Conflict[] = [];
  if (fresh.length > 8) {
    const indexed = units.map(({ id, unit }) => ({ id, metadata: unit.metadata, index: unitIndex(unit) }));
    for (const { path, owners } of findConflicts(indexed).slice(0, MAX_REPORTED))
      found.push({ path, owners: [owners[0] as UnitId, owners[1] as UnitId] });
  } else {
    const before = new Set<UnitId>();
    for (const one of fresh) {
      before.add(one.id);
      const others = units.filter(({ id }) => id !== one.id && (checked.has(id) || !before.has(id)));
      compareOne(one, others, settled, found);
    }
  }
  if (found.length === 0) return;
  const { path, owners } = found[0]!;
  const more =
    found.length > 1
      ? ` (and ${found.length - 1}${found.length >= MAX_REPORTED ? ' or more' : ''} other paths)`
      : '';
  throw new StrataError(
    'CONFLICT',
    `cannot compose ${what}: ${owners[0]} and ${owners[1]} both hold /${path}${more}`,
    {
      hint: 'leave one of the two layers out, or let one declare Replaces for the other',
      data: { conflicts: found },
    },
  );
}

interface Conflict {
  path: string;
  owners: [UnitId, UnitId];
}

type Settled = (a: UnitId, b: UnitId) => boolean;

interface Place {
  id: UnitId;
  index: TreeIndex;
  entry: number;
}

function isDirectory(place: Place): boolean {
  return (place.index.mode(place.entry) & S_IFMT) === S_IFDIR;
}

function report(found: Conflict[], place: Place, other: Place): void {
  if (found.length < MAX_REPORTED)
    found.push({ path: nameToText(place.index.path(place.entry)), owners: [place.id, other.id] });
}

/** Walks one unit's tree; in each directory only the units that have it too are looked at. */
function compareOne(one: ComposedUnit, others: ComposedUnit[], settled: Settled, found: Conflict[]): void {
  const root = (u: ComposedUnit): Place => ({ id: u.id, index: unitIndex(u.unit), entry: 0 });
  const pending = [{ place: root(one), rest: others.map(root) }];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const { place, rest } = at;
    const first = place.index.firstChild(place.entry);
    const count = place.index.childCount(place.entry);
    for (let entry = first; entry < first + count; entry++) {
      const child: Place = { id: place.id, index: place.index, entry };
      const name = place.index.name(entry);
      const inDirectory = isDirectory(child);
      const below: Place[] = [];
      for (const other of rest) {
        const there = other.index.child(other.entry, name);
        if (there < 0) continue;
        const same: Place = { id: other.id, index: other.index, entry: there };
        if (inDirectory && isDirectory(same)) below.push(same);
        else if (!settled(place.id, other.id)) report(found, child, same);
      }
      if (below.length > 0) pending.push({ place: child, rest: below });
    }
  }
}

type StackRecord = Pick<GenerationRecord, 'units' | 'configs'>;

/** A generation never changes; its stack is made once for each state of the units. */
const madeStacks = new WeakMap<StackRecord, { stamp: string; stack: StackSpec }>();

/** The StackSpec of a generation: its config layers, then its units. Throws NOT_FOUND when a unit is not on this host. */
export function stackOf(paths: FleetPaths, repositories: Repositories, record: StackRecord): StackSpec {
  const stamp = repositories.unitsStamp();
  const known = madeStacks.get(record);
  if (known?.stamp === stamp) return known.stack;
  const stack = makeStack(paths, repositories, record);
  madeStacks.set(record, { stamp, stack });
  return stack;
}

function makeStack(paths: FleetPaths, repositories: Repositories, record: StackRecord): StackSpec {
  const levels = record.configs.map((ref) => configLevel(paths, ref));
  for (const id of record.units) {
    const dir = repositories.unitDir(id);
    levels.push({
      kind: 'software',
      id,
      treeDir: join(dir, 'filesystem'),
      indexFile: join(dir, 'index'),
      whiteoutsDir: null,
    });
  }
  return stackOfLevels(levels);
}

export function configLevel(paths: FleetPaths, ref: ConfigRef): LevelSpec {
  const { tree, index, whiteouts } = configPaths(paths, ref);
  return {
    kind: 'config',
    id: `config/${ref.owner}`,
    treeDir: tree,
    indexFile: index,
    whiteoutsDir: whiteouts,
  };
}

export function stackOfLevels(levels: LevelSpec[]): StackSpec {
  return { key: stackKey(levels), levels };
}

function stackKey(levels: LevelSpec[]): string {
  const hash = createHash('sha256');
  for (const level of levels) hash.update(`${level.id}\0${level.treeDir}\0`);
  return hash.digest('hex').slice(0, 32);
}

/** `REPO/LAYER` of units, for messages. */
export function layerOf(id: UnitId): string {
  const { repo, layer } = parseUnitId(id)!;
  return `${repo}/${layer}`;
}
