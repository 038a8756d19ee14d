/**
 * The facts that make a request impossible: a minimal set, as near to the request as possible. Each relation that the
 * request reaches is one fact behind its own selector; the solver's final-conflict core, taken at the least depth at which
 * there is one, is then made minimal by leaving facts out one by one, the farthest first.
 */
import { Solver } from './sat/solver.ts';
import type { Target, Targets } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { Exclusion, Need, UnitRelations } from './unit-relations.ts';

export type Fact =
  | { kind: 'target'; target: Target }
  | { kind: 'need'; unit: number; need: Need }
  /** A unit of `repo` brings what is essential there. */
  | { kind: 'base'; repo: string }
  | { kind: 'essential'; repo: string; need: Need }
  | { kind: 'exclusion'; unit: number; exclusion: Exclusion; other: number }
  /** Only one unit of a layer can be in. */
  | { kind: 'versions'; layer: string };

/** Assumptions over all solver calls of one explanation, and conflicts of each call. */
const ASSUMPTIONS = 1_500_000;
const CONFLICTS = 5_000;

/**
 * A minimal set of facts that cannot hold together, nearest first. When the bounds do not suffice it is not minimal, or,
 * where not even one contradiction could be found, empty.
 */
export function findCore(index: UnitIndex, relations: UnitRelations, { targets }: Targets): Fact[] {
  const { solver, selectors, depths, facts } = encodeFacts(index, relations, targets);
  const placeOf = new Map(selectors.map((lit, i) => [lit, i]));
  let budget = ASSUMPTIONS;
  /** The facts among `places` that contradict each other, or null. */
  const contradiction = (places: readonly number[]): number[] | null => {
    budget -= places.length;
    if (budget < 0) return null;
    const assumptions = places.map((i) => selectors[i]!);
    if (solver.solve({ assumptions, conflictLimit: CONFLICTS }) !== 'unsat') return null;
    return solver.core.map((lit) => placeOf.get(lit)!).sort((a, b) => a - b);
  };
  let core = nearestContradiction(depths, contradiction);
  const byDistance = (a: number, b: number): number => depths[b]! - depths[a]! || b - a;
  for (const place of [...core].sort(byDistance)) {
    if (budget < core.length) break;
    if (core.includes(place)) core = contradiction(core.filter((i) => i !== place)) ?? core;
  }
  return core.sort((a, b) => depths[a]! - depths[b]! || a - b).map((i) => facts[i]!);
}

/** A contradiction at the least depth at which there is one: doubling, then halving. */
function nearestContradiction(
  depths: readonly number[],
  contradiction: (places: readonly number[]) => number[] | null,
): number[] {
  const deepest = depths.reduce((a, b) => Math.max(a, b), 0);
  const upTo = (depth: number): number[] | null =>
    contradiction(depths.map((_, i) => i).filter((i) => depths[i]! <= depth));
  let core: number[] | null = null;
  let without = -1;
  let depth = 0;
  for (;;) {
    core = upTo(depth);
    if (core || depth >= deepest) break;
    without = depth;
    depth = Math.min(deepest, depth * 2 + 1);
  }
  while (core && depth - without > 1) {
    const middle = (without + depth) >> 1;
    const nearer = upTo(middle);
    if (nearer) {
      core = nearer;
      depth = middle;
    } else without = middle;
  }
  return core ?? [];
}

interface FactProblem {
  solver: Solver;
  facts: Fact[];
  /** By fact: the literal that switches it on, and how many relations it is away from the request. */
  selectors: number[];
  depths: number[];
}

function encodeFacts(index: UnitIndex, relations: UnitRelations, targets: readonly Target[]): FactProblem {
  const solver = new Solver();
  const problem: FactProblem = { solver, facts: [], selectors: [], depths: [] };
  const variables = new Map<number, number>();
  const depthOf = new Map<number, number>();
  const order: number[] = [];
  const bases = new Map<string, { variable: number; selector: number }>();
  const layers = new Map<string, { selector: number; some: number }>();

  const state = (fact: Fact, depth: number): number => {
    const selector = 2 * solver.newVariable();
    problem.facts.push(fact);
    problem.selectors.push(selector);
    problem.depths.push(depth);
    return selector;
  };

  const variableFor = (unit: number, depth: number): number => {
    const known = variables.get(unit);
    if (known !== undefined) return known;
    const v = solver.newVariable();
    variables.set(unit, v);
    depthOf.set(unit, depth);
    order.push(unit);
    excludeOthers(unit, v);
    return v;
  };

  /** A ladder: `some` is true when any unit of the layer so far is. */
  const excludeOthers = (unit: number, v: number): void => {
    const { layer } = index.units[unit]!;
    const known = layers.get(layer);
    if (!known) {
      layers.set(layer, { selector: -1, some: 2 * v });
      return;
    }
    if (known.selector < 0) known.selector = state({ kind: 'versions', layer }, 0);
    solver.addClause([known.selector ^ 1, 2 * v + 1, known.some ^ 1]);
    const some = 2 * solver.newVariable();
    solver.addClause([known.some ^ 1, some]);
    solver.addClause([2 * v + 1, some]);
    known.some = some;
  };

  const require = (selector: number, owner: number, need: Need, depth: number): void => {
    const guard = owner < 0 ? [selector ^ 1] : [selector ^ 1, 2 * owner + 1];
    solver.addClause([...guard, ...need.candidates.map((id) => 2 * variableFor(id, depth))]);
  };

  const bringBase = (unit: number, v: number, depth: number): void => {
    const { repo } = index.units[unit]!;
    const essentials = relations.essentials(repo);
    if (essentials.length === 0) return;
    let base = bases.get(repo);
    if (!base) {
      base = { variable: solver.newVariable(), selector: state({ kind: 'base', repo }, depth) };
      bases.set(repo, base);
      for (const need of essentials) {
        require(state({ kind: 'essential', repo, need }, depth), base.variable, need, depth + 1);
      }
    }
    solver.addClause([base.selector ^ 1, 2 * v + 1, 2 * base.variable]);
  };

  for (const target of targets) {
    const need: Need = {
      kind: target.kind,
      text: target.label,
      name: target.layer,
      candidates: target.candidates,
    };
    require(state({ kind: 'target', target }, 0), -1, need, 0);
  }
  for (let head = 0; head < order.length; head++) {
    const unit = order[head]!;
    const depth = depthOf.get(unit)!;
    const v = variables.get(unit)!;
    for (const need of relations.needs(unit))
      require(state({ kind: 'need', unit, need }, depth), v, need, depth + 1);
    bringBase(unit, v, depth);
  }
  for (const unit of order) {
    relations.eachExcluded(unit, (other, exclusion) => {
      const against = variables.get(other);
      if (against === undefined) return;
      const depth = Math.max(depthOf.get(unit)!, depthOf.get(other)!);
      const selector = state({ kind: 'exclusion', unit, exclusion, other }, depth);
      solver.addClause([selector ^ 1, 2 * variables.get(unit)! + 1, 2 * against + 1]);
    });
  }
  return problem;
}
