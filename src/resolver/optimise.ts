/**
 * Finds the best solution of an encoding: a guided search, which is already best in all ordinary cases, then for each
 * criterion that costs something a bounded search for a solution that costs less. It never answers "unsatisfiable"
 * because a bound was met: then the search goes on unguided, and only if that meets its bound too the request is refused.
 */
import { StrataError } from '../base/index.ts';
import { type Criterion, countBroken } from './criteria.ts';
import { createDecider } from './decider.ts';
import type { Encoding } from './encoding.ts';
import { addAtMost } from './sat/at-most.ts';

/** Conflicts of the guided search, of the unguided one, and of each attempt to improve. */
const GUIDED_CONFLICTS = 20_000;
const UNGUIDED_CONFLICTS = 50_000;
const IMPROVEMENT_CONFLICTS = 2_000;
/** Attempts to improve, over all criteria. */
const IMPROVEMENTS = 32;
/** Counter cells (literals times bound) up to which a criterion is counted exactly. */
const COUNTER_CELLS = 200_000;

/** 'sat' leaves the assignment in the solver; 'unsat' says that there is none. */
export function solveGuided(encoding: Encoding, criteria: readonly Criterion[]): 'sat' | 'unsat' {
  const { solver } = encoding;
  const decider = createDecider(encoding, criteria);
  const guided = solver.solve({ decider, conflictLimit: GUIDED_CONFLICTS });
  if (guided !== 'limit') return guided;
  const unguided = solver.solve({ conflictLimit: UNGUIDED_CONFLICTS });
  if (unguided === 'limit') {
    throw new StrataError('LIMIT', 'the request is too hard to resolve', {
      hint: 'fix some versions, or ask for fewer layers at once',
    });
  }
  return unguided;
}

/** As solveGuided, and each criterion in turn costs as little as the bounds allow to find out. */
export function solveBest(encoding: Encoding, criteria: readonly Criterion[]): 'sat' | 'unsat' {
  if (solveGuided(encoding, criteria) === 'unsat') return 'unsat';
  if (criteria.every((criterion) => countBroken(encoding, criterion) === 0)) return 'sat';
  let attempts = IMPROVEMENTS;
  for (let i = 0; i < criteria.length; i++) {
    const criterion = criteria[i]!;
    if (criterion.length === 0) continue;
    let cost = countBroken(encoding, criterion);
    let holding = holdingLiterals(encoding, criterion);
    while (cost > 0 && attempts > 0 && criterion.length * cost <= COUNTER_CELLS) {
      attempts--;
      if (!improve(encoding, criteria, criterion, cost - 1)) break;
      cost = countBroken(encoding, criterion);
      holding = holdingLiterals(encoding, criterion);
    }
    freeze(encoding, criterion, cost, holding);
    // Nothing was taken away from the best so far, so there still is a solution.
    solveGuided(encoding, criteria);
  }
  return 'sat';
}

function holdingLiterals(encoding: Encoding, criterion: Criterion): number[] {
  return criterion.filter((lit) => countBroken(encoding, [lit]) === 0);
}

/** Whether a solution exists where the criterion costs at most `bound`; leaves it in the solver. */
function improve(
  encoding: Encoding,
  criteria: readonly Criterion[],
  criterion: Criterion,
  bound: number,
): boolean {
  const { solver } = encoding;
  const guard = 2 * solver.newVariable();
  addAtMost(
    solver,
    criterion.map((lit) => lit ^ 1),
    bound,
    guard,
  );
  const decider = createDecider(encoding, criteria);
  const status = solver.solve({ assumptions: [guard], decider, conflictLimit: IMPROVEMENT_CONFLICTS });
  return status === 'sat';
}

/** From now on the criterion costs at most `cost`. */
function freeze(encoding: Encoding, criterion: Criterion, cost: number, holding: readonly number[]): void {
  const { solver } = encoding;
  if (cost === 0 || criterion.length * cost > COUNTER_CELLS) {
    for (const lit of holding) solver.addClause([lit]);
    return;
  }
  addAtMost(
    solver,
    criterion.map((lit) => lit ^ 1),
    cost,
  );
}
