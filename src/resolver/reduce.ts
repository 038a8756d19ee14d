/**
 * From a solution to what of it is needed: everything that the targets reach, then nothing of what was added that
 * could be left out. Installed units stay as long as something still needs or recommends them.
 */
import type { EncodedNeed, Encoding } from './encoding.ts';

/** Why a unit is in: the variable that needs it, and the need. */
export interface Cause {
  owner: number;
  need: EncodedNeed;
}

/** The needed variables (units, targets and bases), each with its cause. Targets have none. */
export type Needed = Map<number, Cause | null>;

export interface ReduceOptions {
  /** Only what hard needs reach, from these variables (default: from the targets, with soft needs). */
  hardFrom?: readonly number[];
  /** Needed already: stays, and what can be left out was left out before. */
  keep?: Needed;
}

/** Reads the solver's assignment, so call it before the next change to the solver. */
export function neededVariables(encoding: Encoding, options: ReduceOptions = {}): Needed {
  const needed = markNeeded(encoding, options);
  if (options.hardFrom || options.keep) return needed;
  const roots = new Set(encoding.targets);
  const redundant = findRedundant(encoding, needed, roots);
  for (const v of redundant) needed.delete(v);
  return redundant.size === 0 ? needed : withShortestCauses(encoding, needed, roots);
}

function isTrue(encoding: Encoding, v: number): boolean {
  return encoding.solver.values[2 * v]! > 0;
}

function isInstalled(encoding: Encoding, v: number): boolean {
  const unit = encoding.unitOf(v);
  return unit >= 0 && encoding.preference.installed.has(encoding.index.units[unit]!.layer);
}

function needsOf(encoding: Encoding, v: number, withSoft: boolean): readonly EncodedNeed[] {
  const hard = encoding.needsOf(v);
  const soft = withSoft ? encoding.softNeedsOf(v) : [];
  return soft.length === 0 ? hard : [...hard, ...soft];
}

/** Breadth first; a need that several units could satisfy waits until all needs with one possibility are followed. */
function markNeeded(encoding: Encoding, options: ReduceOptions): Needed {
  const needed: Needed = new Map();
  const queue: number[] = [];
  const waiting: Cause[] = [];
  const mark = (v: number, cause: Cause | null): void => {
    if (needed.has(v)) return;
    needed.set(v, cause);
    queue.push(v);
  };
  for (const v of options.hardFrom ?? encoding.targets) mark(v, null);
  for (const [v, cause] of options.keep ?? []) mark(v, cause);
  let head = 0;
  let waited = 0;
  for (;;) {
    for (; head < queue.length; head++) {
      const v = queue[head]!;
      for (const need of needsOf(encoding, v, options.hardFrom === undefined)) {
        const present = need.candidates.filter((c) => isTrue(encoding, c));
        if (present.length === 1) mark(present[0]!, { owner: v, need });
        else if (present.length > 1) waiting.push({ owner: v, need });
      }
      const base = encoding.baseOf(v);
      if (base >= 0) mark(base, null);
    }
    const cause = waiting[waited++];
    if (!cause) return needed;
    const present = cause.need.candidates.filter((c) => isTrue(encoding, c));
    for (const c of present) if (isInstalled(encoding, c)) mark(c, cause);
    if (!present.some((c) => needed.has(c))) mark(present[0]!, cause);
  }
}

/** Added units that can be left out, with all that only they satisfy: found by trying, for those where a need has two. */
function findRedundant(encoding: Encoding, needed: Needed, roots: ReadonlySet<number>): Set<number> {
  const owners = new Map<number, Owner[]>();
  const tried = new Set<number>();
  const own = (v: number, owner: Owner): void => {
    const list = owners.get(v);
    if (list) list.push(owner);
    else owners.set(v, [owner]);
  };
  for (const v of needed.keys()) {
    for (const { candidates } of needsOf(encoding, v, true)) {
      const present = candidates.filter((c) => needed.has(c));
      for (const c of present) {
        own(c, { owner: v, candidates: present });
        if (present.length > 1 && !isInstalled(encoding, c)) tried.add(c);
      }
    }
    const base = encoding.baseOf(v);
    if (base >= 0) own(base, { owner: v, candidates: [base] });
  }
  const out = new Set<number>();
  for (const start of [...tried].reverse()) {
    if (out.has(start)) continue;
    const trial = new Set([start]);
    if (leaveOut(encoding, start, { out, trial, owners, roots })) for (const v of trial) out.add(v);
  }
  return out;
}

/** A variable that needs one of `candidates`, which are all needed themselves. */
interface Owner {
  owner: number;
  candidates: readonly number[];
}

interface Trial {
  out: ReadonlySet<number>;
  /** Grows: what has to go with the first. */
  trial: Set<number>;
  owners: ReadonlyMap<number, readonly Owner[]>;
  roots: ReadonlySet<number>;
}

/** Whether `start` can go, with every added unit whose needs it alone satisfies. */
function leaveOut(encoding: Encoding, start: number, { out, trial, owners, roots }: Trial): boolean {
  const stack = [start];
  for (let v = stack.pop(); v !== undefined; v = stack.pop()) {
    for (const { owner, candidates } of owners.get(v) ?? []) {
      if (out.has(owner) || trial.has(owner)) continue;
      if (candidates.some((c) => !out.has(c) && !trial.has(c))) continue;
      if (roots.has(owner) || isInstalled(encoding, owner)) return false;
      trial.add(owner);
      stack.push(owner);
    }
  }
  return true;
}

/** The same units reached anew, so that no cause names a unit that was left out; drops what is not reached any more. */
function withShortestCauses(encoding: Encoding, kept: Needed, roots: ReadonlySet<number>): Needed {
  const needed: Needed = new Map();
  const queue: number[] = [];
  const mark = (v: number, cause: Cause | null): void => {
    if (needed.has(v) || !kept.has(v)) return;
    needed.set(v, cause);
    queue.push(v);
  };
  for (const v of roots) mark(v, null);
  for (let head = 0; head < queue.length; head++) {
    const v = queue[head]!;
    for (const need of needsOf(encoding, v, true))
      for (const c of need.candidates) mark(c, { owner: v, need });
    const base = encoding.baseOf(v);
    if (base >= 0) mark(base, null);
  }
  return needed;
}
