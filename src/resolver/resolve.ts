/**
 * Resolves one request: targets, clauses, the best solution, Recommends, and what of it is needed. Pure but for the
 * clock that gives elapsedMs.
 */
import { unitId } from '../base/index.ts';
import type { OfferedUnit, ResolveRequest, ResolveResult, SolvedUnit } from './contract.ts';
import { buildCriteria, type Criterion } from './criteria.ts';
import { createEncoding, type Encoding } from './encoding.ts';
import { explainUnsatisfiable } from './explain.ts';
import { keptUnits } from './kept.ts';
import { solveBest, solveGuided } from './optimise.ts';
import type { Preference } from './preference.ts';
import { type Needed, neededVariables } from './reduce.ts';
import { readTargets, type Targets } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { UnitRelations } from './unit-relations.ts';

export function resolveRequest(
  index: UnitIndex,
  relations: UnitRelations,
  request: ResolveRequest,
): ResolveResult {
  const start = performance.now();
  const elapsedMs = (): number => Math.round((performance.now() - start) * 1000) / 1000;
  const read = readTargets(index, request);
  if ('summary' in read) return { ok: false, explanation: read, elapsedMs: elapsedMs() };
  const preference: Preference = { upgrade: request.upgrade ?? 'none', installed: read.installed };
  const encoding = createEncoding(index, relations, read.targets, preference);
  const kept = keptUnits(index, relations, read);
  for (const unit of kept) encoding.reach(unit);
  if (solveBest(encoding, buildCriteria(encoding, read.targets, kept)) === 'unsat') {
    return { ok: false, explanation: explainUnsatisfiable(index, relations, read), elapsedMs: elapsedMs() };
  }
  let needed = neededVariables(encoding);
  if (request.recommends) needed = addRecommended(encoding, read, kept, needed);
  return { ok: true, ...describe(encoding, read, needed), elapsedMs: elapsedMs() };
}

/**
 * Adds what newly added units recommend, and what that recommends, each only if it goes together with all that is
 * chosen already. As apt: not for layers that were installed before, nor for what only the base of a repository brings.
 */
function addRecommended(encoding: Encoding, read: Targets, kept: ReadonlySet<number>, first: Needed): Needed {
  const { index } = encoding;
  const asked = new Set<number>();
  let needed = first;
  const bases = [...needed.keys()].filter((v) => encoding.isBase(v));
  const base = neededVariables(encoding, { hardFrom: bases });
  const wished = new Set(read.targets.map((target) => target.layer));
  for (;;) {
    const asking: number[] = [];
    for (const v of needed.keys()) {
      const unit = encoding.unitOf(v);
      if (unit < 0 || asked.has(unit)) continue;
      asked.add(unit);
      const { layer } = index.units[unit]!;
      if (encoding.preference.installed.has(layer)) continue;
      if (base.has(v) && !wished.has(layer)) continue;
      asking.push(unit);
    }
    if (asking.length === 0) return needed;
    encoding.solver.reset();
    for (const v of needed.keys()) encoding.solver.addClause([2 * v]);
    for (const unit of asking) encoding.addRecommends(unit);
    const criteria: Criterion[] = buildCriteria(encoding, read.targets, kept);
    solveGuided(encoding, criteria);
    needed = neededVariables(encoding, { keep: needed });
  }
}

type Description = Pick<Extract<ResolveResult, { ok: true }>, 'units' | 'added' | 'removed' | 'changed'>;

/** Explicit units in the order of the wishes, then the others by name; and what that changes. */
function describe(encoding: Encoding, read: Targets, needed: Needed): Description {
  const { index } = encoding;
  const place = new Map<string, number>();
  for (const target of read.targets) if (!place.has(target.layer)) place.set(target.layer, place.size);
  const wished = new Set(read.targets.filter((t) => t.kind === 'wish').map((t) => t.layer));
  const units: SolvedUnit[] = [];
  for (const [v, cause] of needed) {
    const id = encoding.unitOf(v);
    if (id < 0) continue;
    const unit = index.units[id]!;
    const explicit = wished.has(unit.layer);
    units.push({
      unit,
      explicit,
      reason: explicit || !cause ? null : reasonOf(encoding, cause.owner, cause.need.need),
    });
  }
  units.sort((a, b) => {
    const x = place.get(a.unit.layer) ?? place.size;
    const y = place.get(b.unit.layer) ?? place.size;
    return x - y || (a.unit.layer < b.unit.layer ? -1 : 1);
  });
  return { units, ...compare(read, units) };
}

function reasonOf(
  encoding: Encoding,
  owner: number,
  need: { kind: string; text: string },
): SolvedUnit['reason'] {
  const id = encoding.unitOf(owner);
  if (id < 0) return encoding.isBase(owner) ? { requiredBy: null, relation: 'essential' } : null;
  const relation = need.kind === 'recommends' ? `${need.text} (recommended)` : need.text;
  return { requiredBy: idOf(encoding.index.units[id]!), relation };
}

function idOf(unit: OfferedUnit): string {
  return unitId(unit.repo, unit.layer, unit.version);
}

function compare(
  read: Targets,
  units: readonly SolvedUnit[],
): Pick<Description, 'added' | 'removed' | 'changed'> {
  const added: string[] = [];
  const changed: Description['changed'] = [];
  const present = new Set<string>();
  for (const { unit } of units) {
    present.add(unit.layer);
    const before = read.installed.get(unit.layer);
    if (!before) added.push(idOf(unit));
    else if (before.version !== unit.version || before.repo !== unit.repo)
      changed.push({ layer: unit.layer, from: before.version, to: unit.version });
  }
  const removed = [...read.installed.values()]
    .filter((before) => !present.has(before.layer))
    .map((before) => unitId(before.repo, before.layer, before.version) as string);
  return {
    added: added.sort(),
    removed: removed.sort(),
    changed: changed.sort((a, b) => (a.layer < b.layer ? -1 : 1)),
  };
}
