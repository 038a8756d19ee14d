/**
 * The offered units, indexed by layer name and by provided name. Built in one pass that parses nothing but the names in
 * Provides; all other relations are parsed when first asked for, and kept (unit-relations.ts).
 * Everything it gives is in an order that does not depend on the order of the records.
 */
import { compareVersions, parseRelations } from '../formats/index.ts';
import type { OfferedUnit } from './contract.ts';

export interface UniverseOptions {
  /** Repositories, the preferred first. Those not named follow, by name. */
  repositories?: readonly string[];
}

/** What one unit provides: a name, and the version when it states one. */
export interface Provision {
  name: string;
  version: string | undefined;
}

/** Units are numbers: places in `units`. */
export interface UnitIndex {
  readonly units: readonly OfferedUnit[];
  /** Units without exact duplicates (same repository, layer and version). */
  readonly size: number;
  /** The architecture of this universe, `all` aside. */
  readonly architecture: string | undefined;
  /** Units of a layer, newest first, then by repository. */
  ofLayer(layer: string): readonly number[];
  /** Units that provide `name`, by repository, layer, then newest first. */
  providersOf(name: string): readonly number[];
  provisions(unit: number): readonly Provision[];
  repositoryRank(repo: string): number;
  /** The layers that every appliance with units of `repo` must have: Essential or of priority required. */
  essentialLayers(repo: string): readonly string[];
  layerNames(): Iterable<string>;
  hasRepository(repo: string): boolean;
}

const NO_UNITS: readonly number[] = [];
const NO_PROVISIONS: readonly Provision[] = [];

export function createUnitIndex(units: readonly OfferedUnit[], options: UniverseOptions = {}): UnitIndex {
  const byLayer = new Map<string, number[]>();
  const byProvided = new Map<string, number[]>();
  const sortedProviders = new Set<string>();
  const essentialCandidates = new Map<string, Set<string>>();
  const architectures = new Map<string, number>();
  const repositories = new Set<string>();
  const provisionsOf: (readonly Provision[] | undefined)[] = new Array(units.length);

  units.forEach((unit, id) => {
    append(byLayer, unit.layer, id);
    if (unit.provides !== undefined) {
      for (const name of providedNames(unit.provides)) append(byProvided, name, id);
    }
    if (isEssential(unit)) {
      const layers = essentialCandidates.get(unit.repo);
      if (layers) layers.add(unit.layer);
      else essentialCandidates.set(unit.repo, new Set([unit.layer]));
    }
    repositories.add(unit.repo);
    const architecture = unit.architecture;
    if (architecture !== undefined && architecture !== 'all') {
      architectures.set(architecture, (architectures.get(architecture) ?? 0) + 1);
    }
  });

  const ranks = new Map<string, number>();
  for (const repo of [...(options.repositories ?? []), ...[...repositories].sort()]) {
    if (!ranks.has(repo)) ranks.set(repo, ranks.size);
  }
  const rank = (repo: string): number => ranks.get(repo) ?? ranks.size;
  const duplicates = new Set<number>();
  for (const [layer, ids] of byLayer) {
    if (ids.length < 2) continue;
    ids.sort((a, b) => newestFirst(units[a]!, units[b]!, rank));
    const distinct = ids.filter((id, i) => i === 0 || !isSameUnit(units[id]!, units[ids[i - 1]!]!));
    if (distinct.length === ids.length) continue;
    byLayer.set(layer, distinct);
    const kept = new Set(distinct);
    for (const id of ids) if (!kept.has(id)) duplicates.add(id);
  }
  const architecture = [...architectures].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0]?.[0];
  const ofLayer = (layer: string): readonly number[] => byLayer.get(layer) ?? NO_UNITS;
  const essentials = new Map<string, readonly string[]>();

  return {
    units,
    size: units.length - duplicates.size,
    architecture,
    ofLayer,
    repositoryRank: rank,
    layerNames: () => byLayer.keys(),
    hasRepository: (repo) => repositories.has(repo),
    providersOf(name) {
      const ids = byProvided.get(name);
      if (!ids) return NO_UNITS;
      if (sortedProviders.has(name)) return ids;
      const kept = [...new Set(ids)]
        .filter((id) => !duplicates.has(id))
        .sort((a, b) => {
          const x = units[a]!;
          const y = units[b]!;
          if (x.repo !== y.repo) return rank(x.repo) - rank(y.repo);
          if (x.layer !== y.layer) return x.layer < y.layer ? -1 : 1;
          return newestFirst(x, y, rank);
        });
      byProvided.set(name, kept);
      sortedProviders.add(name);
      return kept;
    },
    provisions(unit) {
      let known = provisionsOf[unit];
      if (known === undefined) {
        known = parseProvisions(units[unit]!.provides);
        provisionsOf[unit] = known;
      }
      return known;
    },
    essentialLayers(repo) {
      let layers = essentials.get(repo);
      if (layers === undefined) {
        layers = [...(essentialCandidates.get(repo) ?? [])]
          .filter((layer) => {
            const newest = ofLayer(layer).find((id) => units[id]!.repo === repo);
            return newest !== undefined && isEssential(units[newest]!);
          })
          .sort();
        essentials.set(repo, layers);
      }
      return layers;
    },
  };
}

function append(map: Map<string, number[]>, key: string, id: number): void {
  const list = map.get(key);
  if (list) list.push(id);
  else map.set(key, [id]);
}

function isEssential(unit: OfferedUnit): boolean {
  return unit.essential === true || unit.priority === 'required';
}

function isSameUnit(a: OfferedUnit, b: OfferedUnit): boolean {
  return a.version === b.version && a.repo === b.repo;
}

/** Newest first; of equal versions the preferred repository; of exact duplicates the same one whatever the input's order. */
function newestFirst(a: OfferedUnit, b: OfferedUnit, rank: (repo: string) => number): number {
  const order = compareVersions(b.version, a.version) || rank(a.repo) - rank(b.repo);
  if (order !== 0) return order;
  if (a.version !== b.version) return a.version < b.version ? -1 : 1;
  const x = canonical(a);
  const y = canonical(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

function canonical(unit: OfferedUnit): string {
  return JSON.stringify(Object.entries(unit).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Names in a Provides field, without a parser: up to the first character that is no name's. */
function providedNames(text: string): string[] {
  if (!text.includes(',')) return [providedName(text)];
  return text.split(',').map(providedName);
}

function providedName(item: string): string {
  const name = item.trim();
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    if (c <= 32 || c === 40 /* ( */ || c === 58 /* : */) return name.slice(0, i);
  }
  return name;
}

/** What cannot be read provides nothing. */
function parseProvisions(text: string | undefined): readonly Provision[] {
  if (text === undefined) return NO_PROVISIONS;
  try {
    return parseRelations(text).flatMap((alternatives) =>
      alternatives.map((r) => ({ name: r.name, version: r.op === '=' ? r.version : undefined })),
    );
  } catch {
    return NO_PROVISIONS;
  }
}
