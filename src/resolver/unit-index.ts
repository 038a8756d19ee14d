/**
 * The offered units of all repositories, by layer name and by provided name: the parts' indexes joined, name by name,
 * when a name is first asked for. Everything it gives is in an order that does not depend on the order of the records.
 */
import { compareVersions } from '../formats/index.ts';
import type { OfferedUnit } from './contract.ts';
import { indexPart, isEssential, type PartIndex, type Provision } from './part-index.ts';

export interface UniverseOptions {
  /** Repositories, the preferred first. Those not named follow, by name. */
  repositories?: readonly string[];
  /** Layers that a need takes before its other candidates, except what is installed. */
  preferredLayers?: ReadonlySet<string>;
}

/** Units are numbers: places in `units`. */
export interface UnitIndex {
  readonly units: readonly OfferedUnit[];
  /** The architecture of this universe, `all` aside. */
  readonly architecture: string | undefined;
  /** Units of a layer, newest first, then by repository; no exact duplicates (same repository, layer and version). */
  ofLayer(layer: string): readonly number[];
  /** Units that provide `name`, by repository, layer, then newest first. */
  providersOf(name: string): readonly number[];
  provisions(unit: number): readonly Provision[];
  /** The layers that every appliance with units of `repo` must have: Essential or of priority required. */
  essentialLayers(repo: string): readonly string[];
  layerNames(): Iterable<string>;
  hasRepository(repo: string): boolean;
  isPreferred(layer: string): boolean;
}

const NO_UNITS: readonly number[] = [];

interface Joined {
  part: PartIndex;
  /** Place of the part's first unit in `units`. */
  offset: number;
}

export function createUnitIndex(
  lists: readonly (readonly OfferedUnit[])[],
  options: UniverseOptions = {},
): UnitIndex {
  const parts: Joined[] = [];
  let total = 0;
  for (const list of lists) {
    parts.push({ part: indexPart(list), offset: total });
    total += list.length;
  }
  const units = lists.length === 1 ? lists[0]! : lists.flat();
  const repositories = new Set(parts.flatMap(({ part }) => [...part.repositories]));
  const rank = rankOf([...(options.repositories ?? []), ...[...repositories].sort()]);
  const layers = new Map<string, readonly number[]>();
  const providers = new Map<string, readonly number[]>();
  const essentials = new Map<string, readonly string[]>();

  /** All places of `name` in one of the maps of the parts. */
  function gather(of: (part: PartIndex) => readonly number[] | undefined): number[] {
    const found: number[] = [];
    for (const { part, offset } of parts)
      for (const place of of(part) ?? NO_UNITS) found.push(offset + place);
    return found;
  }

  function ofLayer(layer: string): readonly number[] {
    const known = layers.get(layer);
    if (known) return known;
    const found = gather((part) => part.byLayer.get(layer));
    if (found.length === 0) return NO_UNITS;
    found.sort((a, b) => newestFirst(units[a]!, units[b]!, rank));
    const distinct = found.filter((id, i) => i === 0 || !isSameUnit(units[id]!, units[found[i - 1]!]!));
    layers.set(layer, distinct);
    return distinct;
  }

  /** Whether `id` is not the duplicate of another. */
  function isDistinct(id: number): boolean {
    const { layer } = units[id]!;
    let count = 0;
    for (const { part } of parts) count += part.byLayer.get(layer)?.length ?? 0;
    return count < 2 || ofLayer(layer).length === count || ofLayer(layer).includes(id);
  }

  function providersOf(name: string): readonly number[] {
    const known = providers.get(name);
    if (known) return known;
    const found = gather((part) => part.byProvided.get(name));
    if (found.length === 0) return NO_UNITS;
    const sorted = found.filter(isDistinct).sort((a, b) => {
      const x = units[a]!;
      const y = units[b]!;
      if (x.repo !== y.repo) return rank(x.repo) - rank(y.repo);
      if (x.layer !== y.layer) return x.layer < y.layer ? -1 : 1;
      return newestFirst(x, y, rank);
    });
    providers.set(name, sorted);
    return sorted;
  }

  return {
    units,
    architecture: mainArchitecture(parts),
    ofLayer,
    providersOf,
    layerNames: () => new Set(parts.flatMap(({ part }) => [...part.byLayer.keys()])),
    hasRepository: (repo) => repositories.has(repo),
    isPreferred: (layer) => options.preferredLayers?.has(layer) === true,
    provisions(unit) {
      const { part, offset } = parts.findLast((joined) => joined.offset <= unit)!;
      return part.provisions(unit - offset);
    },
    essentialLayers(repo) {
      let found = essentials.get(repo);
      if (found === undefined) {
        const candidates = new Set(parts.flatMap(({ part }) => [...(part.essential.get(repo) ?? [])]));
        found = [...candidates]
          .filter((layer) => {
            const newest = ofLayer(layer).find((id) => units[id]!.repo === repo);
            return newest !== undefined && isEssential(units[newest]!);
          })
          .sort();
        essentials.set(repo, found);
      }
      return found;
    },
  };
}

function rankOf(repositories: readonly string[]): (repo: string) => number {
  const ranks = new Map<string, number>();
  for (const repo of repositories) if (!ranks.has(repo)) ranks.set(repo, ranks.size);
  return (repo) => ranks.get(repo)!;
}

/** The most frequent architecture; of equally frequent ones the first by name. */
function mainArchitecture(parts: readonly Joined[]): string | undefined {
  const counts = new Map<string, number>();
  for (const { part } of parts) {
    for (const [name, count] of part.architectures) counts.set(name, (counts.get(name) ?? 0) + count);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0]?.[0];
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
