/**
 * In which order the candidates of a need are tried: what is installed first, then preferred layers, then the order that the relation and the
 * index give (first alternative, real before virtual, newest, repository, name). docs/formats/resolution.md.
 */
import { compareVersions } from '../formats/index.ts';
import type { InstalledLayer } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';

export interface Preference {
  upgrade: 'none' | 'all';
  installed: ReadonlyMap<string, InstalledLayer>;
}

/** `candidates` with the preferred first. The given array itself when no candidate's layer is installed or preferred. */
export function orderCandidates(
  index: UnitIndex,
  preference: Preference,
  candidates: readonly number[],
): readonly number[] {
  const { installed } = preference;
  if (candidates.length < 2) return candidates;
  const isSpecial = (layer: string): boolean => installed.has(layer) || index.isPreferred(layer);
  if (!candidates.some((id) => isSpecial(index.units[id]!.layer))) return candidates;
  return candidates
    .map((id, order) => ({ id, order, group: groupOf(index, preference, id) }))
    .sort((a, b) => a.group - b.group || a.order - b.order)
    .map((c) => c.id);
}

/** 0 as installed and to stay, 1 an installed layer at no lower version, 2 preferred, 3 not installed, 4 a downgrade. */
function groupOf(index: UnitIndex, preference: Preference, id: number): number {
  const unit = index.units[id]!;
  const known = preference.installed.get(unit.layer);
  if (known === undefined) return index.isPreferred(unit.layer) ? 2 : 3;
  if (known.unit === id && (preference.upgrade === 'none' || known.held || isNewest(index, id))) return 0;
  return compareVersions(unit.version, known.version) < 0 ? 4 : 1;
}

/** Whether no unit of its layer, from whatever repository, has a higher version. */
export function isNewest(index: UnitIndex, id: number): boolean {
  const unit = index.units[id]!;
  const newest = index.units[index.ofLayer(unit.layer)[0]!]!;
  return compareVersions(unit.version, newest.version) === 0;
}
