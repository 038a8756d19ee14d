/**
 * The countable criteria of "best", as literals that should hold, the most important criterion first:
 * no downgrade; no change to what is installed; explicit layers at their newest; everything else at its newest.
 * Each literal that does not hold costs one. At most one unit of a layer is in, so a criterion counts layers.
 */
import { compareVersions } from '../formats/index.ts';
import type { Encoding } from './encoding.ts';
import { isNewest } from './preference.ts';
import type { Target } from './targets.ts';

/** One criterion: wished literals, in the order in which they are tried. */
export type Criterion = readonly number[];

/** The criteria for what is encoded so far. `kept` are the installed units that should stay as they are. */
export function buildCriteria(
  encoding: Encoding,
  targets: readonly Target[],
  kept: ReadonlySet<number>,
): Criterion[] {
  const { index, preference } = encoding;
  const byLayer = new Map<string, number[]>();
  for (const unit of encoding.units) {
    const layer = index.units[unit]!.layer;
    const list = byLayer.get(layer);
    if (list) list.push(unit);
    else byLayer.set(layer, [unit]);
  }
  const explicit = new Map<string, Target>();
  for (const target of targets) {
    if (target.kind === 'hold') explicit.set(target.layer, target);
    else if (!explicit.has(target.layer)) explicit.set(target.layer, target);
  }
  const not = (unit: number): number => 2 * encoding.variableOf(unit) + 1;
  const downgrades: number[] = [];
  const newestExplicit: number[] = [];
  const newestOther: number[] = [];

  for (const layer of [...explicit.keys(), ...[...byLayer.keys()].filter((l) => !explicit.has(l)).sort()]) {
    const units = byLayer.get(layer) ?? [];
    const installed = preference.installed.get(layer);
    const target = explicit.get(layer);
    if (units.length > 1) {
      const place = new Map(index.ofLayer(layer).map((id, i) => [id, i]));
      units.sort((a, b) => place.get(a)! - place.get(b)!);
    }
    const candidates = new Set(target?.candidates);
    const best = units.find((id) => candidates.has(id));
    // The oldest first: the search gives up the literals that come last, so of two old versions it takes the newer.
    for (const id of units.reverse()) {
      const version = index.units[id]!.version;
      if (installed && compareVersions(version, installed.version) < 0) downgrades.push(not(id));
      if (installed && installed.unit === id && preference.upgrade === 'none') continue;
      if (target) {
        const isBest = best !== undefined && compareVersions(version, index.units[best]!.version) >= 0;
        if (!isBest) newestExplicit.push(not(id));
      } else if (!isNewest(index, id)) newestOther.push(not(id));
    }
  }
  const changes =
    preference.upgrade === 'none'
      ? [...kept]
          .sort((a, b) => (index.units[a]!.layer < index.units[b]!.layer ? -1 : 1))
          .map((unit) => 2 * encoding.variableOf(unit))
      : [];
  return [downgrades, changes, newestExplicit, newestOther];
}

/** How many literals of a criterion do not hold in the solver's assignment; an unassigned variable counts as false. */
export function countBroken(encoding: Encoding, criterion: Criterion): number {
  const { values } = encoding.solver;
  let broken = 0;
  for (const lit of criterion) {
    const holds = lit & 1 ? values[lit ^ 1]! <= 0 : values[lit]! > 0;
    if (!holds) broken++;
  }
  return broken;
}
