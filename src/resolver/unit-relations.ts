/**
 * What a unit needs and what it excludes, as sets of units: parsed and matched when first asked for, then kept for
 * all later requests. Debian's rules: an unversioned Provides satisfies only unversioned relations, a unit never
 * conflicts with itself, `:any` and `:native` say nothing within one architecture.
 */
import { type Relation, satisfies } from '../formats/index.ts';
import { type ParsedRelation, relationField } from './relation-fields.ts';
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

/** A relation by which a unit keeps others out. */
export interface Exclusion {
  kind: 'conflicts' | 'breaks';
  text: string;
  name: string;
  /** What the relation names, which may include units of the own layer: eachExcluded passes over them. */
  targets: readonly number[];
  /** The text cannot be read, so the unit itself is what it excludes. */
  malformed: boolean;
}

export interface UnitRelations {
  needs(unit: number): readonly Need[];
  recommends(unit: number): readonly Need[];
  /** Each unit that may not be in with `unit`; `unit` itself when it may not be in at all. */
  eachExcluded(unit: number, visit: (other: number, exclusion: Exclusion) => void): void;
  /** What all appliances with a unit of `repo` need. */
  essentials(repo: string): readonly Need[];
}

const PRIORITIES = ['required', 'important', 'standard', 'optional', 'extra'];
const NO_NEEDS: readonly Need[] = [];
const NO_EXCLUSIONS: readonly Exclusion[] = [];

export function createUnitRelations(index: UnitIndex): UnitRelations {
  const needs = new Map<number, readonly Need[]>();
  const recommended = new Map<number, readonly Need[]>();
  const exclusions = new Map<number, readonly Exclusion[]>();
  const essentials = new Map<string, readonly Need[]>();
  const match = createMatcher(index);

  return {
    needs(unit) {
      let known = needs.get(unit);
      if (known === undefined) {
        const { preDepends, depends } = index.units[unit]!;
        known =
          preDepends === undefined && depends === undefined
            ? NO_NEEDS
            : [
                ...readNeeds(index, match, unit, 'pre-depends', preDepends),
                ...readNeeds(index, match, unit, 'depends', depends),
              ];
        needs.set(unit, known);
      }
      return known;
    },
    recommends(unit) {
      let known = recommended.get(unit);
      if (known === undefined) {
        known = readNeeds(index, match, unit, 'recommends', index.units[unit]!.recommends);
        recommended.set(unit, known);
      }
      return known;
    },
    eachExcluded(unit, visit) {
      let known = exclusions.get(unit);
      if (known === undefined) {
        const { conflicts, breaks } = index.units[unit]!;
        known =
          conflicts === undefined && breaks === undefined
            ? NO_EXCLUSIONS
            : [
                ...readExclusions(index, match, unit, 'conflicts', conflicts),
                ...readExclusions(index, match, unit, 'breaks', breaks),
              ];
        exclusions.set(unit, known);
      }
      const { layer } = index.units[unit]!;
      for (const exclusion of known) {
        for (const other of exclusion.targets) {
          if (exclusion.malformed || index.units[other]!.layer !== layer) visit(other, exclusion);
        }
      }
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

/** Units that satisfy one relation. The arrays are shared by all who state it. */
interface Match {
  /** Units of the named layer, newest first. */
  real: readonly number[];
  /** Units that provide the name, in the index's order. */
  virtual: readonly number[];
  /** Both, real ones first. */
  all: readonly number[];
}

type Matcher = (relation: ParsedRelation) => Match;

/** Matches relations, each different one once: `libc6 (>= 2.34)` stands in thousands of units. */
function createMatcher(index: UnitIndex): Matcher {
  const known = new Map<string, Match>();
  return ({ relation, text }) => {
    let match = known.get(text);
    if (match === undefined) {
      match = matchRelation(index, relation);
      known.set(text, match);
    }
    return match;
  };
}

function matchRelation(index: UnitIndex, { name, op, version, arch }: Relation): Match {
  const real = index
    .ofLayer(name)
    .filter(
      (id) =>
        (op === undefined || satisfies(index.units[id]!.version, op, version!)) &&
        isRightArchitecture(index, id, arch),
    );
  const isReal = new Set(real);
  const virtual = index
    .providersOf(name)
    .filter(
      (id) =>
        !isReal.has(id) &&
        isRightArchitecture(index, id, arch) &&
        index
          .provisions(id)
          .some(
            (p) =>
              p.name === name &&
              (op === undefined || (p.version !== undefined && satisfies(p.version, op, version!))),
          ),
    );
  return { real, virtual, all: virtual.length === 0 ? real : real.concat(virtual) };
}

/** As apt: providers from the asker's own source first, then by priority; else the index's order stays. */
function preferredProviders(index: UnitIndex, providers: readonly number[], asker: number): number[] {
  const source = sourceOf(index, asker);
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
  match: Matcher,
  unit: number,
  kind: NeedKind,
  text: string | undefined,
): readonly Need[] {
  if (text === undefined) return NO_NEEDS;
  const groups = relationField(text, index.architecture);
  if (groups === null)
    return [{ kind, text: `${JSON.stringify(text)} (malformed)`, name: '', candidates: [] }];
  const found: Need[] = [];
  for (const group of groups) {
    const matched = group.map((relation) => {
      const { real, virtual, all } = match(relation);
      return virtual.length < 2 ? all : [...real, ...preferredProviders(index, virtual, unit)];
    });
    const candidates = matched.length === 1 ? matched[0]! : [...new Set(matched.flat())];
    if (candidates.includes(unit)) continue;
    const [first] = group;
    const stated =
      group.length === 1 ? first!.text : group.map((alternative) => alternative.text).join(' | ');
    found.push({ kind, text: stated, name: first!.relation.name, candidates });
  }
  return found;
}

function readExclusions(
  index: UnitIndex,
  match: Matcher,
  unit: number,
  kind: Exclusion['kind'],
  text: string | undefined,
): readonly Exclusion[] {
  if (text === undefined) return NO_EXCLUSIONS;
  const groups = relationField(text, index.architecture);
  if (groups === null) {
    // It excludes itself: nobody knows what it may stand beside.
    return [
      { kind, text: `${JSON.stringify(text)} (malformed)`, name: '', targets: [unit], malformed: true },
    ];
  }
  const found: Exclusion[] = [];
  for (const group of groups) {
    for (const alternative of group) {
      const targets = match(alternative).all;
      if (targets.length === 0) continue;
      const { name } = alternative.relation;
      found.push({ kind, text: alternative.text, name, targets, malformed: false });
    }
  }
  return found;
}
