/**
 * rename, with NOREPLACE and EXCHANGE. A shared file is copied up, a shared directory gets a private directory with a redirect to
 * where its shared part lies; when no redirect leads to all of it, it is copied up with all below. The move itself is one renameat2; what prepares it
 * changes nothing that one can see.
 * A shared directory leaves a private whiteout at its old name, because its layers' entries must stay visible under the new one; a file leaves
 * whiteouts in the sets of its layers.
 */
import {
  close,
  E,
  fremovexattr,
  fsetxattr,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  RENAME_WHITEOUT,
  readDirectory,
  renameat2,
  setxattrAt,
  unlinkat,
} from '../../sys/index.ts';
import type { Caller } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { copyUpTree } from '../copy-up/copy-up-tree.ts';
import { closeLarge, holdLarge } from '../copy-up/large-files.ts';
import { ORIGIN_XATTR, originOf } from '../copy-up/origin.ts';
import { type Core, type Node, step } from '../core.ts';
import { keepRedirect, partialOf } from '../delta/partial-file.ts';
import { waitForCopy } from '../freeze/follow.ts';
import { followMoved, forgetMoved, noteMoved } from '../nodes/moved-directories.ts';
import {
  type End,
  exchangeNodes,
  moveNode,
  noteExchange,
  noteMove,
  renamedBefore,
} from '../nodes/moved-nodes.ts';
import { pathOf } from '../nodes/nodes.ts';
import { keepRules } from '../policy/enforce.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import {
  entryOf,
  isDirectory,
  OPAQUE,
  REDIRECT,
  REDIRECTS_XATTR,
  unitOf,
} from '../stack/merged-directory.ts';
import { namesOf } from '../stack/merged-names.ts';
import { hideBeyond, isReachable } from '../whiteouts/hide-beyond.ts';
import { freeOldPlace, hideOldPlace, leavesWhiteout, showsElsewhere } from '../whiteouts/old-places.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { hide } from '../whiteouts/whiteouts.ts';
import { candidatesAt, checkName, nodeAt, refresh, uncovered } from './lookup.ts';
import { checkEmpty, lastAttr, loseName, noteLast } from './remove-ops.ts';

const YES = Buffer.from('y');

export function rename(core: Core, caller: Caller, from: End, to: End, flags: number): number {
  if (core.readOnly) return -E.ROFS;
  if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags === (RENAME_NOREPLACE | RENAME_EXCHANGE)) {
    return -E.INVAL;
  }
  const bad = checkName(from.name) || checkName(to.name);
  if (bad < 0) return bad;
  if (renamedBefore(core, from, to)) return 0;
  if (core.stack.policy !== null) {
    const kept = keepRules(core, from, to) || (flags & RENAME_EXCHANGE ? keepRules(core, to, from) : 0);
    if (kept < 0) return kept;
  }
  const simple = renameSimple(core, from, to, flags);
  if (simple !== NOT_SIMPLE) return simple;
  const source = nodeAt(core, from.parent, from.name);
  if (typeof source === 'number') return source === 0 ? -E.NOENT : source;
  const target = nodeAt(core, to.parent, to.name);
  if (typeof target === 'number' && target < 0) return target;
  const covered = core.whiteout;
  const replaced = typeof target === 'number' ? null : target;
  const allowed = check(core, source, replaced, from, to, flags);
  if (allowed !== 0 || source === replaced) return allowed;
  if (replaced !== null && !(flags & RENAME_EXCHANGE)) {
    const waits = waitForCopy(core, caller, replaced);
    if (waits !== 0) return waits;
  }
  const movable =
    makeMovable(core, caller, source) || (flags & RENAME_EXCHANGE ? makeMovable(core, caller, replaced!) : 0);
  if (movable !== 0) return movable;
  const above = chainPrivate(core, caller, from.parent) || chainPrivate(core, caller, to.parent);
  if (above !== 0) return above;
  return flags & RENAME_EXCHANGE
    ? exchange(core, caller, source, replaced!, from, to)
    : move(core, caller, source, replaced, from, to, covered);
}

const NOT_SIMPLE = 1;

/** The usual case in one system call: a private file that is known moves to a new name, and no layer has either name. */
function renameSimple(core: Core, from: End, to: End, flags: number): number {
  const node = from.parent.children!.get(from.name);
  if (flags & RENAME_EXCHANGE || node === undefined || node.children !== null || !node.priv)
    return NOT_SIMPLE;
  if (node.generation !== core.generation || node.copyUp !== null || node.successor !== null)
    return NOT_SIMPLE;
  if (core.hasPartials && partialOf(core, node) !== null) return NOT_SIMPLE;
  if (to.parent.children!.has(to.name) || !isPlain(core, from) || !isPlain(core, to)) return NOT_SIMPLE;
  const fromFd = directoryFd(core, from.parent);
  const toFd = directoryFd(core, to.parent);
  if (fromFd < 0 || toFd < 0) return NOT_SIMPLE;
  noteMove(core, node, null, fromFd, from.name, false);
  step(core, 'rename');
  const moved = renameat2(fromFd, from.name, toFd, to.name, RENAME_NOREPLACE);
  if (moved < 0) return moved === -E.NOSPC || moved === -E.DQUOT ? moved : NOT_SIMPLE;
  moveNode(core, node, from, to);
  return 0;
}

/** The private layer has the directory, and no layer has the name. */
function isPlain(core: Core, { parent, name }: End): boolean {
  if (refresh(core, parent) < 0 || !parent.priv) return false;
  return parent.merged === null || !namesOf(parent.merged).has(name);
}

function check(core: Core, source: Node, target: Node | null, from: End, to: End, flags: number): number {
  if (flags & RENAME_NOREPLACE && target !== null) return -E.EXIST;
  if (flags & RENAME_EXCHANGE && target === null) return -E.NOENT;
  if (source.children !== null && isBelow(to.parent, source)) return -E.INVAL;
  if (target !== null && target.children !== null && isBelow(from.parent, target)) {
    return flags & RENAME_EXCHANGE ? -E.INVAL : -E.NOTEMPTY;
  }
  if (target === null || flags & RENAME_EXCHANGE || source === target) return 0;
  if (source.children !== null && target.children === null) return -E.NOTDIR;
  if (source.children === null && target.children !== null) return -E.ISDIR;
  return target.children === null ? 0 : checkEmpty(core, target);
}

/** Sees to it that it will show what it shows: 0, PENDING or a negative errno. */
function makeMovable(core: Core, caller: Caller, node: Node): number {
  if (node.children === null || node.merged === null || node.redirect !== null) return 0;
  return isReachable(core, node.merged) ? 0 : copyUpTree(core, caller, node);
}

const pathOfEnd = (core: Core, { parent, name }: End): string | null => pathOf(core, parent, name);

function isBelow(node: Node, above: Node): boolean {
  for (let at: Node | null = node; at !== null; at = at.parent) if (at === above) return true;
  return false;
}

/** Makes what moves private, without any visible change. Returns the node that moves (a successor, perhaps), PENDING or a negative errno. */
function prepare(core: Core, caller: Caller, node: Node, to: End, covered: boolean): Node | number {
  if (node.children === null) {
    const copied = copyUp(core, caller, node);
    if (copied === -E.STALE && node.successor !== null) return node.successor;
    return copied === 0 ? node : copied;
  }
  const fd = privateDirectory(core, node);
  if (fd < 0) return fd;
  if (node.merged !== null) {
    if (node.redirect !== null) return node;
    const noted = noteRedirects(core, node);
    if (noted < 0) return noted;
    const redirect = `/${node.merged.path}`;
    step(core, 'rename: redirect');
    const set = fsetxattr(fd, REDIRECT, Buffer.from(redirect, 'latin1'));
    if (set < 0) return set;
    node.redirect = redirect;
    noteMoved(core, node.merged.path, node.parent === null ? null : pathOf(core, node.parent, node.name));
  } else if (covered || uncovered(core, to.parent, to.name).length > 0) {
    step(core, 'rename: opaque');
    const set = fsetxattr(fd, OPAQUE, YES);
    if (set < 0) return set;
  }
  return node;
}

/**
 * Before the first redirect of a directory: private/ remembers that there are some, and what whiteouts of whole directories hide here is
 * hidden name by name, because a redirect does not ask for those.
 */
function noteRedirects(core: Core, node: Node): number {
  if (!core.hasRedirects) {
    const set = fsetxattr(core.rootFd, REDIRECTS_XATTR, YES);
    if (set < 0) return set;
    core.hasRedirects = true;
  }
  return node.merged === null ? 0 : hideBeyond(core, node.merged);
}

function move(
  core: Core,
  caller: Caller,
  given: Node,
  replaced: Node | null,
  from: End,
  to: End,
  covered: boolean,
): number {
  const source = prepare(core, caller, given, to, covered);
  if (typeof source === 'number') return source;
  const fromFd = privateDirectory(core, from.parent);
  if (fromFd < 0) return fromFd;
  const toFd = privateDirectory(core, to.parent);
  if (toFd < 0) return toFd;
  const oldPlace = replaced?.children ? hideOldPlace(core, replaced) : null;
  if (typeof oldPlace === 'number') return oldPlace;
  if (replaced?.children && replaced.priv) {
    const emptied = emptyPrivate(core, replaced);
    if (emptied < 0) return emptied;
  }
  const left = uncovered(core, from.parent, from.name);
  const movesShared = source.children !== null && source.merged !== null && left.length > 0;
  const leaves = movesShared || leavesWhiteout(core, from.parent, from.name);
  if (!leaves && left.length > 0) {
    const hidden = hide(core, left);
    if (hidden < 0) return hidden;
  }
  if (source.children === null) {
    noteOrigin(core, fromFd, from.name, to);
    const kept = keepRedirect(core, source, fromFd, from.name);
    if (kept < 0) return kept;
  }
  const last = replaced === null ? null : lastAttr(core, replaced);
  if (replaced !== null) noteLast(core, replaced, last);
  const paths = source.children === null ? null : ([pathOfEnd(core, from), pathOfEnd(core, to)] as const);
  noteMove(core, source, replaced, fromFd, from.name, source.children !== null && covered && !leaves);
  const held = replaced === null ? -1 : holdLarge(core, replaced, toFd, to.name, last);
  step(core, 'rename');
  const moved = moveNames(core, source, from, to, { fromFd, toFd, covered, leavesWhiteout: leaves });
  closeLarge(core, held);
  if (moved < 0) return moved;
  if (paths !== null) {
    if (replaced !== null) forgetMoved(core, paths[1]);
    followMoved(core, [paths]);
  }
  if (replaced !== null) loseName(core, replaced, to.parent, to.name, last);
  if (source.children === null) hideLinks(core, to);
  moveNode(core, source, from, to);
  if (oldPlace !== null) freeOldPlace(core, oldPlace);
  if (source.children !== null && source.merged === null && !covered) unveil(core, source, from, to);
  return 0;
}

/**
 * A directory of the appliance came to a name that layers have: it was made opaque so that nothing of theirs shows in it at once. From now on whiteouts
 * in their sets do that, so that the next version of a layer is seen. Best effort: the rename is done.
 */
function unveil(core: Core, source: Node, from: End, to: End): void {
  const mayBeOpaque =
    candidatesAt(to.parent, to.name).length + candidatesAt(from.parent, from.name).length > 0;
  if (!mayBeOpaque || leavesWhiteout(core, to.parent, to.name)) return;
  const fd = directoryFd(core, source);
  if (fd < 0 || hide(core, uncovered(core, to.parent, to.name)) < 0) return;
  step(core, 'rename: not opaque');
  fremovexattr(fd, OPAQUE);
}

function moveNames(
  core: Core,
  source: Node,
  from: End,
  to: End,
  how: { fromFd: number; toFd: number; covered: boolean; leavesWhiteout: boolean },
): number {
  const { fromFd, toFd } = how;
  if (source.children === null || !how.covered) {
    return renameat2(fromFd, from.name, toFd, to.name, how.leavesWhiteout ? RENAME_WHITEOUT : 0);
  }
  // A directory cannot replace the private whiteout at its new name, but change places with it.
  const exchanged = renameat2(fromFd, from.name, toFd, to.name, RENAME_EXCHANGE);
  if (exchanged < 0 || how.leavesWhiteout) return exchanged;
  step(core, 'rename: whiteout');
  return unlinkat(fromFd, from.name);
}

function exchange(core: Core, caller: Caller, a: Node, b: Node, from: End, to: End): number {
  const source = prepare(core, caller, a, to, false);
  if (typeof source === 'number') return source;
  const target = prepare(core, caller, b, from, false);
  if (typeof target === 'number') return target;
  const fromFd = privateDirectory(core, from.parent);
  if (fromFd < 0) return fromFd;
  const toFd = privateDirectory(core, to.parent);
  if (toFd < 0) return toFd;
  const kept = keepRedirect(core, source, fromFd, from.name) || keepRedirect(core, target, toFd, to.name);
  if (kept < 0) return kept;
  const there = pathOfEnd(core, to);
  const here = pathOfEnd(core, from);
  noteExchange(core, source, target, { fromFd, toFd, from, to });
  step(core, 'exchange');
  const moved = renameat2(fromFd, from.name, toFd, to.name, RENAME_EXCHANGE);
  if (moved < 0) return moved;
  followMoved(core, [
    [here, there],
    [there, here],
  ]);
  exchangeNodes(core, source, target, from, to);
  return 0;
}

/** An empty directory that will be replaced may hold private whiteouts; made opaque first, it stays empty while they go. */
function emptyPrivate(core: Core, node: Node): number {
  const fd = openDirectory(directoryFd(core, node), '.');
  if (fd < 0) return fd;
  const entries = readDirectory(fd);
  let result = typeof entries === 'number' ? entries : 0;
  if (typeof entries !== 'number' && entries.length > 0) {
    step(core, 'rename: opaque target');
    result = fsetxattr(fd, OPAQUE, YES);
    for (const { name } of result < 0 ? [] : entries) {
      step(core, 'rename: empty target');
      result = unlinkat(fd, name);
      if (result < 0) break;
    }
  }
  close(fd);
  return result;
}

/** Best effort: what the moved file will hide. */
function noteOrigin(core: Core, fd: number, name: string, to: End): void {
  const hidden = candidatesAt(to.parent, to.name);
  if (hidden.length === 0) return;
  const path = pathOf(core, to.parent, to.name);
  if (path !== null) setxattrAt(fd, name, ORIGIN_XATTR, originOf(core.stack, path, hidden[0]!));
}

/** A replaced name of a hard-linked shared inode no longer counts: its layer's set says so. */
function hideLinks(core: Core, to: End): void {
  const linked = uncovered(core, to.parent, to.name).filter(
    (ref) => !isDirectory(core.stack, ref) && unitOf(core.stack, ref).index.nlink(entryOf(ref)) > 1,
  );
  if (linked.length > 0 && !showsElsewhere(core, to.parent)) hide(core, linked);
}
