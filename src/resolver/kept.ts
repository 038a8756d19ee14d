/**
 * Which installed units the request should leave as they are: those that the targets still reach through the
 * relations of installed units. What nothing reaches any more may go, so it is not defended.
 */
import type { Targets } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { Need, UnitRelations } from './unit-relations.ts';

export function keptUnits(
  index: UnitIndex,
  relations: UnitRelations,
  { targets, installed }: Targets,
): Set<number> {
  const present = new Set<number>();
  for (const { unit } of installed.values()) if (unit >= 0) present.add(unit);
  const kept = new Set<number>();
  const queue: number[] = [];
  const repositories = new Set<string>();
  const keep = (candidates: Iterable<number>): void => {
    for (const id of candidates) {
      if (!present.has(id) || kept.has(id)) continue;
      kept.add(id);
      queue.push(id);
    }
  };
  const keepAll = (needs: readonly Need[]): void => {
    for (const { candidates } of needs) keep(candidates);
  };
  for (const target of targets) keep(target.candidates);
  for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
    keepAll(relations.needs(id));
    keepAll(relations.recommends(id));
    const { repo } = index.units[id]!;
    if (repositories.has(repo)) continue;
    repositories.add(repo);
    keepAll(relations.essentials(repo));
  }
  return kept;
}
