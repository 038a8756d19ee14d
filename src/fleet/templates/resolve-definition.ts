/**
 * From what an LDF asks for to the set of units: the referenced templates' layers are taken as they are (an appliance follows its
 * template), own layers are added to them, and the resolver finds the rest. Where several templates disagree about a layer, the
 * resolver chooses. Gives the layers of the definition's own LDF, divided into explicit and implicit.
 */
import { type Progress, parseUnitId, StrataError, type UnitId, unitId } from '../../base/index.ts';
import type { InstalledUnit, ResolveResult, SolvedUnit, Wish } from '../../resolver/contract.ts';
import type { LdfLine } from '../contract.ts';
import type { World } from '../repositories.ts';
import type { Definition } from './generations.ts';
import { explicitLayers, implicitLayers, type Ldf } from './ldf.ts';

/** What must be in the stack. */
export interface WantedLayer {
  repo?: string;
  layer: string;
  version?: string;
  held: boolean;
}

export interface Intent {
  /** For messages: `template web`. */
  what: string;
  explicit: WantedLayer[];
  /** Referenced templates, in LDF order, and all that they refer to. */
  refs: Definition[];
  /** Explicit layers of the referenced templates, all depths. */
  refExplicit: LdfLine[];
  /** Units of the present generation; none for a new definition. */
  installed: UnitId[];
  /** The present LDF, for its holds; null for a new definition. */
  ldf: Ldf | null;
  upgrade: 'none' | 'all';
  recommends: boolean;
}

export interface Resolution {
  solved: SolvedUnit[];
  ids: UnitId[];
  explicit: LdfLine[];
  implicit: LdfLine[];
}

/** Throws UNSATISFIABLE with the resolver's explanation. */
export function resolveIntent(world: World, intent: Intent, progress: Progress): Resolution {
  progress({ phase: 'resolve', message: `resolving ${intent.what}` });
  const request = {
    wishes: wishesOf(intent),
    installed: installedOf(intent),
    upgrade: intent.upgrade,
    recommends: intent.recommends,
  };
  const result = world.universe.resolve(request);
  if (!result.ok) throw unsatisfiable(result);
  return divide(intent, result.units);
}

function wishesOf(intent: Intent): Wish[] {
  const wishes = new Map<string, Wish>();
  for (const line of intent.refExplicit) wishes.set(line.layer, { repo: line.repo, layer: line.layer });
  for (const wanted of intent.explicit) {
    const wish: Wish = { layer: wanted.layer };
    if (wanted.repo !== undefined) wish.repo = wanted.repo;
    if (wanted.version !== undefined) wish.version = wanted.version;
    wishes.set(wanted.layer, wish);
  }
  return [...wishes.values()];
}

/** Layers of the referenced templates on which all of them agree, by layer name; those they disagree about are null. */
export function agreedUnits(refs: Definition[]): Map<string, UnitId | null> {
  const agreed = new Map<string, UnitId | null>();
  for (const ref of refs) {
    for (const id of ref.record.units) {
      const { layer } = parseUnitId(id)!;
      const before = agreed.get(layer);
      agreed.set(layer, before === undefined || before === id ? id : null);
    }
  }
  return agreed;
}

function installedOf(intent: Intent): InstalledUnit[] {
  const held = new Map<string, LdfLine>();
  if (intent.ldf) {
    for (const line of [...explicitLayers(intent.ldf), ...implicitLayers(intent.ldf)])
      if (line.held) held.set(line.layer, line);
  }
  const chosenHere = new Set(
    intent.explicit.filter((w) => w.version !== undefined || w.held).map((w) => w.layer),
  );
  const installed = new Map<string, InstalledUnit>();
  for (const id of intent.installed) {
    const unit = parseUnitId(id)!;
    installed.set(unit.layer, { ...unit, held: held.has(unit.layer) });
  }
  for (const line of held.values()) installed.set(line.layer, { ...line, held: true });
  for (const [layer, id] of agreedUnits(intent.refs)) {
    if (id === null || held.has(layer) || chosenHere.has(layer)) continue;
    installed.set(layer, { ...parseUnitId(id)!, held: true });
  }
  for (const wanted of intent.explicit) {
    const unit = installed.get(wanted.layer);
    if (unit && wanted.version !== undefined && unit.version !== wanted.version)
      installed.delete(wanted.layer);
  }
  return [...installed.values()];
}

function divide(intent: Intent, units: SolvedUnit[]): Resolution {
  const ids = units.map(({ unit }) => unitId(unit.repo, unit.layer, unit.version));
  const inRefs = new Set(intent.refs.flatMap((ref) => ref.record.units));
  const wanted = new Map(intent.explicit.map((w) => [w.layer, w]));
  const heldBefore = new Set(
    intent.ldf
      ? [...explicitLayers(intent.ldf), ...implicitLayers(intent.ldf)]
          .filter((l) => l.held)
          .map((l) => l.layer)
      : [],
  );
  const explicit = new Map<string, LdfLine>();
  const implicit: LdfLine[] = [];
  for (const { unit } of units) {
    const { repo, layer, version } = unit;
    const wish = wanted.get(layer);
    const line = { repo, layer, version, held: wish?.held || heldBefore.has(layer) };
    if (wish) explicit.set(layer, line);
    else if (!inRefs.has(unitId(repo, layer, version))) implicit.push(line);
  }
  const inOrder = intent.explicit.map((w) => explicit.get(w.layer)).filter((line) => line !== undefined);
  return { solved: units, ids, explicit: inOrder, implicit };
}

function unsatisfiable(result: ResolveResult & { ok: false }): StrataError {
  const { summary, chain, hint } = result.explanation;
  const detail = chain.filter((line) => !summary.includes(line));
  const message = detail.length > 0 ? `${summary}: ${detail.join('; ')}` : summary;
  return new StrataError('UNSATISFIABLE', message, { hint: hint === '' ? undefined : hint, data: { chain } });
}

/** What differs between two sets of units, by layer; sorted. */
export function changesBetween(
  before: UnitId[],
  after: UnitId[],
): { layer: string; from: string | null; to: string | null }[] {
  const old = new Map(before.map((id) => [parseUnitId(id)!.layer, id]));
  const changes: { layer: string; from: string | null; to: string | null }[] = [];
  for (const id of after) {
    const { layer, version, repo } = parseUnitId(id)!;
    const was = old.get(layer);
    old.delete(layer);
    if (was === id) continue;
    const from = was === undefined ? null : parseUnitId(was)!;
    const show = from !== null && from.version === version ? `${repo}/${version}` : version;
    changes.push({ layer, from: from === null ? null : from.version, to: show });
  }
  for (const [layer, id] of old) changes.push({ layer, from: parseUnitId(id)!.version, to: null });
  return changes.sort((a, b) => (a.layer < b.layer ? -1 : 1));
}
