/**
 * The patterns of a policy as one state machine over the parts of paths, made as far as it is used. A state stands for a directory; a step takes a name
 * from a directory's state to that of its entry in one look-up, plus the globs that can match the name's first or last byte, however many
 * patterns there are. States are numbers that belong to one matcher; that of two paths of one object is their union. Names that a program chooses may reach
 * every combination of patterns that overlap; so there is a bound, and behind it everything is excluded.
 */
import { LIMITS, StrataError } from '../../base/index.ts';
import { matchesGlob, type Part, type Piece, parsePattern } from './pattern.ts';

/** No rule. */
export const NO_RULE = -1;
/** What excludes all below a place where more combinations of patterns meet than are kept. */
export const TOO_MANY_COMBINATIONS = Number.MAX_SAFE_INTEGER - 1;

export interface Matcher {
  readonly rules: readonly string[];
  /** The root's state. */
  readonly start: number;
  step(state: number, name: string): number;
  union(a: number, b: number): number;
  /** The last rule that excludes an object with this state, or NO_RULE. */
  rule(state: number, isDirectory: boolean): number;
  /** The last rule that excludes the object at a path or a directory above it. */
  ruleOfPath(path: string, isDirectory: boolean): number;
  /** The state of a path, whether it is excluded or not. */
  stateOf(path: string): number;
  /** Whether some path below has to do with a rule that the other state does not follow. */
  reachesMore(state: number, other: number): boolean;
}

interface Glob {
  glob: readonly Piece[];
  to: number;
}

/** What the next name can do: places behind parts that it matches. */
interface Tables {
  literals: Map<string, number[]>;
  byFirst: Map<number, Glob[]>;
  byLast: Map<number, Glob[]>;
  otherGlobs: Glob[];
}

/** Parts "**" that were reached and stay whatever comes, with those behind them. Shared by all sets of places that have the same. */
interface Staying {
  id: number;
  places: ReadonlySet<number>;
  tables: Tables;
}

/** Places (rule * PLACES + part, ascending) from which a name goes on. Made once for each set that occurs. */
interface Live {
  id: number;
  staying: Staying;
  /** Beside those of `staying`. */
  places: readonly number[];
  tables: Tables | null;
  /** The state after a name that matches nothing, or -1. */
  otherwise: number;
}

/** How a path can go on, and the last rules that exclude it. */
interface State {
  live: Live;
  fileRule: number;
  directoryRule: number;
}

/** Parts of one pattern; a path has fewer. */
const PLACES = 4096;
/** Of one matcher: places in all its sets together, and states. */
const MOST_PLACES = 1 << 18;
const MOST_STATES = 1 << 15;
/** The state in which everything is excluded. */
const FULL = 0;

/** Compiles patterns. Throws USAGE for one that is none, LIMIT for too many. */
export function createMatcher(rules: readonly string[]): Matcher {
  if (rules.length > LIMITS.policyRules) {
    throw new StrataError(
      'LIMIT',
      `a policy has at most ${LIMITS.policyRules} rules, this one ${rules.length}`,
    );
  }
  const patterns = rules.map(parsePattern);
  const stays = new Map<string, Staying>();
  const lives = new Map<string, Live>();
  const byKey = new Map<string, number>();
  const states: (State | null)[] = [null];
  let kept = 0;

  const partAt = (place: number): Part | undefined =>
    patterns[Math.floor(place / PLACES)]!.parts[place % PLACES];
  const isFull = (): boolean => kept > MOST_PLACES || states.length > MOST_STATES;
  /** These three give null for what is not known when there is no room for it. */
  const stayingAt = (places: ReadonlySet<number>): Staying | null => {
    const sorted = ascending(places);
    const key = sorted.join(' ');
    const known = stays.get(key);
    if (known !== undefined || isFull()) return known ?? null;
    const behind = sorted.map((place) => place + 1);
    const made = { id: stays.size, places, tables: tablesOf(behind, partAt) };
    stays.set(key, made);
    kept += sorted.length + 1;
    return made;
  };
  const liveAt = (staying: Staying, places: readonly number[]): Live | null => {
    const key = `${staying.id} ${places.join(' ')}`;
    const known = lives.get(key);
    if (known !== undefined || isFull()) return known ?? null;
    const tables = places.length === 0 ? null : tablesOf(places, partAt);
    const made = { id: lives.size, staying, places, tables, otherwise: -1 };
    lives.set(key, made);
    kept += places.length + 1;
    return made;
  };
  const stateAt = (live: Live, fileRule: number, directoryRule: number): number | null => {
    const key = `${live.id} ${fileRule} ${directoryRule}`;
    const known = byKey.get(key);
    if (known !== undefined || isFull()) return known ?? null;
    byKey.set(key, states.length);
    return states.push({ live, fileRule, directoryRule }) - 1;
  };
  /** The state of places that were reached, beside those that stay; `rules`: those that are known to exclude it. */
  const intern = (
    before: Staying,
    reached: readonly number[],
    rules: Pick<State, 'fileRule' | 'directoryRule'> = { fileRule: NO_RULE, directoryRule: NO_RULE },
  ): number => {
    let { fileRule, directoryRule } = rules;
    const places = new Set<number>();
    let stay: Set<number> | null = null;
    for (const place of reached) {
      const part = partAt(place);
      if (part === undefined) {
        const rule = Math.floor(place / PLACES);
        directoryRule = Math.max(directoryRule, rule);
        if (!patterns[rule]!.directoriesOnly) fileRule = Math.max(fileRule, rule);
      } else if (part.kind !== 'any-depth') places.add(place);
      else if (!before.places.has(place)) {
        stay ??= new Set(before.places);
        stay.add(place);
      }
    }
    const staying = stay === null ? before : stayingAt(stay);
    const live = staying === null ? null : liveAt(staying, ascending(places));
    return (live === null ? null : stateAt(live, fileRule, directoryRule)) ?? FULL;
  };

  const step = (from: number, name: string): number => {
    if (from === FULL) return FULL;
    const { live } = states[from]!;
    let reached = reachedBy(live.staying.tables, name, null);
    if (live.tables !== null) reached = reachedBy(live.tables, name, reached);
    if (reached !== null) return intern(live.staying, reached);
    if (live.otherwise < 0) live.otherwise = intern(live.staying, []);
    return live.otherwise;
  };
  const union = (a: number, b: number): number => {
    if (a === b) return a;
    if (a === FULL || b === FULL) return FULL;
    const [one, two] = [states[a]!, states[b]!];
    return intern(one.live.staying, [...one.live.places, ...placesOf(two.live)], {
      fileRule: Math.max(one.fileRule, two.fileRule),
      directoryRule: Math.max(one.directoryRule, two.directoryRule),
    });
  };
  const rule = (state: number, isDirectory: boolean): number => {
    if (state === FULL) return TOO_MANY_COMBINATIONS;
    return isDirectory ? states[state]!.directoryRule : states[state]!.fileRule;
  };
  const parts = (path: string): string[] => path.split('/').filter((part) => part !== '');
  const start = intern(
    stayingAt(new Set())!,
    patterns.map((_, i) => i * PLACES),
  );
  return {
    rules,
    start,
    step,
    union,
    rule,
    ruleOfPath(path, isDirectory) {
      let state = start;
      let found = NO_RULE;
      const names = parts(path);
      for (const [i, name] of names.entries()) {
        state = step(state, name);
        found = Math.max(found, rule(state, isDirectory || i < names.length - 1));
      }
      return found;
    },
    stateOf: (path) => parts(path).reduce(step, start),
    reachesMore: (state, other) => {
      if (state === FULL || other === FULL) return other !== FULL;
      const followed = new Set(placesOf(states[other]!.live));
      return placesOf(states[state]!.live).some((place) => !followed.has(place));
    },
  };
}

function ascending(places: ReadonlySet<number>): number[] {
  return [...places].sort((a, b) => a - b);
}

function placesOf({ staying, places }: Live): number[] {
  return [...staying.places, ...places];
}

/** Adds the places behind the parts that a name matches. */
function reachedBy(tables: Tables, name: string, reached: number[] | null): number[] | null {
  let found = reached;
  const literal = tables.literals.get(name);
  if (literal !== undefined) found = [...(found ?? []), ...literal];
  const tried = (globs: readonly Glob[] | undefined): void => {
    for (const { glob, to } of globs ?? []) {
      if (!matchesGlob(glob, name)) continue;
      found ??= [];
      found.push(to);
    }
  };
  if (tables.byFirst.size > 0) tried(tables.byFirst.get(name.charCodeAt(0)));
  if (tables.byLast.size > 0) tried(tables.byLast.get(name.charCodeAt(name.length - 1)));
  tried(tables.otherGlobs);
  return found;
}

function tablesOf(places: readonly number[], partAt: (place: number) => Part | undefined): Tables {
  const tables: Tables = { literals: new Map(), byFirst: new Map(), byLast: new Map(), otherGlobs: [] };
  for (const place of places) {
    const part = partAt(place);
    if (part?.kind === 'literal') {
      const known = tables.literals.get(part.name);
      if (known === undefined) tables.literals.set(part.name, [place + 1]);
      else known.push(place + 1);
    } else if (part?.kind === 'glob') addGlob(tables, { glob: part.glob, to: place + 1 });
  }
  return tables;
}

function addGlob(tables: Tables, glob: Glob): void {
  const first = glob.glob[0]!;
  const last = glob.glob.at(-1)!;
  const add = (by: Map<number, Glob[]>, byte: number): void => {
    const known = by.get(byte);
    if (known === undefined) by.set(byte, [glob]);
    else known.push(glob);
  };
  if ('byte' in first) add(tables.byFirst, first.byte);
  else if ('byte' in last) add(tables.byLast, last.byte);
  else tables.otherGlobs.push(glob);
}

/** Matchers in use are few; each is shared by all stacks with the same rules, because states of two matchers cannot be compared. */
const KEEP = 64;
const matchers = new Map<string, Matcher>();

/** The matcher of these rules. */
export function matcherOf(rules: readonly string[]): Matcher {
  const key = rules.join('\0');
  const known = matchers.get(key) ?? createMatcher(rules);
  matchers.delete(key);
  matchers.set(key, known);
  if (matchers.size > KEEP) matchers.delete(matchers.keys().next().value!);
  return known;
}
