/**
 * The order in which maintainer scripts run. Pure. It keeps true: a unit's pre-install runs after everything that it pre-depends on
 * is configured; all other ordering is dpkg's own.
 */
import { type Alternatives, parseRelations } from '../../formats/index.ts';
import type { UnitFacts } from './unit-facts.ts';

export interface Stage {
  /** Units whose pre-install runs in this stage, pre-dependencies first. */
  preInstall: UnitFacts[];
  /** Units to configure at the end of it; null means everything that is left. */
  configure: UnitFacts[] | null;
}

export interface DependencyGraph {
  preDepends(unit: UnitFacts): UnitFacts[];
  depends(unit: UnitFacts): UnitFacts[];
}

/** Who needs whom among `units`; of alternatives the first that is there counts. Versions were the resolver's work. */
export function dependencyGraph(units: UnitFacts[]): DependencyGraph {
  const byName = new Map<string, UnitFacts[]>();
  const put = (name: string, unit: UnitFacts) => {
    const there = byName.get(name);
    if (there === undefined) byName.set(name, [unit]);
    else there.push(unit);
  };
  for (const unit of units) put(unit.layer, unit);
  for (const unit of units)
    for (const [provided] of parseRelations(unit.metadata.provides ?? ''))
      if (provided) put(provided.name, unit);
  const resolve = (unit: UnitFacts, groups: Alternatives[]): UnitFacts[] => {
    const found: UnitFacts[] = [];
    for (const group of groups) {
      const target = group.map(({ name }) => byName.get(name)?.[0]).find((u) => u !== undefined);
      if (target !== undefined && target !== unit) found.push(target);
    }
    return found;
  };
  const memo = (field: 'depends' | 'preDepends') => {
    const cache = new Map<UnitFacts, UnitFacts[]>();
    return (unit: UnitFacts) => {
      let found = cache.get(unit);
      if (found === undefined) {
        found = resolve(unit, parseRelations(unit.metadata[field] ?? ''));
        cache.set(unit, found);
      }
      return found;
    };
  };
  return { preDepends: memo('preDepends'), depends: memo('depends') };
}

/** `from` and everything that it needs, directly or not. */
function closure(graph: DependencyGraph, from: UnitFacts[]): Set<UnitFacts> {
  const seen = new Set<UnitFacts>(from);
  const queue = [...from];
  for (let unit = queue.pop(); unit !== undefined; unit = queue.pop()) {
    for (const next of [...graph.preDepends(unit), ...graph.depends(unit)]) {
      if (seen.has(next)) continue;
      seen.add(next);
      queue.push(next);
    }
  }
  return seen;
}

/** Units in an order in which each comes after what it needs, as far as there is no cycle. */
export function dependencyOrder(graph: DependencyGraph, units: UnitFacts[]): UnitFacts[] {
  const wanted = new Set(units);
  const done = new Set<UnitFacts>();
  const ordered: UnitFacts[] = [];
  const visit = (start: UnitFacts) => {
    const stack: { unit: UnitFacts; needs: UnitFacts[]; next: number }[] = [];
    const enter = (unit: UnitFacts) => {
      done.add(unit);
      stack.push({ unit, needs: [...graph.preDepends(unit), ...graph.depends(unit)], next: 0 });
    };
    if (!done.has(start)) enter(start);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const need = top.needs[top.next++];
      if (need === undefined) {
        ordered.push(top.unit);
        stack.pop();
      } else if (wanted.has(need) && !done.has(need)) enter(need);
    }
  };
  for (const unit of units) visit(unit);
  return ordered;
}

/** The units that a bootstrap configures before all others: essential and required ones, and what those need. */
export function bootstrapSet(graph: DependencyGraph, units: UnitFacts[]): UnitFacts[] {
  const core = units.filter((u) => u.metadata.essential || u.metadata.priority === 'required');
  return [...closure(graph, core)];
}

/**
 * The stages for units that are new or upgraded. `settled` units are configured already. Units of a pre-dependency cycle
 * come into one stage.
 */
export function stages(graph: DependencyGraph, units: UnitFacts[], settled: ReadonlySet<UnitFacts>): Stage[] {
  const open = new Set(units.filter((unit) => !settled.has(unit)));
  const needs = new Map<UnitFacts, UnitFacts[]>();
  const needsOf = (unit: UnitFacts): UnitFacts[] => {
    let found = needs.get(unit);
    if (found === undefined) {
      found = [...closure(graph, graph.preDepends(unit))].filter((u) => open.has(u) && u !== unit);
      needs.set(unit, found);
    }
    return found;
  };
  const withScript = dependencyOrder(graph, [...open]).filter((u) => u.scripts.has('pre-install'));
  const stageOf = new Map<UnitFacts, number>();
  const stage = (unit: UnitFacts): number => {
    const known = stageOf.get(unit);
    if (known !== undefined) return known;
    stageOf.set(unit, 0);
    let found = 0;
    for (const need of needsOf(unit))
      found = Math.max(found, 1 + (need.scripts.has('pre-install') ? stage(need) : 0));
    stageOf.set(unit, found);
    return found;
  };
  const last = withScript.reduce((max, unit) => Math.max(max, stage(unit)), 0);
  const result: Stage[] = [];
  const configured = new Set<UnitFacts>();
  for (let i = 0; i <= last; i++) {
    const next = withScript.filter((u) => stageOf.get(u) === i + 1);
    const configure = [...new Set(next.flatMap(needsOf))].filter((u) => !configured.has(u));
    for (const unit of configure) configured.add(unit);
    result.push({
      preInstall: withScript.filter((u) => stageOf.get(u) === i),
      configure: i === last ? null : configure,
    });
  }
  return result;
}
