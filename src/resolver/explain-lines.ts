/** The words for single facts, and where in a core a unit comes from. */
import { unitId } from '../base/index.ts';
import type { Fact } from './explain-core.ts';
import type { Target } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { Need } from './unit-relations.ts';

/** Who brings each unit of a core in: a target, or another unit's need. */
export type Origins = ReadonlyMap<number, { target: Target } | { from: number }>;

/** Breadth first from the targets over the core's needs. */
export function originsOf(core: readonly Fact[]): Origins {
  const origins = new Map<number, { target: Target } | { from: number }>();
  const queue: number[] = [];
  const bring = (units: readonly number[], origin: { target: Target } | { from: number }): void => {
    for (const id of units) {
      if (origins.has(id)) continue;
      origins.set(id, origin);
      queue.push(id);
    }
  };
  const needs = new Map<number, Need[]>();
  const essentials: Need[] = [];
  for (const fact of core) {
    if (fact.kind === 'target') bring(fact.target.candidates, { target: fact.target });
    else if (fact.kind === 'essential') essentials.push(fact.need);
    else if (fact.kind === 'need') {
      const list = needs.get(fact.unit);
      if (list) list.push(fact.need);
      else needs.set(fact.unit, [fact.need]);
    }
  }
  for (let head = 0; head < queue.length; head++) {
    const from = queue[head]!;
    for (const need of needs.get(from) ?? []) bring(need.candidates, { from });
    if (head === 0) for (const need of essentials) bring(need.candidates, { from });
  }
  return origins;
}

/** The units between a target and `unit`, the target's first; [] when a target asks for `unit` itself. */
export function chainTo(origins: Origins, unit: number): number[] {
  const chain: number[] = [];
  for (let origin = origins.get(unit); origin && 'from' in origin; origin = origins.get(origin.from)) {
    chain.push(origin.from);
  }
  return chain.reverse();
}

export function rootOf(origins: Origins, unit: number): Target | null {
  const origin = origins.get(chainTo(origins, unit)[0] ?? unit);
  return origin && 'target' in origin ? origin.target : null;
}

/** `main/foo`. */
export function layerLabel(index: UnitIndex, id: number): string {
  const unit = index.units[id]!;
  return `${unit.repo}/${unit.layer}`;
}

function label(index: UnitIndex, id: number): string {
  const unit = index.units[id]!;
  return unitId(unit.repo, unit.layer, unit.version);
}

/** The newest offered version of a layer, or null when there is none. */
export function newestOffered(index: UnitIndex, layer: string): string | null {
  const id = index.ofLayer(layer)[0];
  return id === undefined ? null : index.units[id]!.version;
}

/** ` (both provide httpd)`, ` (it provides httpd)`, ` (foo (<< 2))`, or nothing when the name says it all. */
export function exclusionDetail(index: UnitIndex, fact: Extract<Fact, { kind: 'exclusion' }>): string {
  const { name, text } = fact.exclusion;
  const provides = (id: number): boolean => index.provisions(id).some((p) => p.name === name);
  if (index.units[fact.other]!.layer !== name) {
    if (provides(fact.unit)) return ` (both provide ${name})`;
    return ` (${layerLabel(index, fact.other)} provides ${name})`;
  }
  return text === name ? '' : ` (${fact.exclusion.kind}: ${text})`;
}

/** The facts as lines; what is alike for several versions of a layer is told once, for the newest. */
export function chainLines(index: UnitIndex, facts: readonly Fact[]): string[] {
  const told = new Map<string, { lines: string[]; count: number }>();
  for (const fact of facts) {
    const key = alikeKey(index, fact);
    const known = told.get(key);
    if (known) known.count++;
    else told.set(key, { lines: chainLine(index, fact), count: 1 });
  }
  return [...told.values()].flatMap(({ lines, count }) =>
    count === 1 ? lines : [`${lines[0]} (and other versions alike)`, ...lines.slice(1)],
  );
}

function alikeKey(index: UnitIndex, fact: Fact): string {
  if (fact.kind === 'need') return `need ${layerLabel(index, fact.unit)} ${fact.need.name}`;
  if (fact.kind === 'exclusion') {
    return `exclusion ${layerLabel(index, fact.unit)} ${layerLabel(index, fact.other)} ${fact.exclusion.name}`;
  }
  return chainLine(index, fact).join();
}

/** One fact in one or two lines. */
function chainLine(index: UnitIndex, fact: Fact): string[] {
  switch (fact.kind) {
    case 'target':
      return [`${fact.target.label} is ${fact.target.kind === 'hold' ? 'held' : 'asked for'}`];
    case 'need':
      return [`${label(index, fact.unit)} depends on ${fact.need.text}`, ...missing(index, fact)];
    case 'base':
      return [`what is essential in ${fact.repo} must be in, because a layer of ${fact.repo} is`];
    case 'essential':
      return [`${fact.need.name} is essential in ${fact.repo}`];
    case 'exclusion': {
      const detail = exclusionDetail(index, fact);
      const verb = fact.exclusion.kind === 'breaks' ? 'breaks' : 'conflicts with';
      return [`${label(index, fact.unit)} ${verb} ${label(index, fact.other)}${detail}`];
    }
    case 'versions':
      return [`only one version of ${fact.layer} can be in`];
  }
}

function missing(index: UnitIndex, { need }: Extract<Fact, { kind: 'need' }>): string[] {
  if (need.candidates.length > 0 || need.name === '') return [];
  const newest = newestOffered(index, need.name);
  return [`no repository offers ${need.text}${newest === null ? '' : `; newest offered is ${newest}`}`];
}
