/**
 * The order of decisions: first the literals of the criteria, then what the chosen units need, in the order in which they
 * came in: needs where only the version is open before needs with real alternatives, Recommends last. A need that
 * something chosen satisfies costs nothing. What nothing needs is never decided, so it stays out.
 */
import type { Criterion } from './criteria.ts';
import type { EncodedNeed, Encoding } from './encoding.ts';
import type { Decider } from './sat/solver.ts';

/** Pointers: a place in the list of criteria literals, then three places in the trail. */
const WIDTH = 4;

export function createDecider(encoding: Encoding, criteria: readonly Criterion[]): Decider {
  const { solver } = encoding;
  const wished = criteria.flat();
  let literal = 0;
  let versions = 0;
  let alternatives = 0;
  let soft = 0;
  const saved: number[] = [];

  /** The first need of `list` that nothing satisfies and something may; its preferred candidate's literal, or -1. */
  function choose(list: readonly EncodedNeed[], mode: 'oneLayer' | 'all'): number {
    for (const need of list) {
      if (mode === 'oneLayer' && !need.oneLayer) continue;
      let best = -1;
      let satisfied = false;
      for (const v of need.candidates) {
        const value = solver.values[2 * v]!;
        if (value > 0) {
          satisfied = true;
          break;
        }
        if (value === 0 && best < 0) best = 2 * v;
      }
      if (!satisfied && best >= 0) return best;
    }
    return -1;
  }

  return {
    next() {
      for (; literal < wished.length; literal++) {
        if (solver.values[wished[literal]!] === 0) return wished[literal]!;
      }
      for (; versions < solver.trailLength; versions++) {
        const lit = solver.trail[versions]!;
        if (lit & 1) continue;
        const choice = choose(encoding.needsOf(lit >> 1), 'oneLayer');
        if (choice >= 0) return choice;
      }
      for (; alternatives < solver.trailLength; alternatives++) {
        const lit = solver.trail[alternatives]!;
        if (lit & 1) continue;
        const choice = choose(encoding.needsOf(lit >> 1), 'all');
        if (choice >= 0) return choice;
      }
      for (; soft < solver.trailLength; soft++) {
        const lit = solver.trail[soft]!;
        if (lit & 1) continue;
        const choice = choose(encoding.softNeedsOf(lit >> 1), 'all');
        if (choice >= 0) return choice;
      }
      return -1;
    },
    opening(level) {
      const at = level * WIDTH;
      saved[at] = literal;
      saved[at + 1] = versions;
      saved[at + 2] = alternatives;
      saved[at + 3] = soft;
    },
    backtracked(level) {
      const at = level * WIDTH;
      literal = saved[at]!;
      versions = saved[at + 1]!;
      alternatives = saved[at + 2]!;
      soft = saved[at + 3]!;
    },
  };
}
