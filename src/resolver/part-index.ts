/**
 * The index of one list of offered units, usually one repository's: layer names, provided names, what is essential.
 * One pass that parses nothing but the names in Provides. Kept for as long as the list itself is, so that a change of
 * one repository does not cost the indexing of the others; the list must not change once it was given here.
 */
import { parseRelations } from '../formats/index.ts';
import type { OfferedUnit } from './contract.ts';

/** What one unit provides: a name, and the version when it states one. */
export interface Provision {
  name: string;
  version: string | undefined;
}

/** Numbers are places in `units`. Lists are in the order of the records. */
export interface PartIndex {
  units: readonly OfferedUnit[];
  byLayer: ReadonlyMap<string, readonly number[]>;
  byProvided: ReadonlyMap<string, readonly number[]>;
  /** By repository: layers of which some unit is essential. */
  essential: ReadonlyMap<string, ReadonlySet<string>>;
  repositories: ReadonlySet<string>;
  /** How many units there are of each architecture, `all` aside. */
  architectures: ReadonlyMap<string, number>;
  provisions(place: number): readonly Provision[];
}

const NO_PROVISIONS: readonly Provision[] = [];
const known = new WeakMap<readonly OfferedUnit[], PartIndex>();

export function indexPart(units: readonly OfferedUnit[]): PartIndex {
  let part = known.get(units);
  if (part === undefined) {
    part = createPartIndex(units);
    known.set(units, part);
  }
  return part;
}

/** Essential, or of priority required. */
export function isEssential(unit: OfferedUnit): boolean {
  return unit.essential === true || unit.priority === 'required';
}

function createPartIndex(units: readonly OfferedUnit[]): PartIndex {
  const byLayer = new Map<string, number[]>();
  const byProvided = new Map<string, number[]>();
  const essential = new Map<string, Set<string>>();
  const repositories = new Set<string>();
  const architectures = new Map<string, number>();
  const provisions: (readonly Provision[] | undefined)[] = new Array(units.length);
  units.forEach((unit, place) => {
    append(byLayer, unit.layer, place);
    if (unit.provides !== undefined) {
      for (const name of new Set(providedNames(unit.provides))) append(byProvided, name, place);
    }
    if (isEssential(unit)) {
      const layers = essential.get(unit.repo);
      if (layers) layers.add(unit.layer);
      else essential.set(unit.repo, new Set([unit.layer]));
    }
    repositories.add(unit.repo);
    const { architecture } = unit;
    if (architecture !== undefined && architecture !== 'all') {
      architectures.set(architecture, (architectures.get(architecture) ?? 0) + 1);
    }
  });
  return {
    units,
    byLayer,
    byProvided,
    essential,
    repositories,
    architectures,
    provisions(place) {
      let list = provisions[place];
      if (list === undefined) {
        list = parseProvisions(units[place]!.provides);
        provisions[place] = list;
      }
      return list;
    },
  };
}

function append(map: Map<string, number[]>, key: string, place: number): void {
  const list = map.get(key);
  if (list) list.push(place);
  else map.set(key, [place]);
}

/** Names in a Provides field, without a parser: each up to the first character that is no name's. */
function providedNames(text: string): string[] {
  if (!text.includes(',')) return [providedName(text)];
  return text.split(',').map(providedName);
}

function providedName(item: string): string {
  const name = item.trim();
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    if (c <= 32 || c === 40 /* ( */ || c === 58 /* : */) return name.slice(0, i);
  }
  return name;
}

/** What cannot be read provides nothing. */
function parseProvisions(text: string | undefined): readonly Provision[] {
  if (text === undefined) return NO_PROVISIONS;
  try {
    return parseRelations(text).flatMap((alternatives) =>
      alternatives.map((r) => ({ name: r.name, version: r.op === '=' ? r.version : undefined })),
    );
  } catch {
    return NO_PROVISIONS;
  }
}
