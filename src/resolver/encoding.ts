/**
 * The clauses of one request: a variable for each unit that the request can reach, one for each target, and one for
 * each repository's base. Grows on demand: asking for a unit's literal encodes that unit and all it can reach.
 * It keeps, beside the clauses, which needs belong to which variable, for the decider and the reduction.
 */
import { orderCandidates, type Preference } from './preference.ts';
import { Solver } from './sat/solver.ts';
import type { Target } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { Need, UnitRelations } from './unit-relations.ts';

/** A need as literals: one of `candidates` (variables, the preferred first) must be true when the owner is. */
export interface EncodedNeed {
  need: Need;
  candidates: readonly number[];
  /** All candidates are units of one layer: only the version is open. */
  oneLayer: boolean;
}

export interface Encoding {
  readonly solver: Solver;
  readonly index: UnitIndex;
  readonly preference: Preference;
  /** The unit of a variable; -1 for a target, a base or an auxiliary variable. */
  unitOf(variable: number): number;
  /** The variable of a unit; -1 when the request does not reach it. */
  variableOf(unit: number): number;
  /** The hard needs of a variable. */
  needsOf(variable: number): readonly EncodedNeed[];
  /** Needs that may fail (Recommends). */
  softNeedsOf(variable: number): readonly EncodedNeed[];
  /** The base variable that a unit's repository brings, or -1. */
  baseOf(variable: number): number;
  isBase(variable: number): boolean;
  /** Variables of targets, in the order of the request. */
  readonly targets: readonly number[];
  /** Units in the order of encoding. */
  readonly units: readonly number[];
  /** Makes the unit and all it can reach part of the clauses. */
  reach(unit: number): void;
  /** Adds the Recommends of a unit as soft needs, with all they can reach. */
  addRecommends(unit: number): void;
}

/** From here on a layer's units exclude each other through auxiliary variables, pairwise clauses being too many. */
const PAIRWISE = 8;
const NO_NEEDS: readonly EncodedNeed[] = [];

export function createEncoding(
  index: UnitIndex,
  relations: UnitRelations,
  targets: readonly Target[],
  preference: Preference,
): Encoding {
  const solver = new Solver();
  const variables = new Map<number, number>();
  const unitsOfVariables: number[] = [];
  const needs: (readonly EncodedNeed[] | undefined)[] = [];
  const softNeeds: (readonly EncodedNeed[] | undefined)[] = [];
  const bases = new Map<string, number>();
  const baseVariables = new Set<number>();
  const layers = new Map<string, { variables: number[]; some: number }>();
  /** Exclusions of units that have a variable against units that have none yet. */
  const awaited = new Map<number, number[]>();
  const queue: number[] = [];
  const units: number[] = [];

  function newVariable(unit: number): number {
    const v = solver.newVariable();
    unitsOfVariables[v] = unit;
    return v;
  }

  function variableFor(unit: number): number {
    let v = variables.get(unit);
    if (v !== undefined) return v;
    v = newVariable(unit);
    variables.set(unit, v);
    units.push(unit);
    queue.push(unit);
    for (const other of awaited.get(unit) ?? []) exclude(v, other);
    awaited.delete(unit);
    excludeVersions(index.units[unit]!.layer, v);
    return v;
  }

  function exclude(a: number, b: number): void {
    solver.addBinary(2 * a + 1, 2 * b + 1);
  }

  /** At most one unit of a layer: pairwise at first, then a ladder, `some` being true when any unit so far is. */
  function excludeVersions(layer: string, v: number): void {
    const known = layers.get(layer);
    if (!known) {
      layers.set(layer, { variables: [v], some: -1 });
      return;
    }
    if (known.variables.length < PAIRWISE) {
      for (const other of known.variables) exclude(v, other);
      known.variables.push(v);
      return;
    }
    if (known.some < 0) {
      known.some = newVariable(-1);
      for (const other of known.variables) solver.addBinary(2 * other + 1, 2 * known.some);
    }
    exclude(v, known.some);
    const some = newVariable(-1);
    solver.addBinary(2 * known.some + 1, 2 * some);
    solver.addBinary(2 * v + 1, 2 * some);
    known.variables.push(v);
    known.some = some;
  }

  function encodeNeed(need: Need, candidates: readonly number[]): EncodedNeed {
    const ordered = orderCandidates(index, preference, candidates);
    const layer = ordered.length === 0 ? '' : index.units[ordered[0]!]!.layer;
    return {
      need,
      candidates: ordered.map(variableFor),
      oneLayer: ordered.every((id) => index.units[id]!.layer === layer),
    };
  }

  function encodeNeeds(owner: number, list: readonly Need[]): void {
    if (list.length === 0) return;
    const encoded = list.map((need) => encodeNeed(need, need.candidates));
    needs[owner] = encoded;
    for (const { candidates } of encoded) {
      if (candidates.length === 1) solver.addBinary(2 * owner + 1, 2 * candidates[0]!);
      else solver.addClause([2 * owner + 1, ...candidates.map((v) => 2 * v)]);
    }
  }

  function baseFor(repo: string): number {
    const essentials = relations.essentials(repo);
    if (essentials.length === 0) return -1;
    let base = bases.get(repo);
    if (base === undefined) {
      base = newVariable(-1);
      bases.set(repo, base);
      baseVariables.add(base);
      encodeNeeds(base, essentials);
    }
    return base;
  }

  function encodeUnit(unit: number): void {
    const v = variables.get(unit)!;
    const { repo, layer } = index.units[unit]!;
    const base = baseFor(repo);
    if (base >= 0) solver.addBinary(2 * v + 1, 2 * base);
    encodeNeeds(v, relations.needs(unit));
    relations.eachExcluded(unit, (other) => {
      const known = variables.get(other);
      if (known !== undefined) exclude(v, known);
      else if (awaited.has(other)) awaited.get(other)!.push(v);
      else awaited.set(other, [v]);
    });
    if (preference.installed.has(layer)) keepRecommended(v, unit);
  }

  /** What an installed layer recommends and is installed too stays, whatever the request says of Recommends. */
  function keepRecommended(v: number, unit: number): void {
    const kept: EncodedNeed[] = [];
    for (const need of relations.recommends(unit)) {
      const candidates = need.candidates.filter((id) => preference.installed.has(index.units[id]!.layer));
      if (candidates.length > 0) kept.push(encodeNeed(need, candidates));
    }
    if (kept.length > 0) softNeeds[v] = kept;
  }

  function drain(): void {
    solver.reset();
    for (let unit = queue.pop(); unit !== undefined; unit = queue.pop()) encodeUnit(unit);
  }

  const targetVariables = targets.map((target) => {
    const v = newVariable(-1);
    const need: Need = {
      kind: target.kind,
      text: target.label,
      name: target.layer,
      candidates: target.candidates,
    };
    encodeNeeds(v, [need]);
    solver.addClause([2 * v]);
    drain();
    return v;
  });

  return {
    solver,
    index,
    preference,
    targets: targetVariables,
    units,
    unitOf: (v) => unitsOfVariables[v] ?? -1,
    variableOf: (unit) => variables.get(unit) ?? -1,
    needsOf: (v) => needs[v] ?? NO_NEEDS,
    softNeedsOf: (v) => softNeeds[v] ?? NO_NEEDS,
    isBase: (v) => baseVariables.has(v),
    baseOf(v) {
      const unit = unitsOfVariables[v] ?? -1;
      return unit < 0 ? -1 : (bases.get(index.units[unit]!.repo) ?? -1);
    },
    reach(unit) {
      variableFor(unit);
      drain();
    },
    addRecommends(unit) {
      const v = variableFor(unit);
      const list = relations.recommends(unit).filter((need) => need.candidates.length > 0);
      if (list.length > 0) softNeeds[v] = list.map((need) => encodeNeed(need, need.candidates));
      drain();
    },
  };
}
