/**
 * Where and how a new object comes into the private layer: the free name, its owner and mode, what it hides. Objects are made by root and given to
 * the caller before anybody can reach them (all access goes through this thread). A private whiteout is replaced in one step, from
 * the work directory.
 */
import {
  AT_REMOVEDIR,
  chmodPathFd,
  close,
  E,
  fchmod,
  fchown,
  fchownat,
  fgetxattr,
  fsetxattr,
  fstat,
  mkdirat,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
  RENAME_EXCHANGE,
  renameat2,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_ISGID,
  type Stat,
  setxattrAt,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import type { Caller } from '../contract.ts';
import { ORIGIN_XATTR, originOf } from '../copy-up/origin.ts';
import { type Core, type Node, newNode, step } from '../core.ts';
import { privateIno } from '../nodes/inode-numbers.ts';
import { attachName, pathOf } from '../nodes/nodes.ts';
import { mayRemember } from '../nodes/shares.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { removeTree, temporaryName, workFd } from '../private-layer/work-dir.ts';
import { chargeBorn, mayTake } from '../quota/quota.ts';
import { candidatesAt, checkName, NOTHING, resolve } from './lookup.ts';

const DEFAULT_ACL = 'system.posix_acl_default';

/** Where a new object is made: in its place, or in the work directory when a private whiteout must be replaced. */
export interface Place {
  parentFd: number;
  fd: number;
  name: string;
  replaces: boolean;
  /** A directory in the work directory that hands down the parent's default ACL, or null. */
  nest: string | null;
}

/** Of the directory that the last call prepared. */
const parentStat = newStat();

/** What new objects in this directory inherit. */
export function readParent(parentFd: number): number {
  return fstat(parentFd, parentStat);
}

/** Checks that `name` is free and prepares the parent; PENDING while that takes long. `inodes` and `bytes`: what the new object takes. */
export function placeFor(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  inodes = 1,
  bytes = 0,
): Place | number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(name);
  if (bad < 0) return bad;
  if (!mayRemember(core)) return -E.NFILE;
  const where = resolve(core, parent, name);
  if (where !== NOTHING) return where < 0 ? where : -E.EXIST;
  const { whiteout } = core;
  const full = mayTake(core, bytes, inodes);
  if (full < 0) return full;
  const above = chainPrivate(core, caller, parent);
  if (above !== 0) return above;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const known = readParent(parentFd);
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
  const fd = openat(work, nest, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  const acl = fgetxattr(parentFd, DEFAULT_ACL);
  if (typeof acl !== 'number') fsetxattr(fd, DEFAULT_ACL, acl);
  return { parentFd, fd, name: 'n', replaces: true, nest };
}

/** Takes the place of the private whiteout, when there is one. */
export function settle(core: Core, place: Place, name: string, isDirectory: boolean): number {
  if (!place.replaces) return 0;
  step(core, 'create: replace whiteout');
  const result = renameat2(place.fd, place.name, place.parentFd, name, isDirectory ? RENAME_EXCHANGE : 0);
  leave(core, place);
  return result;
}

/** Removes what is left in the work directory. */
export function leave(core: Core, place: Place): void {
  if (!place.replaces) return;
  removeTree(place.fd, place.name);
  if (place.nest === null) return;
  close(place.fd);
  removeTree(workFd(core), place.nest);
}

/** Removes a new object that could not be finished; returns `errno`. */
export function undo(core: Core, place: Place, errno: number, isDirectory = false): number {
  if (place.replaces) leave(core, place);
  else unlinkat(place.fd, place.name, isDirectory ? AT_REMOVEDIR : 0);
  return errno;
}

/** The mode that a new object gets; a default ACL of the parent takes the umask's place. */
export function modeFor(caller: Caller, parent: Node, mode: number): number {
  return parent.defaultAcl ? mode & 0o7777 : mode & 0o7777 & ~caller.umask;
}

function groupFor(caller: Caller): number {
  return parentStat.mode & S_ISGID ? parentStat.gid : caller.gid;
}

/** Owner and mode of the new name `place.name`, whose stat goes into `into`. */
export function own(caller: Caller, parent: Node, place: Place, mode: number, into: Stat): number {
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
export function noteOrigin(core: Core, parent: Node, name: string, fd: number, at: string): void {
  const hidden = candidatesAt(parent, name);
  if (hidden.length === 0) return;
  const path = pathOf(core, parent, name);
  if (path !== null) setxattrAt(fd, at, ORIGIN_XATTR, originOf(core.stack, path, hidden[0]!));
}

/** The node of a private object that was just made at a name. */
export function bornNode(core: Core, parent: Node, name: string, born: Stat): Node {
  const kind = born.mode & S_IFMT;
  const node = newNode(core, kind);
  node.priv = true;
  node.privIno = born.ino;
  node.ino = privateIno(born.ino);
  if (kind === S_IFDIR) {
    node.children = new Map();
    node.generation = -1; // What lies below it is read at its first use.
  } else core.byPrivateIno.set(born.ino, node);
  if (core.quota !== null) chargeBorn(core, node, born);
  attachName(core, node, parent, name);
  return node;
}

/** As own, for an open file. */
export function ownFd(caller: Caller, parent: Node, fd: number, mode: number, into: Stat): number {
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
