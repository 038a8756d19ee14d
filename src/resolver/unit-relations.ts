/**
 * What a unit needs and what it excludes, as sets of units: parsed and matched when first asked for, then kept for
 * all later requests. Debian's rules: an unversioned Provides satisfies only unversioned relations, a unit never
 * conflicts with itself, `:any` and `:native` say nothing within one architecture.
 */
import { StrataError } from '../base/index.ts';
import {
  type Alternatives,
  formatRelation,
  parseRelations,
  type Relation,
  satisfies,
} from '../formats/index.ts';
import type { UnitIndex } from './unit-index.ts';

export type NeedKind = 'wish' | 'hold' | 'essential' | 'pre-depends' | 'depends' | 'recommends';

/** One of `candidates` must be in. The preferred candidate stands first. */
export interface Need {
  kind: NeedKind;
  /** The relation as people read it: `libbar (>= 2) | baz`. */
  text: string;
  /** The layer that the first alternative names. */
  name: string;
  candidates: readonly number[];
}

/** None of `targets` may be in with the unit. */
export interface Exclusion {
  kind: 'conflicts' | 'breaks';
  text: string;
  name: string;
  targets: readonly number[];
}

export interface UnitRelations {
  needs(unit: number): readonly Need[];
  recommends(unit: number): readonly Need[];
  exclusions(unit: number): readonly Exclusion[];
  /** What all appliances with a unit of `repo` need. */
  essentials(repo: string): readonly Need[];
}

const PRIORITIES = ['required', 'important', 'standard', 'optional', 'extra'];
const NO_NEEDS: readonly Need[] = [];
const NO_EXCLUSIONS: readonly Exclusion[] = [];

export function createUnitRelations(index: UnitIndex): UnitRelations {
  const needs: (readonly Need[] | undefined)[] = new Array(index.units.length);
  const recommended: (readonly Need[] | undefined)[] = new Array(index.units.length);
  const exclusions: (readonly Exclusion[] | undefined)[] = new Array(index.units.length);
  const essentials = new Map<string, readonly Need[]>();

  return {
    needs(unit) {
      let known = needs[unit];
      if (known === undefined) {
        const { preDepends, depends } = index.units[unit]!;
        known =
          preDepends === undefined && depends === undefined
            ? NO_NEEDS
            : [
                ...readNeeds(index, unit, 'pre-depends', preDepends),
                ...readNeeds(index, unit, 'depends', depends),
              ];
        needs[unit] = known;
      }
      return known;
    },
    recommends(unit) {
      let known = recommended[unit];
      if (known === undefined) {
        known = readNeeds(index, unit, 'recommends', index.units[unit]!.recommends);
        recommended[unit] = known;
      }
      return known;
    },
    exclusions(unit) {
      let known = exclusions[unit];
      if (known === undefined) {
        const { conflicts, breaks } = index.units[unit]!;
        known =
          conflicts === undefined && breaks === undefined
            ? NO_EXCLUSIONS
            : [
                ...readExclusions(index, unit, 'conflicts', conflicts),
                ...readExclusions(index, unit, 'breaks', breaks),
              ];
        exclusions[unit] = known;
      }
      return known;
    },
    essentials(repo) {
      let known = essentials.get(repo);
      if (known === undefined) {
        known = index.essentialLayers(repo).map((name) => ({
          kind: 'essential' as const,
          text: 'essential',
          name,
          candidates: index.ofLayer(name),
        }));
        essentials.set(repo, known);
      }
      return known;
    },
  };
}

/** Units that satisfy one relation: real ones newest first, then providers. `asker` is the unit that states it, or -1. */
export function matchRelation(index: UnitIndex, relation: Relation, asker = -1): number[] {
  const { op, version } = relation;
  const found: number[] = [];
  for (const id of index.ofLayer(relation.name)) {
    if (op !== undefined && !satisfies(index.units[id]!.version, op, version!)) continue;
    if (isRightArchitecture(index, id, relation.arch)) found.push(id);
  }
  const providers = index.providersOf(relation.name);
  if (providers.length === 0) return found;
  const real = new Set(found);
  const virtual = providers.filter(
    (id) =>
      !real.has(id) &&
      isRightArchitecture(index, id, relation.arch) &&
      index
        .provisions(id)
        .some(
          (p) =>
            p.name === relation.name &&
            (op === undefined || (p.version !== undefined && satisfies(p.version, op, version!))),
        ),
  );
  return found.concat(preferredProviders(index, virtual, asker));
}

/** As apt: providers from the asker's own source first, then by priority; else the index's order stays. */
function preferredProviders(index: UnitIndex, providers: number[], asker: number): number[] {
  if (providers.length < 2) return providers;
  const source = asker < 0 ? undefined : sourceOf(index, asker);
  const key = (id: number): number => {
    const unit = index.units[id]!;
    const place = PRIORITIES.indexOf(unit.priority ?? 'optional');
    return (sourceOf(index, id) === source ? 0 : 16) + (unit.essential ? 0 : 8) + (place < 0 ? 3 : place);
  };
  return providers
    .map((id, order) => ({ id, order, key: key(id) }))
    .sort((a, b) => a.key - b.key || a.order - b.order)
    .map((p) => p.id);
}

function sourceOf(index: UnitIndex, id: number): string {
  const unit = index.units[id]!;
  return unit.source?.replace(/ .*/, '') ?? unit.layer;
}

function isRightArchitecture(index: UnitIndex, id: number, wanted: string | undefined): boolean {
  if (wanted === undefined || wanted === 'any' || wanted === 'native') return true;
  const own = index.units[id]!.architecture ?? 'all';
  return wanted === (own === 'all' ? index.architecture : own);
}

function readNeeds(
  index: UnitIndex,
  unit: number,
  kind: NeedKind,
  text: string | undefined,
): readonly Need[] {
  if (text === undefined) return NO_NEEDS;
  const groups = parseField(index, text);
  if (groups === null)
    return [{ kind, text: `${JSON.stringify(text)} (malformed)`, name: '', candidates: [] }];
  const found: Need[] = [];
  for (const group of groups) {
    const matched = group.map((relation) => matchRelation(index, relation, unit));
    const candidates = matched.length === 1 ? matched[0]! : [...new Set(matched.flat())];
    if (candidates.includes(unit)) continue;
    found.push({ kind, text: group.map(formatRelation).join(' | '), name: group[0]!.name, candidates });
  }
  return found;
}

function readExclusions(
  index: UnitIndex,
  unit: number,
  kind: Exclusion['kind'],
  text: string | undefined,
): readonly Exclusion[] {
  if (text === undefined) return NO_EXCLUSIONS;
  const layer = index.units[unit]!.layer;
  const groups = parseField(index, text);
  if (groups === null) {
    // It excludes itself: nobody knows what it may stand beside.
    return [{ kind, text: `${JSON.stringify(text)} (malformed)`, name: '', targets: [unit] }];
  }
  const found: Exclusion[] = [];
  for (const group of groups) {
    for (const relation of group) {
      const targets = matchRelation(index, relation).filter((id) => index.units[id]!.layer !== layer);
      if (targets.length > 0)
        found.push({ kind, text: formatRelation(relation), name: relation.name, targets });
    }
  }
  return found;
}

/** null when the text is malformed: one bad record must not make the others unusable. */
function parseField(index: UnitIndex, text: string): Alternatives[] | null {
  try {
    return parseRelations(text, index.architecture === undefined ? {} : { architecture: index.architecture });
  } catch (error) {
    if (error instanceof StrataError) return null;
    throw error;
  }
}
