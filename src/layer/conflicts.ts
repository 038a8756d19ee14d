/**
 * Which paths two software layers both hold. A software layer never hides another: the same non-directory path in two units is a
 * conflict, unless one of them declares that it replaces the other. Directories are merged one by one, and a directory that only one
 * unit has is not looked into, so the cost is that of the shared directories.
 */
import { type Name, nameToText } from '../base/index.ts';
import type { UnitMetadata } from '../formats/contract.ts';
import { parseRelations, satisfies } from '../formats/index.ts';
import { S_IFDIR, S_IFMT } from '../sys/index.ts';
import type { EntryNumber, TreeIndex } from './contract.ts';

export interface IndexedUnit {
  /** How the unit is named in the result, e.g. `main/nginx 1.22.1-9`. */
  id: string;
  metadata: UnitMetadata;
  index: TreeIndex;
}

export interface Overlap {
  /** UTF-8 text. */
  path: string;
  /** Ids of all units that hold the path, in the order they were given. */
  owners: string[];
  /** The unit whose declared Replaces gives it the path; null: a conflict. */
  winner: string | null;
}

interface Holder {
  unit: number;
  entry: EntryNumber;
}

/** Paths held by more than one unit and not settled by a declared Replaces, sorted by path. [] when the units go together. */
export function findConflicts(units: readonly IndexedUnit[]): Overlap[] {
  return findOverlaps(units).filter(({ winner }) => winner === null);
}

/** All paths held by more than one unit (one of them not as a directory), sorted by path, with who wins. */
export function findOverlaps(units: readonly IndexedUnit[]): Overlap[] {
  const overlaps: Overlap[] = [];
  const replaces = replacement(units);
  const report = (path: string, holders: readonly Holder[]): void => {
    const wins = (one: Holder): boolean =>
      holders.every((other) => other === one || replaces(one.unit, other.unit));
    const winners = holders.filter(wins);
    overlaps.push({
      path: nameToText(path),
      owners: holders.map(({ unit }) => units[unit]!.id),
      winner: winners.length === 1 ? units[winners[0]!.unit]!.id : null,
    });
  };

  const pending: { path: string; holders: Holder[] }[] = [
    { path: '', holders: units.map((_, unit) => ({ unit, entry: 0 })) },
  ];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    for (const [name, holders] of sharedNames(units, directory.holders)) {
      const path = directory.path === '' ? name : `${directory.path}/${name}`;
      const directories = holders.filter(({ unit, entry }) => isDirectory(units[unit]!.index, entry));
      if (directories.length < holders.length) report(path, holders);
      if (directories.length > 1) pending.push({ path, holders: directories });
    }
  }
  return overlaps.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function isDirectory(index: TreeIndex, entry: EntryNumber): boolean {
  return (index.mode(entry) & S_IFMT) === S_IFDIR;
}

/** Names that at least two of the directories hold, with their holders. */
function sharedNames(units: readonly IndexedUnit[], directories: readonly Holder[]): Map<Name, Holder[]> {
  const first = new Map<Name, Holder>();
  const shared = new Map<Name, Holder[]>();
  for (const { unit, entry: directory } of directories) {
    const { index } = units[unit]!;
    const from = index.firstChild(directory);
    const end = from + index.childCount(directory);
    for (let entry = from; entry < end; entry++) {
      const name = index.name(entry);
      const holder = { unit, entry };
      const other = first.get(name);
      if (other === undefined) {
        first.set(name, holder);
        continue;
      }
      const holders = shared.get(name);
      if (holders === undefined) shared.set(name, [other, holder]);
      else holders.push(holder);
    }
  }
  return shared;
}

/** Whether unit a declares that its files replace those of unit b; parsed once, when first asked. */
function replacement(units: readonly IndexedUnit[]): (a: number, b: number) => boolean {
  const parsed = new Map<number, ReturnType<typeof parseRelations>>();
  return (a, b) => {
    let relations = parsed.get(a);
    if (relations === undefined) {
      relations = parseRelations(units[a]!.metadata.replaces ?? '');
      parsed.set(a, relations);
    }
    const { layer, version } = units[b]!.metadata;
    return relations.some((alternatives) =>
      alternatives.some(
        (r) => r.name === layer && (r.op === undefined || satisfies(version, r.op, r.version!)),
      ),
    );
  };
}
