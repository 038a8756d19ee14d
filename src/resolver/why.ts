/** Why a layer is in a solution: the shortest chain of relations from an explicit unit, or from the base. */
import { unitId } from '../base/index.ts';
import type { OfferedUnit, SolvedUnit } from './contract.ts';
import type { UnitIndex } from './unit-index.ts';
import type { Need, UnitRelations } from './unit-relations.ts';

interface Step {
  from: number;
  need: Need;
}

/** Lines for people, from the explicit unit to `layer`; [] when `layer` is not in the solution. */
export function explainPresence(
  index: UnitIndex,
  relations: UnitRelations,
  solution: readonly SolvedUnit[],
  layer: string,
): string[] {
  const wanted = solution.find((s) => s.unit.layer === layer);
  if (!wanted) return [];
  if (wanted.explicit) return [`${label(wanted.unit)} is an explicit layer`];
  const repositories = [...new Set(solution.map((s) => s.unit.repo))].sort();
  const base = repositories.flatMap((repo) => relations.essentials(repo));
  if (base.some((need) => need.name === layer)) return [baseLine(wanted.unit)];
  const present = new Map<number, SolvedUnit>();
  for (const solved of solution) {
    const id = findUnit(index, solved.unit);
    if (id >= 0) present.set(id, solved);
  }
  const goal = findUnit(index, wanted.unit);
  const explicit = [...present].filter(([, solved]) => solved.explicit).map(([id]) => id);
  for (const withRecommends of [false, true]) {
    const chain = shortestChain(relations, { present, roots: explicit, goal, withRecommends });
    if (chain) return render(index, chain, goal, (unit) => `${label(unit)} is an explicit layer`);
  }
  const roots = base.flatMap((need) => need.candidates.filter((id) => present.has(id)));
  const chain = shortestChain(relations, { present, roots, goal, withRecommends: true });
  if (chain) return render(index, chain, goal, baseLine);
  return [`${label(wanted.unit)} is held, or nothing needs it any more`];
}

function baseLine(unit: OfferedUnit): string {
  return `${label(unit)} belongs to the base of its repository (essential)`;
}

interface Search {
  present: ReadonlyMap<number, SolvedUnit>;
  roots: readonly number[];
  goal: number;
  withRecommends: boolean;
}

function shortestChain(
  relations: UnitRelations,
  { present, roots, goal, withRecommends }: Search,
): Step[] | null {
  const reached = new Map<number, Step | null>();
  const queue: number[] = [];
  for (const id of roots) {
    reached.set(id, null);
    queue.push(id);
  }
  for (let head = 0; head < queue.length && !reached.has(goal); head++) {
    const from = queue[head]!;
    const needs = withRecommends
      ? [...relations.needs(from), ...relations.recommends(from)]
      : relations.needs(from);
    for (const need of needs) {
      for (const id of need.candidates) {
        if (!present.has(id) || reached.has(id)) continue;
        reached.set(id, { from, need });
        queue.push(id);
      }
    }
  }
  if (!reached.has(goal)) return null;
  const chain: Step[] = [];
  for (let step = reached.get(goal); step; step = reached.get(step.from)) chain.unshift(step);
  return chain;
}

function render(
  index: UnitIndex,
  chain: readonly Step[],
  goal: number,
  root: (unit: OfferedUnit) => string,
): string[] {
  const first = index.units[chain[0]?.from ?? goal]!;
  const lines = [root(first)];
  chain.forEach(({ from, need }, i) => {
    const target = index.units[chain[i + 1]?.from ?? goal]!;
    lines.push(`${label(index.units[from]!)} ${verb(need)} ${need.text}${viaProvider(need.text, target)}`);
  });
  return lines;
}

function verb(need: Need): string {
  return need.kind === 'recommends' ? 'recommends' : 'depends on';
}

/** Says who satisfies the relation when its text does not name that layer. */
function viaProvider(text: string, target: OfferedUnit): string {
  const named = text.split('|').some((part) => part.trim().split(/[\s:(]/)[0] === target.layer);
  return named ? '' : `, which ${label(target)} provides`;
}

function label(unit: OfferedUnit): string {
  return unitId(unit.repo, unit.layer, unit.version);
}

function findUnit(index: UnitIndex, unit: OfferedUnit): number {
  return (
    index.ofLayer(unit.layer).find((id) => {
      const offered = index.units[id]!;
      return offered.version === unit.version && offered.repo === unit.repo;
    }) ?? -1
  );
}
