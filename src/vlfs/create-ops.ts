/**
 * New names: create, mknod, mkdir, symlink, link, O_TMPFILE. Everything new is private; a whiteout of a layer that lies below stays. Objects are
 * made by root and given to the caller before anybody can reach them (all access goes through this thread). A private whiteout is replaced
 * in one step, from the work directory.
 */
import {
  chmodPathFd,
  close,
  E,
  fchmod,
  fchown,
  fchownat,
  fgetxattr,
  fsetxattr,
  fstat,
  linkat,
  linkFd,
  mkdirat,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_PATH,
  O_RDWR,
  O_TMPFILE,
  openat,
  RENAME_EXCHANGE,
  renameat2,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  type Stat,
  setxattrAt,
  statAt,
  symlinkat,
  unlinkat,
} from '../sys/index.ts';
import { fillEntry } from './attributes.ts';
import type { Caller, EntryOut, OpenOut } from './contract.ts';
import { copyUp } from './copy-up.ts';
import { type Core, type Node, newNode, step } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { open } from './file-ops.ts';
import { addHandle } from './handles.ts';
import { privateIno } from './inode-numbers.ts';
import { candidatesAt, checkName, NOTHING, nodeAt, resolve } from './lookup.ts';
import { OPAQUE } from './merged-directory.ts';
import { attachName, pathOf } from './nodes.ts';
import { ORIGIN_XATTR, originOf } from './origin.ts';
import { privateDirectory } from './private-layer.ts';
import { removeTree, temporaryName, workFd } from './work-dir.ts';

const DEFAULT_ACL = 'system.posix_acl_default';
const OPAQUE_YES = Buffer.from('y');

/** Where a new object is made: in its place, or in the work directory when a private whiteout must be replaced. */
interface Place {
  parentFd: number;
  fd: number;
  name: string;
  replaces: boolean;
  /** A directory in the work directory that hands down the parent's default ACL, or null. */
  nest: string | null;
}

const parentStat = newStat();
const stat = newStat();

/** Checks that `name` is free and prepares the parent. parentStat is filled. */
function placeFor(core: Core, parent: Node, name: string): Place | number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(name);
  if (bad < 0) return bad;
  const where = resolve(core, parent, name);
  if (where !== NOTHING) return where < 0 ? where : -E.EXIST;
  const { whiteout } = core;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const known = fstat(parentFd, parentStat);
  if (known < 0) return known;
  if (!whiteout) return { parentFd, fd: parentFd, name, replaces: false, nest: null };
  const work = workFd(core);
  if (work < 0) return work;
  if (!parent.defaultAcl)
    return { parentFd, fd: work, name: temporaryName(core), replaces: true, nest: null };
  return nestedPlace(core, parentFd, work);
}

function nestedPlace(core: Core, parentFd: number, work: number): Place | number {
  const nest = temporaryName(core);
  const made = mkdirat(work, nest, 0o700);
  if (made < 0) return made;
  const fd = openat(work, nest, 0o200000 | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  const acl = fgetxattr(parentFd, DEFAULT_ACL);
  if (typeof acl !== 'number') fsetxattr(fd, DEFAULT_ACL, acl);
  return { parentFd, fd, name: 'n', replaces: true, nest };
}

/** Takes the place of the private whiteout, when there is one. */
function settle(core: Core, place: Place, name: string, isDirectory: boolean): number {
  if (!place.replaces) return 0;
  step(core, 'create: replace whiteout');
  const result = renameat2(place.fd, place.name, place.parentFd, name, isDirectory ? RENAME_EXCHANGE : 0);
  leave(core, place);
  return result;
}

/** Removes what is left in the work directory. */
function leave(core: Core, place: Place): void {
  if (!place.replaces) return;
  removeTree(place.fd, place.name);
  if (place.nest === null) return;
  close(place.fd);
  removeTree(workFd(core), place.nest);
}

function undo(core: Core, place: Place, errno: number, isDirectory = false): number {
  if (place.replaces) leave(core, place);
  else unlinkat(place.fd, place.name, isDirectory ? 0x200 : 0);
  return errno;
}

/** The mode that a new object gets; a default ACL of the parent takes the umask's place. */
function modeFor(caller: Caller, parent: Node, mode: number): number {
  return parent.defaultAcl ? mode & 0o7777 : mode & 0o7777 & ~caller.umask;
}

function groupFor(caller: Caller): number {
  return parentStat.mode & S_ISGID ? parentStat.gid : caller.gid;
}

/** Owner and mode of the new name `place.name`, whose stat goes into `into`. */
function own(caller: Caller, parent: Node, place: Place, mode: number, into: Stat): number {
  let result = statAt(place.fd, place.name, into);
  if (result < 0) return result;
  const gid = groupFor(caller);
  if (into.uid !== caller.uid || into.gid !== gid) {
    result = fchownat(place.fd, place.name, caller.uid, gid);
    if (result < 0) return result;
    into.uid = caller.uid;
    into.gid = gid;
  }
  const kind = into.mode & S_IFMT;
  if (kind === S_IFLNK) return 0;
  const want = wantedMode(parent, into.mode, mode);
  if (want === (into.mode & 0o7777)) return 0;
  const fd = openat(place.fd, place.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  result = chmodPathFd(fd, want);
  close(fd);
  into.mode = kind | want;
  return result;
}

function wantedMode(parent: Node, made: number, mode: number): number {
  const directory = (made & S_IFMT) === S_IFDIR;
  const inherited = directory && parentStat.mode & S_ISGID ? S_ISGID : 0;
  const permissions = parent.defaultAcl ? made & 0o777 : mode & 0o777;
  return permissions | (mode & 0o7000) | inherited;
}

/** Tells a file what it hides, so that diff can say when a layer's original changes. Best effort. */
function noteOrigin(core: Core, parent: Node, name: string, fd: number, at: string): void {
  const hidden = candidatesAt(parent, name);
  if (hidden.length === 0) return;
  const path = pathOf(core, parent, name);
  if (path !== null) setxattrAt(fd, at, ORIGIN_XATTR, originOf(core.stack, path, hidden[0]!));
}

/** The node of a private object that was just made at a name. */
function bornNode(core: Core, parent: Node, name: string, born: Stat): Node {
  const kind = born.mode & S_IFMT;
  const node = newNode(core, kind);
  node.priv = true;
  node.privIno = born.ino;
  node.ino = privateIno(born.ino);
  if (kind === S_IFDIR) {
    node.children = new Map();
    node.generation = -1; // What lies below it is read at its first use.
  } else core.byPrivateIno.set(born.ino, node);
  attachName(node, parent, name);
  return node;
}

export function mknod(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  mode: number,
  rdev: number,
  out: EntryOut,
): number {
  const kind = mode & S_IFMT || S_IFREG;
  if (kind === S_IFCHR && rdev === 0) return -E.PERM; // It would be a whiteout.
  const bits = modeFor(caller, parent, mode);
  return make(core, caller, parent, name, bits, out, (place) =>
    mknodat(place.fd, place.name, kind | (bits & 0o777), kind === S_IFREG ? 0 : rdev),
  );
}

export function symlink(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  target: string,
  out: EntryOut,
): number {
  return make(core, caller, parent, name, 0o777, out, (place) => symlinkat(target, place.fd, place.name));
}

function make(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  mode: number,
  out: EntryOut,
  create: (place: Place) => number,
): number {
  const place = placeFor(core, parent, name);
  if (typeof place === 'number') return place;
  step(core, 'create');
  const made = create(place);
  if (made < 0) {
    leave(core, place);
    return made;
  }
  const owned = own(caller, parent, place, mode, stat);
  if (owned < 0) return undo(core, place, owned);
  noteOrigin(core, parent, name, place.fd, place.name);
  const settled = settle(core, place, name, false);
  if (settled < 0) return settled;
  return fillEntry(core, bornNode(core, parent, name, stat), out);
}

export function mkdir(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  mode: number,
  out: EntryOut,
): number {
  const place = placeFor(core, parent, name);
  if (typeof place === 'number') return place;
  const bits = modeFor(caller, parent, mode);
  step(core, 'mkdir');
  const made = mkdirat(place.fd, place.name, bits & 0o777);
  if (made < 0) {
    leave(core, place);
    return made;
  }
  const owned = own(caller, parent, place, bits, stat);
  if (owned < 0) return undo(core, place, owned, true);
  if (place.replaces) {
    // What the whiteout hid has moved elsewhere and must not show here.
    const opaque = setxattrAt(place.fd, place.name, OPAQUE, OPAQUE_YES);
    if (opaque < 0) return undo(core, place, opaque, true);
  }
  const settled = settle(core, place, name, true);
  if (settled < 0) return settled;
  return fillEntry(core, bornNode(core, parent, name, stat), out);
}

export function create(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  flags: number,
  mode: number,
  out: EntryOut,
  opened: OpenOut,
): number {
  const place = placeFor(core, parent, name);
  if (place === -E.EXIST && (flags & O_EXCL) === 0) {
    const node = nodeAt(core, parent, name);
    if (typeof node === 'number') return node === 0 ? -E.NOENT : node;
    const result = open(core, caller, node, flags, opened);
    return result === 0 ? fillEntry(core, node, out) : result;
  }
  if (typeof place === 'number') return place;
  const bits = modeFor(caller, parent, mode);
  step(core, 'create');
  const fd = openat(place.fd, place.name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, bits & 0o777);
  if (fd < 0) {
    leave(core, place);
    return fd;
  }
  const owned = ownFd(caller, parent, fd, bits, stat);
  if (owned < 0) {
    close(fd);
    return undo(core, place, owned);
  }
  noteOrigin(core, parent, name, place.fd, place.name);
  const settled = settle(core, place, name, false);
  if (settled < 0) {
    close(fd);
    return settled;
  }
  const node = bornNode(core, parent, name, stat);
  return finishOpen(core, node, fd, flags, out, opened);
}

/** Hands out a node whose backing file is open already. */
function finishOpen(
  core: Core,
  node: Node,
  fd: number,
  flags: number,
  out: EntryOut,
  opened: OpenOut,
): number {
  node.backing = { fd, shared: false, writable: true, opens: 0 };
  opened.fh = addHandle(core, node, node.backing, flags);
  opened.backingFd = core.passthrough ? fd : -1;
  opened.directIo = false;
  opened.keepCache = true;
  return fillEntry(core, node, out);
}

function ownFd(caller: Caller, parent: Node, fd: number, mode: number, into: Stat): number {
  let result = fstat(fd, into);
  if (result < 0) return result;
  const gid = groupFor(caller);
  if (into.uid !== caller.uid || into.gid !== gid) {
    result = fchown(fd, caller.uid, gid);
    if (result < 0) return result;
  }
  const want = wantedMode(parent, into.mode, mode);
  return want === (into.mode & 0o7777) ? 0 : fchmod(fd, want);
}

/** O_TMPFILE: a private file without a name; `link` may give it one. */
export function tmpfile(
  core: Core,
  caller: Caller,
  parent: Node,
  flags: number,
  mode: number,
  out: EntryOut,
  opened: OpenOut,
): number {
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const known = fstat(parentFd, parentStat);
  if (known < 0) return known;
  const bits = modeFor(caller, parent, mode);
  const fd = openat(parentFd, '.', O_TMPFILE | O_RDWR | O_CLOEXEC, bits & 0o777);
  if (fd < 0) return fd;
  const owned = ownFd(caller, parent, fd, bits, stat);
  if (owned < 0) {
    close(fd);
    return owned;
  }
  const node = newNode(core, S_IFREG);
  node.priv = true;
  node.privIno = stat.ino;
  node.ino = privateIno(stat.ino);
  core.byPrivateIno.set(stat.ino, node);
  return finishOpen(core, node, fd, flags, out, opened);
}

export function link(
  core: Core,
  caller: Caller,
  given: Node,
  newParent: Node,
  newName: string,
  out: EntryOut,
): number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(newName);
  if (bad < 0) return bad;
  const where = resolve(core, newParent, newName);
  if (where !== NOTHING) return where < 0 ? where : -E.EXIST;
  if (given.children !== null) return -E.PERM;
  let node = given.successor ?? given;
  if (!node.priv) {
    const copied = copyUp(core, caller, node);
    if (copied === -E.STALE && node.successor !== null) node = node.successor;
    else if (copied !== 0) return copied;
  }
  const place = placeFor(core, newParent, newName);
  if (typeof place === 'number') return place;
  step(core, 'link');
  const linked = linkInto(core, node, place);
  if (linked < 0) {
    leave(core, place);
    return linked;
  }
  const settled = settle(core, place, newName, false);
  if (settled < 0) return settled;
  attachName(node, newParent, newName);
  return fillEntry(core, node, out);
}

function linkInto(core: Core, node: Node, place: Place): number {
  if (node.parent === null) {
    if (node.backing === null || node.backing.shared) return -E.NOENT;
    return linkFd(node.backing.fd, place.fd, place.name);
  }
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : linkat(fd, node.name, place.fd, place.name);
}
