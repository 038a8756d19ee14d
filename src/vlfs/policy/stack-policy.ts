/**
 * A policy over the levels of one stack: which entries it hides. An inherited object is hidden when a rule matches any path by which an ancestor could
 * reach it when it was frozen: where the stack shows it, where its own level has it, each place on the way that a rename in a level between
 * them left, and all of that for its other names. Marked objects (nonclonable) are hidden too. What is hidden also hides what lower levels
 * have at that name, so that nothing older shows through. States are the matcher's; SHOWN is that of the appliance's own levels.
 */
import { E, fgetxattr, newStat, S_IFDIR, statAt } from '../../sys/index.ts';
import type { LevelSpec, PolicySpec } from '../contract.ts';
import type { MovedDirectory } from '../nodes/moved-directories.ts';
import type { Unit } from '../stack/stack.ts';
import { isMarked, REDIRECT, WAS_XATTR } from './marks.ts';
import { type Matcher, matcherOf, NO_RULE, TOO_MANY_COMBINATIONS } from './matcher.ts';
import { readTree } from './read-tree.ts';

/** The state of what no rule concerns. */
export const SHOWN = -1;
/** The rule of what is marked. */
export const MARKED = Number.MAX_SAFE_INTEGER;
/** The rule of a file some of whose names cannot be found out: one of them may be excluded. */
export const UNREADABLE = Number.MAX_SAFE_INTEGER - 2;

export interface StackPolicy {
  readonly matcher: Matcher;
  /** Per level: the first rule that counts; Infinity in own levels. */
  readonly from: readonly number[];
  readonly rootStates: readonly number[];
  readonly units: readonly Unit[];
  /** Rules of hard-linked files by level and leading entry. */
  readonly linked: Map<string, number>;
}

/** Throws USAGE for a rule that is no pattern. */
export function createStackPolicy(
  spec: PolicySpec,
  levels: readonly LevelSpec[],
  units: readonly Unit[],
): StackPolicy {
  const matcher = matcherOf(spec.rules);
  const from = levels.map(({ own, rulesFrom }) =>
    own === true ? Number.POSITIVE_INFINITY : (rulesFrom ?? 0),
  );
  return {
    matcher,
    from,
    rootStates: from.map((rule) => (rule === Number.POSITIVE_INFINITY ? SHOWN : matcher.start)),
    units,
    linked: new Map(),
  };
}

/** The state of an entry whose directory has `state`: by its name, and by the paths that it had before a rename. */
export function entryState(policy: StackPolicy, level: number, entry: number, state: number): number {
  if (state === SHOWN || policy.matcher.rules.length === 0) return state;
  const { index, overlay } = policy.units[level]!;
  const { matcher } = policy;
  const own = matcher.step(state, index.name(entry));
  if (!overlay || index.kind(entry) !== S_IFDIR || !index.hasXattrs(entry)) return own;
  const xattrs: ReadonlyMap<string, Uint8Array> = index.xattrs(entry);
  const before = [
    ...pathsIn(xattrs.get(WAS_XATTR)),
    ...pathsIn(xattrs.get(REDIRECT)).filter((p) => p.startsWith('/')),
  ];
  return before.reduce((all, path) => matcher.union(all, matcher.stateOf(path)), own);
}

function pathsIn(value: Uint8Array | undefined): string[] {
  return value === undefined ? [] : Buffer.from(value).toString('latin1').split('\0');
}

/** What two ways to one place make of its state. */
export function unionOf(policy: StackPolicy, a: number, b: number): number {
  if (a === SHOWN) return b;
  return b === SHOWN ? a : policy.matcher.union(a, b);
}

/** The rule that hides an entry with this state (of entryState), MARKED, or NO_RULE. */
export function ruleHiding(policy: StackPolicy, level: number, entry: number, state: number): number {
  if (state === SHOWN) return NO_RULE;
  const unit = policy.units[level]!;
  const { index } = unit;
  if (unit.overlay && unit.givesAttributes && index.hasXattrs(entry) && isMarked(index.xattrs(entry)))
    return MARKED;
  if (policy.matcher.rules.length === 0) return NO_RULE;
  const isDirectory = index.kind(entry) === S_IFDIR;
  const rule = policy.matcher.rule(state, isDirectory);
  if (rule >= policy.from[level]!) return rule;
  if (isDirectory || (index.nlink(entry) < 2 && formerPaths(unit, entry).length === 0)) return NO_RULE;
  const linked = ruleOfLinks(policy, level, entry);
  return linked >= policy.from[level]! ? linked : NO_RULE;
}

/** The rule as people know it. */
export function ruleText(policy: StackPolicy, rule: number): string {
  if (rule === UNREADABLE) return 'a name of it cannot be read';
  if (rule === TOO_MANY_COMBINATIONS) return 'too many combinations of patterns';
  return policy.matcher.rules[rule] ?? 'nonclonable';
}

function ruleOfLinks(policy: StackPolicy, level: number, entry: number): number {
  const { index } = policy.units[level]!;
  const key = `${level}/${index.hardLinkLeader(entry)}`;
  const known = policy.linked.get(key);
  if (known !== undefined) return known;
  const unit = policy.units[level]!;
  const links = linkPaths(unit, entry);
  if (links === null) return UNREADABLE;
  let rule = NO_RULE;
  for (const path of [...links, ...formerPaths(unit, entry)]) {
    const places = placesAbove(policy, level, path);
    if (places === null) return UNREADABLE;
    for (const place of places) rule = Math.max(rule, policy.matcher.ruleOfPath(place, false));
  }
  policy.linked.set(key, rule);
  return rule;
}

/** What a file was called in the layers of which its level was merged. */
function formerPaths({ frozen }: Unit, entry: number): readonly string[] {
  return frozen === null ? [] : frozen.formerPaths(entry);
}

/**
 * All names of a hard-linked file in its level, or null when one may be where nothing can be read. An index that was not made from the whole tree does not
 * know them; then the tree is read, once.
 */
function linkPaths(unit: Unit, entry: number): string[] | null {
  const { index } = unit;
  const paths: string[] = [];
  let at = entry;
  do {
    paths.push(index.path(at));
    at = index.hardLinkNext(at);
  } while (at !== entry && paths.length < index.nlink(entry));
  if (paths.length >= index.nlink(entry)) return paths;
  const { value, complete } = linksOf(unit);
  const found = value.get(paths[0]!) ?? paths;
  return complete || found.length >= index.nlink(entry) ? found : null;
}

/** What was read of a level's tree. What could not be read completely is read again after a while. */
interface Read<T> {
  value: T;
  complete: boolean;
  atMs: number;
}

const RETRY_MS = 1000;

function readOnce<T>(known: WeakMap<Unit, Read<T>>, unit: Unit, read: () => Omit<Read<T>, 'atMs'>): Read<T> {
  const before = known.get(unit);
  const now = performance.now();
  if (before !== undefined && (before.complete || now - before.atMs < RETRY_MS)) return before;
  const found = { ...read(), atMs: now };
  known.set(unit, found);
  return found;
}

const links = new WeakMap<Unit, Read<ReadonlyMap<string, string[]>>>();

/** Groups of names of one inode in a tree, by each of their paths. */
function linksOf(unit: Unit): Read<ReadonlyMap<string, string[]>> {
  return readOnce(links, unit, () => {
    const byInode = new Map<number, string[]>();
    const stat = newStat();
    const complete = readTree(unit.treeDir, {
      file(fd, name, path) {
        if (statAt(fd, name, stat) < 0) return false;
        if (stat.nlink < 2) return true;
        const known = byInode.get(stat.ino);
        if (known === undefined) byInode.set(stat.ino, [path]);
        else known.push(path);
        return true;
      },
    });
    const value = new Map<string, string[]>();
    for (const paths of byInode.values())
      if (paths.length > 1) for (const path of paths) value.set(path, paths);
    return { value, complete };
  });
}

const moved = new WeakMap<Unit, Read<readonly MovedDirectory[]>>();

/** The renamed directories of a level. */
function movedIn(unit: Unit): Read<readonly MovedDirectory[]> {
  return readOnce(moved, unit, () => {
    const value: MovedDirectory[] = [];
    const complete = readTree(unit.treeDir, {
      directory(fd, path) {
        const redirect = fgetxattr(fd, REDIRECT);
        if (typeof redirect === 'number') return redirect === -E.NODATA || redirect === -E.OPNOTSUPP;
        const target = Buffer.from(redirect).toString('latin1');
        if (target.startsWith('/')) value.push({ from: target.slice(1), to: path });
        return true;
      },
    });
    return { value, complete };
  });
}

/** A file that shows at more places is taken for excluded. */
const MOST_PLACES = 256;

/** A path of a level with the places where inherited levels above show it, because they renamed a directory; null: they cannot all be told. */
function placesAbove(policy: StackPolicy, level: number, path: string): string[] | null {
  const places = [path];
  for (let above = level - 1; above >= 0; above--) {
    const unit = policy.units[above]!;
    if (policy.from[above] === Number.POSITIVE_INFINITY || !unit.overlay) continue;
    const { value, complete } = movedIn(unit);
    if (!complete) return null;
    for (const { from, to } of value) {
      for (const place of [...places]) {
        if (!place.startsWith(`${from}/`)) continue;
        if (places.length >= MOST_PLACES) return null;
        places.push(`${to}${place.slice(from.length)}`);
      }
    }
  }
  return places;
}
