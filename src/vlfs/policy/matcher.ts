/**
 * The patterns of a policy as one state machine over the parts of paths, made as far as it is used. A state stands for a directory; a step takes a name
 * from a directory's state to that of its entry in one look-up, plus the globs that can match the name's first or last byte, however many
 * patterns there are. States are numbers that belong to one matcher; that of two paths of one object is their union.
 */
import { LIMITS, StrataError } from '../../base/index.ts';
import { matchesGlob, type Pattern, type Piece, parsePattern } from './pattern.ts';

/** No rule. */
export const NO_RULE = -1;

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

/** A set of places in patterns, with what the next name can do. Made once for each set that occurs. */
interface State {
  /** Places: rule * PLACES + part, ascending. */
  places: readonly number[];
  fileRule: number;
  directoryRule: number;
  literals: Map<string, number[]>;
  byFirst: Map<number, Glob[]>;
  byLast: Map<number, Glob[]>;
  otherGlobs: Glob[];
  /** Places that stay whatever the name is. */
  staying: number[];
  /** The state after a name that matches nothing, or -1. */
  otherwise: number;
}

/** Parts of one pattern; a path has fewer. */
const PLACES = 4096;

/** Compiles patterns. Throws USAGE for one that is none, LIMIT for too many. */
export function createMatcher(rules: readonly string[]): Matcher {
  if (rules.length > LIMITS.policyRules) {
    throw new StrataError(
      'LIMIT',
      `a policy has at most ${LIMITS.policyRules} rules, this one ${rules.length}`,
    );
  }
  const patterns = rules.map(parsePattern);
  const states: State[] = [];
  const byPlaces = new Map<string, number>();

  const intern = (places: Iterable<number>): number => {
    const sorted = [...new Set(places)].sort((a, b) => a - b);
    const key = sorted.join(' ');
    const known = byPlaces.get(key);
    if (known !== undefined) return known;
    states.push(makeState(patterns, sorted));
    byPlaces.set(key, states.length - 1);
    return states.length - 1;
  };

  const step = (from: number, name: string): number => {
    const state = states[from]!;
    let next: number[] | null = null;
    const literal = state.literals.get(name);
    if (literal !== undefined) next = [...literal];
    const tried = (globs: readonly Glob[] | undefined): void => {
      for (const { glob, to } of globs ?? []) {
        if (!matchesGlob(glob, name)) continue;
        next ??= [];
        next.push(to);
      }
    };
    if (state.byFirst.size > 0) tried(state.byFirst.get(name.charCodeAt(0)));
    if (state.byLast.size > 0) tried(state.byLast.get(name.charCodeAt(name.length - 1)));
    tried(state.otherGlobs);
    if (next !== null) return intern(closed(patterns, [...next, ...state.staying]));
    if (state.otherwise < 0) state.otherwise = intern(closed(patterns, state.staying));
    return state.otherwise;
  };
  const union = (a: number, b: number): number =>
    a === b ? a : intern([...states[a]!.places, ...states[b]!.places]);
  const rule = (state: number, isDirectory: boolean): number =>
    isDirectory ? states[state]!.directoryRule : states[state]!.fileRule;
  const parts = (path: string): string[] => path.split('/').filter((part) => part !== '');
  const start = intern(
    closed(
      patterns,
      patterns.map((_, i) => i * PLACES),
    ),
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
      const followed = new Set(states[other]!.places);
      return states[state]!.places.some((place) => !followed.has(place));
    },
  };
}

/** With the places behind each "**", which may stand for no directory at all. */
function closed(patterns: readonly Pattern[], places: readonly number[]): number[] {
  return places.flatMap((place) => {
    const rule = Math.floor(place / PLACES);
    return patterns[rule]!.parts[place % PLACES]?.kind === 'any-depth' ? [place, place + 1] : [place];
  });
}

function makeState(patterns: readonly Pattern[], places: readonly number[]): State {
  const state: State = {
    places,
    fileRule: NO_RULE,
    directoryRule: NO_RULE,
    literals: new Map(),
    byFirst: new Map(),
    byLast: new Map(),
    otherGlobs: [],
    staying: [],
    otherwise: -1,
  };
  for (const place of places) {
    const rule = Math.floor(place / PLACES);
    const pattern = patterns[rule]!;
    const part = pattern.parts[place % PLACES];
    if (part === undefined) {
      state.directoryRule = Math.max(state.directoryRule, rule);
      if (!pattern.directoriesOnly) state.fileRule = Math.max(state.fileRule, rule);
    } else if (part.kind === 'any-depth') state.staying.push(place);
    else if (part.kind === 'literal') {
      state.literals.set(part.name, [...(state.literals.get(part.name) ?? []), place + 1]);
    } else addGlob(state, { glob: part.glob, to: place + 1 });
  }
  return state;
}

function addGlob(state: State, glob: Glob): void {
  const first = glob.glob[0]!;
  const last = glob.glob.at(-1)!;
  if ('byte' in first) state.byFirst.set(first.byte, [...(state.byFirst.get(first.byte) ?? []), glob]);
  else if ('byte' in last) state.byLast.set(last.byte, [...(state.byLast.get(last.byte) ?? []), glob]);
  else state.otherGlobs.push(glob);
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
