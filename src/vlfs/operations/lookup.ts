/**
 * What is at a name: the private layer first, then the stack's merged directory less the appliance's whiteouts. Names are checked here.
 * A name costs at most one system call (none where the private layer lacks the directory), however many levels there are.
 */
import { LIMITS, type Name } from '../../base/index.ts';
import {
  E,
  fgetxattr,
  flistxattr,
  getxattrAt,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  splitXattrList,
  statAt,
} from '../../sys/index.ts';
import { type Core, forgetShared, type Node, newNode, rememberShared, sharedNode } from '../core.ts';
import { decodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { privateIno } from '../nodes/inode-numbers.ts';
import { attachName, detachName } from '../nodes/nodes.ts';
import { mayRemember } from '../nodes/shares.ts';
import { directoryFd, dropDirectoryFd } from '../private-layer/directory-fds.ts';
import { dropParked } from '../private-layer/parked-files.ts';
import { childDirectory, directoryAt, isOpaque, originalOf } from '../stack/child-directories.ts';
import type { FrozenIndex } from '../stack/frozen-index.ts';
import {
  entryOf,
  isHidden,
  levelOf,
  type MergedDirectory,
  mergedIno,
  OPAQUE,
  REDIRECT,
  REDIRECTS_XATTR,
  type Reference,
  reference,
  unitOf,
} from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import type { Unit } from '../stack/stack.ts';

export const NOTHING = 0;
export const PRIVATE = 1;
export const SHARED = 2;

export const DEFAULT_ACL = 'system.posix_acl_default';

/** 0, or the errno for a name that no directory can hold. */
export function checkName(name: string): number {
  if (name.length === 0) return -E.NOENT;
  if (name.length > LIMITS.nameBytes) return -E.NAMETOOLONG;
  if (name === '.' || name === '..' || name.includes('/') || name.includes('\0')) return -E.INVAL;
  return 0;
}

/**
 * What is at `name`: NOTHING, PRIVATE (core.stat is filled) or SHARED (core.ref says which entry), or a negative errno. core.whiteout tells that
 * the private layer hides the name.
 */
export function resolve(core: Core, parent: Node, name: string): number {
  core.whiteout = false;
  core.ref = -1;
  const checked = refresh(core, parent);
  if (checked < 0) return checked;
  if (parent.priv) {
    const fd = directoryFd(core, parent);
    if (fd < 0) return fd;
    const result = statAt(fd, name, core.stat);
    if (result === 0) {
      if ((core.stat.mode & S_IFMT) !== S_IFCHR || core.stat.rdev !== 0) return PRIVATE;
      core.whiteout = true;
      return NOTHING;
    }
    if (result !== -E.NOENT) return result;
  }
  if (parent.merged === null) return NOTHING;
  core.ref = visibleOf(namesOf(parent.merged).get(name), core.hidden);
  return core.ref < 0 ? NOTHING : SHARED;
}

/** The shared entries at a name that no whiteout of the appliance hides, top first; of frozen levels also those that others cover. */
export function uncovered(core: Core, parent: Node, name: string): Reference[] {
  const candidates = parent.merged === null ? undefined : namesOf(parent.merged).get(name);
  if (candidates === undefined) return [];
  const list = typeof candidates === 'number' ? [candidates] : candidates;
  const shown = core.hidden.count === 0 ? list : list.filter((ref) => !isHidden(core.hidden, ref));
  const end = shown.findIndex((ref) => ref < 0);
  const found = end < 0 ? shown : shown.slice(0, end);
  const first = found[0];
  if (first === undefined || unitOf(core.stack, first).frozen === null) return [...found];
  const last = end < 0 ? Number.POSITIVE_INFINITY : -1 - shown[end]!;
  const older = frozenEntries(parent.merged!, name).filter(
    (ref) => ref > first && ref < last && !found.includes(ref) && !isHidden(core.hidden, ref),
  );
  // References are in the order of levels.
  return [...found, ...older].sort((one, two) => one - two);
}

/** Every entry, and whiteout, that frozen levels have at a name of a directory. */
function frozenEntries(directory: MergedDirectory, name: string): Reference[] {
  return directory.contributors.flatMap((contributor) => {
    const { frozen } = unitOf(directory.stack, contributor);
    const child = frozen === null ? -1 : frozen.child(entryOf(contributor), name as Name);
    return child < 0 ? [] : [reference(levelOf(contributor), child)];
  });
}

/** The entries of config and software layers at a name, hidden or not, top first: what private ones and frozen ones hide. */
export function candidatesAt(parent: Node, name: string): Reference[] {
  const original = parent.merged === null ? null : originalOf(parent.merged);
  const candidates = original === null ? undefined : namesOf(original).get(name);
  if (candidates === undefined) return [];
  return typeof candidates === 'number' ? [candidates] : candidates;
}

/** The entries of frozen layers at a name that are not hidden, top first; whiteouts too. */
export function frozenAt(core: Core, parent: Node, name: string): Reference[] {
  if (parent.merged === null || !core.hasFrozen) return [];
  return frozenEntries(parent.merged, name).filter((ref) => !isHidden(core.hidden, ref));
}

/** The node at a name, 0 when nothing is there, or a negative errno. */
export function nodeAt(core: Core, parent: Node, name: string): Node | number {
  const where = resolve(core, parent, name);
  core.where = where;
  if (where <= 0) return where;
  const known = parent.children!.get(name);
  return where === PRIVATE ? privateNode(core, parent, name, known) : sharedNodeAt(core, parent, name, known);
}

function privateNode(core: Core, parent: Node, name: string, known: Node | undefined): Node | number {
  const kind = core.stat.mode & S_IFMT;
  const backingIno = core.stat.ino;
  if (kind === S_IFDIR) return directoryNode(core, parent, name, known);
  if (known?.priv && known.privIno === backingIno) {
    known.generation = core.generation;
    return known;
  }
  if (known !== undefined) detachName(core, parent, name);
  const linked = core.byPrivateIno.get(backingIno);
  if (linked !== undefined && linked.kind === kind) {
    linked.generation = core.generation;
    attachName(core, linked, parent, name);
    return linked;
  }
  if (!mayRemember(core)) return -E.NFILE;
  const fd = directoryFd(core, parent);
  if (fd < 0) return fd;
  const ino = decodeIno(getxattrAt(fd, name, INO_XATTR));
  const node = newNode(core, kind);
  node.priv = true;
  node.privIno = backingIno;
  node.ino = ino > 0 ? ino : privateIno(backingIno);
  core.byPrivateIno.set(backingIno, node);
  attachName(core, node, parent, name);
  return node;
}

function sharedNodeAt(core: Core, parent: Node, name: string, known: Node | undefined): Node | number {
  const { ref } = core;
  const unit = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  const kind = unit.index.kind(entry);
  if (kind === S_IFDIR) return directoryNode(core, parent, name, known);
  if (unit.frozen !== null) return frozenNodeAt(core, parent, name, known, unit, unit.frozen);
  const linked = unit.index.nlink(entry) > 1;
  const leader = linked ? unit.index.hardLinkLeader(entry) : entry;
  if (known !== undefined && !known.priv && known.unit === unit && known.entry === leader) {
    known.generation = core.generation;
    return known;
  }
  if (known !== undefined) detachName(core, parent, name);
  const same = linked ? sharedNode(core, unit, leader) : undefined;
  if (same !== undefined) {
    same.generation = core.generation;
    attachName(core, same, parent, name);
    return same;
  }
  if (!mayRemember(core)) return -E.NFILE;
  const node = newNode(core, kind);
  node.unit = unit;
  node.entry = leader;
  node.ino = unit.inoBase + leader;
  if (linked) rememberShared(core, node);
  attachName(core, node, parent, name);
  return node;
}

/** A file of a frozen layer is the same node as while it was private, or in another frozen layer: it is the same inode. */
function frozenNodeAt(
  core: Core,
  parent: Node,
  name: string,
  known: Node | undefined,
  unit: Unit,
  frozen: FrozenIndex,
): Node | number {
  const leader = frozen.hardLinkLeader(entryOf(core.ref));
  const backingIno = frozen.stat(leader).ino;
  const isIt = (node: Node): boolean =>
    node.children === null &&
    node.privIno === backingIno &&
    (node.priv || (node.unit !== null && node.unit.frozen !== null));
  if (known !== undefined && !isIt(known)) detachName(core, parent, name);
  let node = known !== undefined && isIt(known) ? known : undefined;
  if (node === undefined) {
    node = sharedNode(core, unit, leader) ?? core.byPrivateIno.get(backingIno);
    if (node === undefined || !isIt(node)) {
      if (!mayRemember(core)) return -E.NFILE;
      node = newNode(core, frozen.kind(leader));
      node.ino = frozen.ino(leader);
      node.privIno = backingIno;
    }
    attachName(core, node, parent, name);
  }
  if (node.priv || node.unit !== unit || node.entry !== leader) becomeFrozen(core, node, unit, leader);
  node.generation = core.generation;
  return node;
}

function becomeFrozen(core: Core, node: Node, unit: Unit, leader: number): void {
  if (core.byPrivateIno.get(node.privIno) === node) core.byPrivateIno.delete(node.privIno);
  forgetShared(core, node);
  if (node.priv) dropParked(core, node);
  node.priv = false;
  node.noCapability = false;
  node.partial = undefined;
  node.unit = unit;
  node.entry = leader;
  if (unit.index.nlink(leader) > 1) rememberShared(core, node);
  core.ledger?.changed(node);
}

function directoryNode(core: Core, parent: Node, name: string, known: Node | undefined): Node | number {
  if (known?.kind === S_IFDIR) {
    const checked = refresh(core, known);
    return checked < 0 ? checked : known;
  }
  if (known !== undefined) detachName(core, parent, name);
  if (!mayRemember(core)) return -E.NFILE;
  const node = newNode(core, S_IFDIR);
  node.children = new Map();
  node.generation = -1;
  attachName(core, node, parent, name);
  const checked = refresh(core, node);
  return checked < 0 ? checked : node;
}

/**
 * Makes a directory node agree with the present stack and private layer; a no-op while these are the same. -ENOENT: it is not there any
 * more (then it has no names and shows nothing).
 */
export function refresh(core: Core, node: Node): number {
  if (node.generation === core.generation) return 0;
  const stale: Node[] = [];
  for (let at: Node | null = node; at !== null && at.generation !== core.generation; at = at.parent)
    stale.push(at);
  for (let next = stale.pop(); next !== undefined; next = stale.pop()) {
    const result = refreshOne(core, next);
    if (result < 0) return result;
  }
  return 0;
}

/** As refresh, for a directory whose parent agrees. */
function refreshOne(core: Core, node: Node): number {
  if (node === core.root) {
    node.generation = core.generation;
    node.merged = core.stack.root;
    return loadPrivate(core, node, core.rootFd);
  }
  const { parent } = node;
  if (parent === null) return -E.NOENT;
  node.priv = false;
  node.redirect = null;
  node.defaultAcl = false;
  node.merged = null;
  dropDirectoryFd(node);
  if (parent.priv) {
    const parentFd = directoryFd(core, parent);
    if (parentFd < 0) return parentFd;
    const result = statAt(parentFd, node.name, core.stat);
    if (result === 0 && (core.stat.mode & S_IFMT) !== S_IFDIR) return vanished(core, node);
    if (result === 0) {
      node.privIno = core.stat.ino;
      const fd = directoryFd(core, node);
      if (fd < 0) return fd;
      const loaded = loadPrivate(core, node, fd);
      if (loaded < 0) return loaded;
    } else if (result !== -E.NOENT) return result;
  }
  if (!node.priv && parent.merged !== null) {
    node.merged = childDirectory(parent.merged, node.name, core.hidden);
    if (node.merged === null) return vanished(core, node);
    node.ino = mergedIno(node.merged);
  } else if (!node.priv) return vanished(core, node);
  node.generation = core.generation;
  return 0;
}

/** Reads what the private copy of a directory says: opaque, redirect, number, default ACL. */
function loadPrivate(core: Core, node: Node, fd: number): number {
  node.priv = true;
  const list = flistxattr(fd);
  const names = typeof list === 'number' ? [] : splitXattrList(list);
  node.defaultAcl = names.includes(DEFAULT_ACL);
  const ino = names.includes(INO_XATTR) ? decodeIno(fgetxattr(fd, INO_XATTR)) : 0;
  if (node === core.root) {
    node.ino = ino > 0 ? ino : mergedIno(core.stack.root);
    core.hasRedirects = names.includes(REDIRECTS_XATTR);
    return 0;
  }
  const redirect = names.includes(REDIRECT) ? fgetxattr(fd, REDIRECT) : -E.NODATA;
  const opaque = names.includes(OPAQUE) ? fgetxattr(fd, OPAQUE) : -E.NODATA;
  if (typeof opaque !== 'number' && isOpaque(opaque)) node.merged = null;
  else if (typeof redirect !== 'number') {
    node.redirect = Buffer.from(redirect).toString('latin1');
    node.merged = redirectTarget(core, node, node.redirect);
  } else {
    const { parent } = node;
    node.merged = parent?.merged ? childDirectory(parent.merged, node.name, core.hidden) : null;
  }
  if (ino > 0) node.ino = ino;
  else node.ino = node.merged === null ? privateIno(node.privIno) : mergedIno(node.merged);
  return 0;
}

/** The merged directory that a redirect names; relative ones (which the kernel's overlayfs writes) are siblings. */
function redirectTarget(core: Core, node: Node, redirect: string): Node['merged'] {
  if (redirect.split('/').some((part) => part === '.' || part === '..')) return null;
  if (redirect.startsWith('/')) return directoryAt(core.stack, redirect, core.hidden);
  const merged = node.parent?.merged;
  return merged ? childDirectory(merged, redirect, core.hidden) : null;
}

function vanished(core: Core, node: Node): number {
  node.priv = false;
  node.merged = null;
  const { parent, name } = node;
  if (parent?.children?.get(name) === node) detachName(core, parent, name);
  return -E.NOENT;
}

/**
 * Checks that a file node still is what its name leads to; a relayer, revert or reset may have put something else there. Returns 0, or
 * -ESTALE (the kernel then walks the path again).
 */
export function confirm(core: Core, node: Node): number {
  if (node.successor !== null) return -E.STALE;
  if (node.generation === core.generation || node === core.root) return 0;
  if (node.children !== null) return refresh(core, node) < 0 ? -E.STALE : 0;
  const { parent, name } = node;
  if (parent === null) return node.backing === null ? -E.STALE : 0;
  const now = nodeAt(core, parent, name);
  if (now !== node) return -E.STALE;
  node.generation = core.generation;
  return 0;
}
