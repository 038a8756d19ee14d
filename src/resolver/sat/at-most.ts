/** Cardinality by Sinz's sequential counter: at most `limit` of some literals are true. */
import type { Solver } from './solver.ts';

/**
 * Adds "at most `limit` of `literals`"; with `guard`, only while that literal is true. Adds about
 * 2 * literals.length * limit clauses.
 */
export function addAtMost(solver: Solver, literals: readonly number[], limit: number, guard = -1): void {
  const guarded = guard < 0 ? [] : [guard ^ 1];
  if (limit === 0) {
    for (const lit of literals) solver.addClause([lit ^ 1, ...guarded]);
    return;
  }
  let previous: number[] = [];
  for (const lit of literals) {
    const counts = Array.from(
      { length: Math.min(limit, previous.length + 1) },
      () => 2 * solver.newVariable(),
    );
    solver.addClause([lit ^ 1, counts[0]!]);
    previous.forEach((before, i) => {
      solver.addClause([before ^ 1, counts[i]!]);
      const next = counts[i + 1];
      if (next !== undefined) solver.addClause([lit ^ 1, before ^ 1, next]);
    });
    const full = previous[limit - 1];
    if (full !== undefined) solver.addClause([lit ^ 1, full ^ 1, ...guarded]);
    previous = counts;
  }
}
