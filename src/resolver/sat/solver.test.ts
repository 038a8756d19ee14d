/** The solver against brute force: satisfiability, models, cores of assumptions, and a hard instance that needs learning. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { addAtMost } from './at-most.ts';
import { type Decider, Solver } from './solver.ts';

const VARIABLES = 8;
const literal = fc.nat(2 * VARIABLES - 1);
const clauses = fc.array(fc.array(literal, { minLength: 1, maxLength: 3 }), { minLength: 8, maxLength: 45 });

function holds(assignment: number, lit: number): boolean {
  return ((assignment >> (lit >> 1)) & 1) !== (lit & 1);
}

function satisfiable(formula: readonly (readonly number[])[]): boolean {
  for (let a = 0; a < 1 << VARIABLES; a++) {
    if (formula.every((clause) => clause.some((lit) => holds(a, lit)))) return true;
  }
  return false;
}

function solverFor(formula: readonly (readonly number[])[]): Solver {
  const solver = new Solver();
  for (let i = 0; i < VARIABLES; i++) solver.newVariable();
  for (const clause of formula) solver.addClause(clause);
  return solver;
}

/** All variables in order, true first. */
function inOrder(solver: Solver): Decider {
  return {
    next() {
      for (let v = 0; v < solver.variables; v++) if (solver.values[2 * v] === 0) return 2 * v;
      return -1;
    },
    opening() {},
    backtracked() {},
  };
}

test('random formulas: as brute force says, guided or not, and the model is one', () => {
  fc.assert(
    fc.property(clauses, fc.boolean(), (formula, guided) => {
      const solver = solverFor(formula);
      const status = solver.solve(guided ? { decider: inOrder(solver) } : {});
      assert.equal(status === 'sat', satisfiable(formula));
      if (status === 'sat')
        for (const clause of formula) assert.ok(clause.some((lit) => solver.values[lit]! > 0));
    }),
    { numRuns: 1500, seed: 1 },
  );
});

test('a guided search gives the first assignment in the order of its decisions', () => {
  fc.assert(
    fc.property(clauses, (formula) => {
      const solver = solverFor(formula);
      if (solver.solve({ decider: inOrder(solver) }) !== 'sat') return;
      const fixed: number[] = [];
      for (let v = 0; v < VARIABLES; v++) {
        const wished = satisfiable([...formula, ...fixed.map((lit) => [lit]), [2 * v]]);
        fixed.push(wished ? 2 * v : 2 * v + 1);
        assert.equal(solver.values[2 * v]! > 0, wished);
      }
    }),
    { numRuns: 500, seed: 2 },
  );
});

test('many calls with assumptions on one solver: right answers, and cores that are unsatisfiable by themselves', () => {
  fc.assert(
    fc.property(
      clauses,
      fc.array(fc.uniqueArray(literal, { maxLength: 6 }), { maxLength: 8 }),
      (formula, calls) => {
        const solver = solverFor(formula);
        for (const assumptions of calls) {
          const status = solver.solve({ assumptions });
          const units = (lits: readonly number[]): number[][] => lits.map((lit) => [lit]);
          assert.equal(status === 'sat', satisfiable([...formula, ...units(assumptions)]));
          if (status === 'sat') continue;
          assert.ok(solver.core.every((lit) => assumptions.includes(lit)));
          assert.equal(satisfiable([...formula, ...units(solver.core)]), false);
        }
      },
    ),
    { numRuns: 800, seed: 3 },
  );
});

test('at most k of n, also behind a guard', () => {
  for (let limit = 0; limit <= 4; limit++) {
    const solver = new Solver();
    const lits = Array.from({ length: 6 }, () => 2 * solver.newVariable());
    const guard = 2 * solver.newVariable();
    addAtMost(solver, lits, limit, guard);
    assert.equal(solver.solve({ assumptions: [guard, ...lits.slice(0, limit)] }), 'sat');
    assert.equal(solver.solve({ assumptions: [guard, ...lits.slice(0, limit + 1)] }), 'unsat');
    assert.equal(solver.solve({ assumptions: lits }), 'sat');
  }
});

test('seven pigeons do not fit into six holes; a limit on conflicts is kept', () => {
  const solver = new Solver();
  const at = Array.from({ length: 7 }, () => Array.from({ length: 6 }, () => 2 * solver.newVariable()));
  for (const holes of at) solver.addClause(holes);
  for (let hole = 0; hole < 6; hole++) {
    for (let a = 0; a < 7; a++)
      for (let b = 0; b < a; b++) solver.addBinary(at[a]![hole]! ^ 1, at[b]![hole]! ^ 1);
  }
  assert.equal(solver.solve({ conflictLimit: 10 }), 'limit');
  assert.equal(solver.solve(), 'unsat');
  assert.deepEqual(solver.core, []);
});
