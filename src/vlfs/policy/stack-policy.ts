/**
 * A policy over the levels of one stack: which entries it hides. An inherited object is hidden when a rule matches any path by which an ancestor could
 * reach it when it was frozen: where the stack shows it, where its own level has it, each place on the way that a rename in a level between
 * them left, and all of that for its other names. Marked objects (nonclonable) are hidden too. What is hidden also hides what lower levels
 * have at that name, so that nothing older shows through. States are the matcher's; SHOWN is that of the appliance's own levels.
 */
import { nameFromText } from '../../base/index.ts';
import { AT_FDCWD, close, DT_DIR, newStat, readDirectory, S_IFDIR, S_IFMT, statAt } from '../../sys/index.ts';
import type { LevelSpec, PolicySpec } from '../contract.ts';
import { collectMoved, type MovedDirectory } from '../nodes/moved-directories.ts';
import type { Unit } from '../stack/stack.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { isMarked, REDIRECT, WAS_XATTR } from './marks.ts';
import { type Matcher, matcherOf, NO_RULE } from './matcher.ts';

/** The state of what no rule concerns. */
export const SHOWN = -1;
/** The rule of what is marked. */
export const MARKED = Number.MAX_SAFE_INTEGER;

export interface StackPolicy {
  readonly matcher: Matcher;
  /** Per level: the first rule that counts; Infinity in own levels. */
  readonly from: readonly number[];
  readonly rootStates: readonly number[];
  readonly units: readonly Unit[];
  /** Rules of hard-linked files by level and leading entry. */
  readonly linked: Map<string, number>;
  /** Renamed directories of each level, found on first use. */
  readonly moved: (readonly MovedDirectory[] | undefined)[];
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
    moved: [],
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
  return policy.matcher.rules[rule] ?? 'nonclonable';
}

function ruleOfLinks(policy: StackPolicy, level: number, entry: number): number {
  const { index } = policy.units[level]!;
  const key = `${level}/${index.hardLinkLeader(entry)}`;
  const known = policy.linked.get(key);
  if (known !== undefined) return known;
  let rule = NO_RULE;
  const unit = policy.units[level]!;
  for (const path of [...linkPaths(unit, entry), ...formerPaths(unit, entry)])
    for (const place of placesAbove(policy, level, path))
      rule = Math.max(rule, policy.matcher.ruleOfPath(place, false));
  policy.linked.set(key, rule);
  return rule;
}

/** What a file was called in the layers of which its level was merged. */
function formerPaths({ frozen }: Unit, entry: number): readonly string[] {
  return frozen === null ? [] : frozen.formerPaths(entry);
}

/** All names of a hard-linked file in its level. An index that was not made from the whole tree does not know them; then the tree is read, once. */
function linkPaths(unit: Unit, entry: number): string[] {
  const { index } = unit;
  const paths: string[] = [];
  let at = entry;
  do {
    paths.push(index.path(at));
    at = index.hardLinkNext(at);
  } while (at !== entry && paths.length < index.nlink(entry));
  if (paths.length >= index.nlink(entry)) return paths;
  return groupsOf(unit).get(paths[0]!) ?? paths;
}

const groups = new WeakMap<Unit, Map<string, string[]>>();

/** Groups of names of one inode in a tree, by each of their paths. */
function groupsOf(unit: Unit): Map<string, string[]> {
  const known = groups.get(unit);
  if (known !== undefined) return known;
  const byInode = new Map<string, string[]>();
  const root = openDirectory(AT_FDCWD, nameFromText(unit.treeDir));
  if (root >= 0) {
    collectLinked(root, '', byInode);
    close(root);
  }
  const byPath = new Map<string, string[]>();
  for (const paths of byInode.values())
    if (paths.length > 1) for (const path of paths) byPath.set(path, paths);
  groups.set(unit, byPath);
  return byPath;
}

function collectLinked(fd: number, path: string, into: Map<string, string[]>): void {
  const stat = newStat();
  const entries = readDirectory(fd);
  for (const { name, type } of typeof entries === 'number' ? [] : entries) {
    const at = path === '' ? name : `${path}/${name}`;
    if (type !== DT_DIR && statAt(fd, name, stat) === 0 && (stat.mode & S_IFMT) !== S_IFDIR) {
      if (stat.nlink < 2) continue;
      const known = into.get(`${stat.ino}`);
      if (known === undefined) into.set(`${stat.ino}`, [at]);
      else known.push(at);
      continue;
    }
    const sub = openDirectory(fd, name);
    if (sub < 0) continue;
    collectLinked(sub, at, into);
    close(sub);
  }
}

const MOST_PLACES = 256;

/** A path of a level with the places where inherited levels above show it, because they renamed a directory. */
function placesAbove(policy: StackPolicy, level: number, path: string): string[] {
  const places = [path];
  for (let above = level - 1; above >= 0; above--) {
    if (policy.from[above] === Number.POSITIVE_INFINITY) continue;
    for (const { from, to } of movedIn(policy, above)) {
      for (const place of [...places]) {
        if (place.startsWith(`${from}/`) && places.length < MOST_PLACES)
          places.push(`${to}${place.slice(from.length)}`);
      }
    }
  }
  return places;
}

function movedIn(policy: StackPolicy, level: number): readonly MovedDirectory[] {
  const known = policy.moved[level];
  if (known !== undefined) return known;
  const unit = policy.units[level]!;
  const moved: MovedDirectory[] = [];
  const fd = unit.overlay ? openDirectory(AT_FDCWD, nameFromText(unit.treeDir)) : -1;
  if (fd >= 0) {
    collectMoved(fd, '', moved);
    close(fd);
  }
  policy.moved[level] = moved;
  return moved;
}
