/**
 * The differences between what two VLFSs show, in time proportional to what differs: a directory in which both have the same parts of the same units is left out with all
 * below it, and of the other directories only the names are looked at that some part holds which the two do not share. Policies are obeyed: what one of the two may not
 * see is no difference. It only looks, so both may be mounted.
 */
import { LIMITS } from '../../base/index.ts';
import { close, readDirectory, S_IFDIR } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt, refresh } from '../operations/lookup.ts';
import { MARK_XATTR, USER_MARK } from '../policy/marks.ts';
import { NO_RULE } from '../policy/matcher.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { entryOf, type Reference, unitOf } from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { type Common, commonOf, unsharedOf } from './common.ts';
import { rawXattr } from './raw-xattrs.ts';
import { isSameFile, type Likeness, likeness } from './same-object.ts';

export type Change = 'added' | 'deleted' | Exclude<Likeness, 'same'>;

/** One difference; the root is ''. The nodes are valid during the visit only. */
export interface Difference {
  path: string;
  name: string;
  /** 'same': seen alike, but not the same object; only told when `all` is asked for. */
  change: Change | 'same';
  /** What each has there, or null; and the directories in which it is. */
  left: Node | null;
  right: Node | null;
  leftParent: Node | null;
  rightParent: Node | null;
}

export interface CompareOptions {
  /** Only what lies at or below this path (latin1, '' is all). */
  within?: string;
  /** Tells of files that look alike but are not the same inode, too. */
  all?: boolean;
  visit(difference: Difference): void;
  /** Told of names whose paths are too long for any program (LIMITS.pathBytes); neither they nor what is below is looked at. */
  beyond?(path: string): void;
}

interface Pair {
  path: string;
  left: Node | null;
  right: Node | null;
}

/** Visits every difference from `left` to `right`. Below an added directory all is told, a deleted one is told alone. */
export function compare(left: Core, right: Core, options: CompareOptions): void {
  if ((options.within ?? '') === '') {
    const change = likeness(left, left.root, right, right.root);
    const roots = { left: left.root, right: right.root, leftParent: null, rightParent: null };
    if (change !== 'same') options.visit({ path: '', name: '', change, ...roots });
  }
  comparePair(left, right, { path: '', left: left.root, right: right.root }, options);
}

/** As compare, for two directories that stand at different places. `path`: what theirs is called. */
export function comparePair(left: Core, right: Core, pair: Pair, options: CompareOptions): void {
  const walk: Walk = { left, right, common: commonOf(left, right), options, pending: [] };
  push(walk, pair);
  try {
    for (let next = walk.pending.pop(); next !== undefined; next = walk.pending.pop()) {
      try {
        compareChildren(walk, next);
      } finally {
        unpin(walk, next);
      }
    }
  } finally {
    for (const pinned of walk.pending) unpin(walk, pinned);
  }
}

interface Walk {
  left: Core;
  right: Core;
  common: Common;
  options: CompareOptions;
  pending: Pair[];
}

function push(walk: Walk, pair: Pair): void {
  for (const node of [pair.left, pair.right]) if (node !== null) node.lookups++;
  walk.pending.push(pair);
}

function unpin(walk: Walk, pair: Pair): void {
  if (pair.left !== null) unpinNode(walk.left, pair.left);
  if (pair.right !== null) unpinNode(walk.right, pair.right);
}

function unpinNode(core: Core, node: Node): void {
  node.lookups--;
  releaseIfUnused(core, node);
}

function isWithin(prefix: string, path: string): boolean {
  return prefix === '' || path === prefix || path.startsWith(`${prefix}/`) || prefix.startsWith(`${path}/`);
}

function compareChildren(walk: Walk, { path, left, right }: Pair): void {
  const { names, own } = namesToCompare(walk, left, right);
  for (const name of names) {
    if (!own.has(name) && showSameFile(walk, left, right, name)) continue;
    const at = path === '' ? name : `${path}/${name}`;
    if (!isWithin(walk.options.within ?? '', at)) continue;
    const a = left === null ? null : childOf(walk.left, left, name);
    const b = right === null ? null : childOf(walk.right, right, name);
    if (at.length <= LIMITS.pathBytes)
      compareOne(walk, { path: at, name, leftParent: left, rightParent: right, left: a, right: b });
    else if (a !== null || b !== null) walk.options.beyond?.(at);
    if (a !== null) releaseIfUnused(walk.left, a);
    if (b !== null) releaseIfUnused(walk.right, b);
  }
}

function childOf(core: Core, parent: Node, name: string): Node | null {
  const node = nodeAt(core, parent, name);
  return typeof node === 'number' ? null : node;
}

function compareOne(walk: Walk, found: Omit<Difference, 'change'>): void {
  const { left, right, path } = found;
  const { visit, within = '' } = walk.options;
  const tell = (change: Difference['change']): void => {
    if (within === '' || path === within || path.startsWith(`${within}/`)) visit({ ...found, change });
  };
  if (left === null && right === null) return;
  if (left === null || right === null) {
    if (isDenied(walk, found)) return;
    tell(left === null ? 'added' : 'deleted');
    if (right !== null && right.kind === S_IFDIR) push(walk, { path, left: null, right });
    return;
  }
  const how = likeness(walk.left, left, walk.right, right);
  if (how !== 'same') tell(how);
  else if (
    walk.options.all === true &&
    left.kind !== S_IFDIR &&
    !isSameFile(walk.left, left, walk.right, right)
  )
    tell('same');
  if (right.kind === S_IFDIR) push(walk, { path, left: left.kind === S_IFDIR ? left : null, right });
}

/** Whether who lacks an object lacks it because its policy says so. An appliance has seen all that it had at another time. */
function isDenied(
  walk: Walk,
  { path, name, left, right, leftParent, rightParent }: Omit<Difference, 'change'>,
): boolean {
  const [has, there] = left === null ? [walk.right, right!] : [walk.left, left];
  const [lacks, parent] = left === null ? [walk.left, leftParent] : [walk.right, rightParent];
  const { policy } = lacks.stack;
  if (policy === null || has.name === lacks.name) return false;
  if (parent?.merged != null) {
    namesOf(parent.merged);
    if (parent.merged.denied?.has(name)) return true;
  }
  if (policy.matcher.ruleOfPath(path, there.kind === S_IFDIR) !== NO_RULE) return true;
  return [MARK_XATTR, USER_MARK].some((mark) => rawXattr(has, there, mark) !== null);
}

/**
 * Whether frozen layers of both show the same inode at a name that no private layer has: as lists of directories tell, so nothing more is read. Layers that were merged
 * in the background hold the files of those that they were made of.
 */
function showSameFile(walk: Walk, left: Node | null, right: Node | null, name: string): boolean {
  const one = frozenFileAt(walk.left, left, name);
  if (one === null) return false;
  const two = frozenFileAt(walk.right, right, name);
  return two !== null && one.ino === two.ino && one.dev === two.dev;
}

function frozenFileAt(core: Core, node: Node | null, name: string): { dev: number; ino: number } | null {
  if (node === null || node.merged === null) return null;
  const ref = visibleOf(namesOf(node.merged).get(name), core.hidden);
  const frozen = ref < 0 ? null : unitOf(core.stack, ref).frozen;
  if (frozen === null || frozen.kind(entryOf(ref)) === S_IFDIR) return null;
  return { dev: frozen.stat(0).dev, ino: frozen.listedIno(entryOf(ref)) };
}

/** The names at which the directories may differ; `own`: those that a private layer has. */
function namesToCompare(
  walk: Walk,
  left: Node | null,
  right: Node | null,
): { names: Set<string>; own: ReadonlySet<string> } {
  const own = new Set<string>();
  if (left !== null && refresh(walk.left, left) === 0) addPrivate(walk.left, left, own);
  if (right !== null && refresh(walk.right, right) === 0) addPrivate(walk.right, right, own);
  const names = new Set(own);
  const a = left?.merged?.contributors ?? [];
  const b = right?.merged?.contributors ?? [];
  const unshared = unsharedOf(walk.common, walk.left, a, walk.right, b);
  addParts(walk.left, unshared.left, names);
  addParts(walk.right, unshared.right, names);
  for (const ref of unshared.shared) {
    const uneven = walk.common.uneven.get(unitOf(walk.left.stack, ref))?.get(entryOf(ref));
    for (const name of uneven ?? []) names.add(name);
  }
  return { names, own };
}

function addPrivate(core: Core, node: Node, names: Set<string>): void {
  const base = node.priv ? directoryFd(core, node) : -1;
  const fd = base < 0 ? base : openDirectory(base, '.');
  if (fd < 0) return;
  const entries = readDirectory(fd);
  close(fd);
  for (const { name } of typeof entries === 'number' ? [] : entries) names.add(name);
}

function addParts(core: Core, refs: readonly Reference[], names: Set<string>): void {
  for (const ref of refs) {
    const { index } = unitOf(core.stack, ref);
    const first = index.firstChild(entryOf(ref));
    const end = first + index.childCount(entryOf(ref));
    for (let child = first; child < end; child++) names.add(index.name(child));
  }
}
