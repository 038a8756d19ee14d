/**
 * What a three-way merge does: the changes of the child since the base, each held against what the parent has there now and had then. Nothing is changed here. All paths are
 * latin1 without a leading slash; '' is the root, of which only owner, mode and attributes can change.
 */
import { compareNames, LIMITS, nameToText, StrataError } from '../../base/index.ts';
import { S_IFDIR } from '../../sys/index.ts';
import { type Change, compare, type Difference } from '../compare/compare.ts';
import { rawXattr } from '../compare/raw-xattrs.ts';
import { diskInode, likeness } from '../compare/same-object.ts';
import type { ConflictKind, MergeChoice } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt } from '../operations/lookup.ts';
import { MARK_XATTR, USER_MARK } from '../policy/marks.ts';

/** The open VLFSs of a merge; the bases are what child and parent showed when they parted. */
export interface Sides {
  child: Core;
  childBase: Core;
  parent: Core;
  parentBase: Core;
}

export interface PlannedConflict {
  path: string;
  kind: ConflictKind;
  /** Whose version is taken; null: nobody said. */
  taken: 'ours' | 'theirs' | null;
}

export interface Plan {
  /** Paths that become what the child has, with its change; parents first. */
  puts: Map<string, Change>;
  /** Paths that go with all below. */
  removes: Set<string>;
  conflicts: PlannedConflict[];
  /** Files of the child by path, with their inode on disk: those that share one become hard links. */
  inodes: Map<string, string>;
}

interface Changes {
  /** What is really another; not what only is another inode. */
  at: Map<string, Change>;
  /** Every path above one of them that is no deletion. */
  above: Set<string>;
  /** Where only times are others. */
  times: Set<string>;
  inodes: Map<string, string>;
  /** A path that is too long to be merged; null: there is none. */
  beyond: string | null;
}

/** `without`: what this says of an object of `now` is left out with all below. */
function changesOf(base: Core, now: Core, without: (node: Node) => boolean = () => false): Changes {
  const changes: Changes = {
    at: new Map(),
    above: new Set(),
    times: new Set(),
    inodes: new Map(),
    beyond: null,
  };
  const visit = ({ path, change, left, right }: Difference): void => {
    if (right !== null && without(right)) return;
    if (right !== null && right.kind !== S_IFDIR) {
      const inode = diskInode(now, right);
      if (inode !== null) changes.inodes.set(path, inode);
    }
    if (change === 'same') return;
    if (change === 'metadata' && likeness(base, left!, now, right!, false) === 'same') {
      changes.times.add(path);
      return;
    }
    changes.at.set(path, change);
    if (change !== 'deleted') for (const above of pathsAbove(path)) changes.above.add(above);
  };
  const beyond = (path: string): void => {
    changes.beyond ??= path;
    for (const above of pathsAbove(path)) changes.above.add(above);
  };
  compare(base, now, { all: true, visit, beyond });
  return changes;
}

/** Whether an object is marked as nonclonable, or in a directory that is. */
function markedIn(core: Core): (node: Node) => boolean {
  const known = new WeakMap<Node, boolean>();
  const isMarked = (node: Node): boolean => {
    const before = known.get(node);
    if (before !== undefined) return before;
    const found =
      [MARK_XATTR, USER_MARK].some((mark) => rawXattr(core, node, mark) !== null) ||
      (node.parent !== null && isMarked(node.parent));
    known.set(node, found);
    return found;
  };
  return isMarked;
}

/** The directories above a path, topmost first. */
export function pathsAbove(path: string): string[] {
  const found: string[] = [];
  for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1)) found.push(path.slice(0, at));
  return found;
}

/** Runs `use` with the node at a path, or null. */
export function withNode<T>(core: Core, path: string, use: (node: Node | null) => T): T {
  if (path === '') return use(core.root);
  const parts = path.split('/');
  const name = parts.pop()!;
  const parent = directoryByPath(core, parts);
  if (parent === null) return use(null);
  const node = nodeAt(core, parent, name);
  const found = typeof node === 'number' ? null : node;
  try {
    return use(found);
  } finally {
    releaseIfUnused(core, found ?? parent);
  }
}

/** `leavesMarked`: what the child has marked as nonclonable stays with it. Throws LIMIT when the child has changed something whose path is longer than any program can name. */
export function planMerge(sides: Sides, choice: MergeChoice, leavesMarked = false): Plan {
  const marked = leavesMarked ? markedIn(sides.child) : undefined;
  const child = changesOf(sides.childBase, sides.child, marked);
  if (child.beyond !== null) throw tooLong(child.beyond);
  const parent = changesOf(sides.parentBase, sides.parent);
  const plan: Plan = { puts: new Map(), removes: new Set(), conflicts: [], inodes: child.inodes };
  const planning: Planning = { sides, choice, child, parent, plan, closed: new Set() };
  for (const path of [...child.at.keys()].sort(compareNames)) decide(planning, path, child.at.get(path)!);
  for (const path of child.times) if (staysAsItWas(planning, path)) plan.puts.set(path, 'metadata');
  addLinks(planning);
  return plan;
}

/** The directory in which it is cannot be named either in a message. */
function tooLong(path: string): StrataError {
  const text = nameToText(path as never);
  const shown = `/${text.slice(0, 120)}...${text.slice(-60)}`;
  const most = LIMITS.pathBytes.toLocaleString('en');
  return new StrataError('LIMIT', `${shown} is longer than ${most} bytes, so it cannot be merged`, {
    hint: 'move or remove that directory in the child (cd into it step by step), then merge again',
  });
}

interface Planning {
  sides: Sides;
  choice: MergeChoice;
  child: Changes;
  parent: Changes;
  plan: Plan;
  /** Paths below which nothing is looked at any more: the parent's stays, or nobody has said which. */
  closed: Set<string>;
}

function decide(planning: Planning, path: string, change: Change): void {
  const { plan, closed } = planning;
  if (pathsAbove(path).some((above) => closed.has(above))) return;
  const kind = change === 'deleted' ? deletionConflict(planning, path) : putConflict(planning, path, change);
  if (kind === 'done') return;
  if (kind === null) {
    take(plan, path, change);
    return;
  }
  const taken = chosen(planning.choice, path);
  plan.conflicts.push({ path, kind, taken });
  // All of the child's version, where the parent has changed the rest.
  if (taken === 'theirs') take(plan, path, change === 'metadata' ? 'changed' : change);
  else if (kind !== 'metadata') closed.add(path);
}

function take(plan: Plan, path: string, change: Change): void {
  if (change === 'deleted') plan.removes.add(path);
  else plan.puts.set(path, change);
}

/** The most exact word on a path. */
export function chosen({ prefer, ours, theirs }: MergeChoice, path: string): 'ours' | 'theirs' | null {
  const depth = (paths: readonly string[]): number =>
    Math.max(
      -1,
      ...paths.filter((at) => at === '' || at === path || path.startsWith(`${at}/`)).map((at) => at.length),
    );
  const [mine, others] = [depth(ours), depth(theirs)];
  if (mine < 0 && others < 0) return prefer;
  return mine > others ? 'ours' : 'theirs';
}

function isTouched({ parent }: Planning, path: string): boolean {
  return parent.at.has(path) || parent.above.has(path);
}

function deletionConflict(planning: Planning, path: string): ConflictKind | 'done' | null {
  const isThere = withNode(planning.sides.parent, path, (node) => node !== null);
  if (!isThere) return 'done';
  return isTouched(planning, path) ? 'deleted-by-child' : null;
}

function putConflict(planning: Planning, path: string, change: Change): ConflictKind | 'done' | null {
  const { sides, plan, parent } = planning;
  for (const above of pathsAbove(path)) {
    if (plan.puts.has(above)) continue;
    const isDirectory = withNode(sides.parent, above, (node) => node?.kind === S_IFDIR);
    if (!isDirectory) return 'deleted-by-parent';
  }
  return withNode(sides.child, path, (one) =>
    withNode(sides.parent, path, (other) => {
      if (one === null) return 'done';
      if (!parent.at.has(path)) {
        if (other === null) return change === 'added' ? null : 'deleted-by-parent';
        if (change === 'added') return 'hidden';
        return other.kind === S_IFDIR && one.kind !== S_IFDIR && parent.above.has(path) ? 'type' : null;
      }
      if (other === null) return 'deleted-by-parent';
      if (likeness(sides.child, one, sides.parent, other, false) === 'same') return 'done';
      if (one.kind !== other.kind) return 'type';
      if (one.kind === S_IFDIR) return 'metadata';
      const both = [change, parent.at.get(path)!];
      if (both.includes('added')) return 'added';
      return both.every((one) => one === 'metadata') ? 'metadata' : 'changed';
    }),
  );
}

/** Whether the parent has the object, unchanged but for times. */
function staysAsItWas({ sides, parent, closed }: Planning, path: string): boolean {
  if (parent.at.has(path) || pathsAbove(path).some((above) => closed.has(above))) return false;
  return withNode(sides.parent, path, (node) => node !== null && node.kind !== S_IFDIR);
}

/** Names of a file that is taken which look as before, but are the same inode as another: they become links too, where the parent left them as they were. */
function addLinks(planning: Planning): void {
  const { child, plan } = planning;
  const taken = new Set<string>();
  for (const path of plan.puts.keys()) {
    const inode = child.inodes.get(path);
    if (inode !== undefined) taken.add(inode);
  }
  const more: string[] = [];
  for (const [path, inode] of child.inodes) {
    if (taken.has(inode) && !child.at.has(path) && staysAsItWas(planning, path)) more.push(path);
  }
  for (const path of more) plan.puts.set(path, 'metadata');
  plan.puts = new Map([...plan.puts].sort(([a], [b]) => compareNames(a, b)));
}
