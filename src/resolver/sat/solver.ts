/**
 * A conflict-driven clause-learning SAT solver: two watched literals with blockers, 1-UIP learning with local
 * minimisation, assumptions with a final-conflict core, and a decider that its owner supplies. Without a decider
 * it decides by VSIDS with saved phases and Luby restarts. Deterministic: no clock, no chance.
 * Literals: variable v is 2v when true and 2v+1 when false; `lit ^ 1` negates.
 * It must not know what a variable means.
 */
import { StrataError } from '../../base/index.ts';
import { type ActivityHeap, createActivityHeap } from './activity-heap.ts';
import { createWatchLists, grown, growWatchLists, pushWatch, type WatchLists } from './watch-list.ts';

/** Chooses the next decision, and follows the solver's levels so that its pointers can go back with them. */
export interface Decider {
  /** The next literal to make true, which must be unassigned; -1 when the assignment is complete enough. */
  next(): number;
  /** A level above `level` is about to be opened. */
  opening(level: number): void;
  /** The solver went back to `level`. */
  backtracked(level: number): void;
}

export type SolveStatus = 'sat' | 'unsat' | 'limit';

export interface SolveOptions {
  assumptions?: readonly number[];
  decider?: Decider;
  /** Conflicts after which the answer is 'limit'. */
  conflictLimit?: number;
}

/** Integers of clause memory: 256 MiB. A universe that needs more is refused with code LIMIT. */
const ARENA_LIMIT = 1 << 26;
const NO_REASON = -1;
const RESTART_UNIT = 128;
/** Header of a clause in the arena: size, then LBD (0: an original clause, -1: deleted). */
const HEADER = 2;

export class Solver {
  /** 1 true, -1 false, 0 unassigned; by literal. */
  values = new Int8Array(2048);
  trail = new Int32Array(1024);
  trailLength = 0;
  variables = 0;
  conflicts = 0;
  /** After 'unsat' with assumptions: those that cannot hold together. Empty: no assumption is to blame. */
  core: number[] = [];

  #contradiction = false;
  #arena = new Int32Array(1 << 14);
  #arenaLength = 0;
  #watches: WatchLists = createWatchLists();
  #reason = new Int32Array(1024);
  #levelOf = new Int32Array(1024);
  #seen = new Uint8Array(1024);
  #phase = new Uint8Array(1024);
  #levelStart: number[] = [];
  #propagated = 0;
  #heap: ActivityHeap = createActivityHeap();
  #learnts: number[] = [];
  #learntLimit = 4000;
  #decider: Decider | undefined;

  /** A new variable; returns its number. It is false by preference. */
  newVariable(): number {
    const v = this.variables++;
    if (2 * this.variables > this.values.length) {
      const values = new Int8Array(this.values.length * 2);
      values.set(this.values);
      this.values = values;
    }
    if (this.variables > this.#seen.length) {
      const seen = new Uint8Array(this.#seen.length * 2);
      seen.set(this.#seen);
      this.#seen = seen;
      const phase = new Uint8Array(this.#phase.length * 2);
      phase.set(this.#phase);
      this.#phase = phase;
    }
    this.trail = grown(this.trail, this.variables);
    this.#reason = grown(this.#reason, this.variables);
    this.#levelOf = grown(this.#levelOf, this.variables);
    growWatchLists(this.#watches, 2 * this.variables);
    this.#heap.insert(v);
    return v;
  }

  get level(): number {
    return this.#levelStart.length;
  }

  /** Adds a clause for good. Only at level 0, where `solve` leaves the solver after `reset`. */
  addClause(literals: readonly number[]): void {
    if (this.#contradiction) return;
    this.reset();
    const kept: number[] = [];
    for (const lit of literals) {
      const value = this.values[lit]!;
      if (value > 0 || kept.includes(lit ^ 1)) return;
      if (value === 0 && !kept.includes(lit)) kept.push(lit);
    }
    if (kept.length === 0) this.#contradiction = true;
    else if (kept.length === 1) this.#enqueue(kept[0]!, NO_REASON);
    else this.#attach(kept, 0);
  }

  /** Adds `a or b` for good: as addClause, without its allocation. */
  addBinary(a: number, b: number): void {
    if (this.level > 0 || a >> 1 === b >> 1 || this.values[a] !== 0 || this.values[b] !== 0) {
      this.addClause([a, b]);
      return;
    }
    this.#attach([a, b], 0);
  }

  /** Back to level 0: what was decided is forgotten, what was learned stays. */
  reset(): void {
    this.#backtrack(0);
  }

  /** Searches for an assignment. After 'sat', `values` holds it until the next reset, addClause or solve. */
  solve(options: SolveOptions = {}): SolveStatus {
    this.reset();
    this.core = [];
    if (this.#contradiction) return 'unsat';
    this.#decider = options.decider;
    const status = this.#search(options.assumptions ?? [], options.conflictLimit ?? Number.MAX_SAFE_INTEGER);
    this.#decider = undefined;
    return status;
  }

  #search(assumptions: readonly number[], conflictLimit: number): SolveStatus {
    const end = this.conflicts + conflictLimit;
    let restarts = 0;
    let restartAt = this.conflicts + RESTART_UNIT;
    for (;;) {
      const conflict = this.#propagate();
      if (conflict >= 0) {
        this.conflicts++;
        if (this.level === 0) {
          this.#contradiction = true;
          return 'unsat';
        }
        this.#learn(conflict);
        if (this.conflicts >= end) return 'limit';
        continue;
      }
      if (!this.#decider && this.conflicts >= restartAt) {
        restarts++;
        restartAt = this.conflicts + RESTART_UNIT * luby(restarts);
        this.#backtrack(Math.min(this.level, assumptions.length));
      }
      if (this.#learnts.length > this.#learntLimit) this.#forget();
      const assumption = assumptions[this.level];
      let next: number;
      if (assumption === undefined) next = this.#decider ? this.#decider.next() : this.#mostActive();
      else if (this.values[assumption]! < 0) {
        this.#explainAssumption(assumption);
        return 'unsat';
      } else next = assumption;
      if (next < 0) return 'sat';
      this.#decider?.opening(this.level);
      this.#levelStart.push(this.trailLength);
      if (this.values[next] === 0) this.#enqueue(next, NO_REASON);
    }
  }

  #mostActive(): number {
    for (;;) {
      const v = this.#heap.pop();
      if (v < 0) return -1;
      if (this.values[2 * v] === 0) return 2 * v + (this.#phase[v] ? 0 : 1);
    }
  }

  #enqueue(lit: number, reason: number): void {
    this.values[lit] = 1;
    this.values[lit ^ 1] = -1;
    this.#reason[lit >> 1] = reason;
    this.#levelOf[lit >> 1] = this.#levelStart.length;
    this.trail[this.trailLength++] = lit;
  }

  #backtrack(level: number): void {
    if (this.level <= level) return;
    const start = this.#levelStart[level]!;
    for (let i = this.trailLength - 1; i >= start; i--) {
      const lit = this.trail[i]!;
      this.values[lit] = 0;
      this.values[lit ^ 1] = 0;
      this.#phase[lit >> 1] = (lit & 1) ^ 1;
      this.#heap.insert(lit >> 1);
    }
    this.trailLength = start;
    this.#propagated = start;
    this.#levelStart.length = level;
    this.#decider?.backtracked(level);
  }

  #attach(literals: readonly number[], lbd: number): number {
    const size = literals.length;
    if (this.#arenaLength + size + HEADER > this.#arena.length) {
      if (this.#arena.length >= ARENA_LIMIT) {
        throw new StrataError('LIMIT', 'the relations of this request are too many to resolve', {
          hint: 'ask for fewer layers at once, or remove repositories that the request does not need',
        });
      }
      this.#arena = grown(this.#arena, this.#arenaLength + size + HEADER);
    }
    const clause = this.#arenaLength;
    this.#arena[clause] = size;
    this.#arena[clause + 1] = lbd;
    for (let i = 0; i < size; i++) this.#arena[clause + HEADER + i] = literals[i]!;
    this.#arenaLength += size + HEADER;
    pushWatch(this.#watches, literals[0]! ^ 1, clause, literals[1]!);
    pushWatch(this.#watches, literals[1]! ^ 1, clause, literals[0]!);
    return clause;
  }

  /** Unit propagation. Returns the clause that became false, or -1. */
  #propagate(): number {
    const { values } = this;
    const arena = this.#arena;
    const watches = this.#watches;
    while (this.#propagated < this.trailLength) {
      const lit = this.trail[this.#propagated++]!;
      const list = watches.data[lit]!;
      const length = watches.length[lit]!;
      const falseLit = lit ^ 1;
      let kept = 0;
      for (let i = 0; i < length; i += 2) {
        const clause = list[i]!;
        const blocker = list[i + 1]!;
        if (values[blocker]! > 0) {
          list[kept++] = clause;
          list[kept++] = blocker;
          continue;
        }
        if (arena[clause + 1]! < 0) continue;
        const base = clause + HEADER;
        if (arena[base] === falseLit) {
          arena[base] = arena[base + 1]!;
          arena[base + 1] = falseLit;
        }
        const first = arena[base]!;
        if (first !== blocker && values[first]! > 0) {
          list[kept++] = clause;
          list[kept++] = first;
          continue;
        }
        const end = base + arena[clause]!;
        let other = base + 2;
        while (other < end && values[arena[other]!]! < 0) other++;
        if (other < end) {
          const replacement = arena[other]!;
          arena[base + 1] = replacement;
          arena[other] = falseLit;
          pushWatch(watches, replacement ^ 1, clause, first);
          continue;
        }
        list[kept++] = clause;
        list[kept++] = first;
        if (values[first]! < 0) {
          for (let rest = i + 2; rest < length; rest++) list[kept++] = list[rest]!;
          watches.length[lit] = kept;
          this.#propagated = this.trailLength;
          return clause;
        }
        this.#enqueue(first, clause);
      }
      watches.length[lit] = kept;
    }
    return -1;
  }

  /** Learns the first unique implication point's clause of `conflict`, goes back, and asserts it. */
  #learn(conflict: number): void {
    const arena = this.#arena;
    const seen = this.#seen;
    const learnt: number[] = [0];
    let open = 0;
    let lit = -1;
    let index = this.trailLength - 1;
    let clause = conflict;
    do {
      const end = clause + HEADER + arena[clause]!;
      for (let i = clause + HEADER; i < end; i++) {
        const q = arena[i]!;
        const v = q >> 1;
        if (q === lit || seen[v] || this.#levelOf[v] === 0) continue;
        seen[v] = 1;
        this.#heap.bump(v);
        if (this.#levelOf[v]! >= this.level) open++;
        else learnt.push(q);
      }
      while (!seen[this.trail[index]! >> 1]) index--;
      lit = this.trail[index--]!;
      clause = this.#reason[lit >> 1]!;
      seen[lit >> 1] = 0;
      open--;
    } while (open > 0);
    learnt[0] = lit ^ 1;
    const minimal = learnt.filter((q, i) => i === 0 || !this.#isRedundant(q));
    for (const q of learnt) seen[q >> 1] = 0;
    this.#heap.decay();
    this.#assertLearnt(minimal);
  }

  /** Whether all other literals of the reason of `lit` are in the learnt clause already. */
  #isRedundant(lit: number): boolean {
    const reason = this.#reason[lit >> 1]!;
    if (reason < 0) return false;
    const end = reason + HEADER + this.#arena[reason]!;
    for (let i = reason + HEADER; i < end; i++) {
      const v = this.#arena[i]! >> 1;
      if (v !== lit >> 1 && !this.#seen[v] && this.#levelOf[v]! > 0) return false;
    }
    return true;
  }

  #assertLearnt(literals: number[]): void {
    if (literals.length === 1) {
      this.#backtrack(0);
      this.#enqueue(literals[0]!, NO_REASON);
      return;
    }
    let highest = 1;
    const levels = new Set<number>();
    for (let i = 1; i < literals.length; i++) {
      const level = this.#levelOf[literals[i]! >> 1]!;
      levels.add(level);
      if (level > this.#levelOf[literals[highest]! >> 1]!) highest = i;
    }
    const second = literals[highest]!;
    literals[highest] = literals[1]!;
    literals[1] = second;
    this.#backtrack(this.#levelOf[second >> 1]!);
    const clause = this.#attach(literals, levels.size + 1);
    this.#learnts.push(clause);
    this.#enqueue(literals[0]!, clause);
  }

  /** Drops the worse half of the learnt clauses (by LBD, then age) that are no reason and not of two levels. */
  #forget(): void {
    const arena = this.#arena;
    const order = [...this.#learnts].sort((a, b) => arena[b + 1]! - arena[a + 1]! || a - b);
    let drop = order.length >> 1;
    for (const clause of order) {
      if (drop === 0 || arena[clause + 1]! <= 2) break;
      const first = arena[clause + HEADER]!;
      if (this.values[first]! > 0 && this.#reason[first >> 1] === clause) continue;
      arena[clause + 1] = -1;
      drop--;
    }
    this.#learnts = this.#learnts.filter((clause) => arena[clause + 1]! > 0);
    this.#learntLimit += 500;
  }

  /** The assumptions that imply that `failed` is false, into `core`. */
  #explainAssumption(failed: number): void {
    this.core = [failed];
    if (this.level === 0) return;
    const seen = this.#seen;
    seen[failed >> 1] = 1;
    for (let i = this.trailLength - 1; i >= this.#levelStart[0]!; i--) {
      const lit = this.trail[i]!;
      if (!seen[lit >> 1]) continue;
      seen[lit >> 1] = 0;
      const reason = this.#reason[lit >> 1]!;
      if (reason < 0) {
        this.core.push(lit);
        continue;
      }
      const end = reason + HEADER + this.#arena[reason]!;
      for (let j = reason + HEADER; j < end; j++) {
        const v = this.#arena[j]! >> 1;
        if (v !== lit >> 1 && this.#levelOf[v]! > 0) seen[v] = 1;
      }
    }
    seen[failed >> 1] = 0;
  }
}

/** The Luby sequence 1 1 2 1 1 2 4 ..., from 1. */
function luby(n: number): number {
  let i = n;
  for (;;) {
    let k = 1;
    while ((1 << k) - 1 < i) k++;
    if ((1 << k) - 1 === i) return 1 << (k - 1);
    i -= (1 << (k - 1)) - 1;
  }
}
