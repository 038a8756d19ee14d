/**
 * New objects: create, mknod, mkdir, symlink, O_TMPFILE. Everything new is private; a whiteout of a layer that lies below stays.
 */
import {
  close,
  E,
  fstat,
  mkdirat,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_RDWR,
  O_TMPFILE,
  openat,
  S_IFCHR,
  S_IFMT,
  S_IFREG,
  setxattrAt,
  symlinkat,
  unlinkat,
} from '../../sys/index.ts';
import type { Caller, EntryOut, OpenOut } from '../contract.ts';
import { type Core, type Node, newNode, step } from '../core.ts';
import { fillBorn, fillEntry } from '../nodes/attributes.ts';
import { addHandle, newBacking } from '../nodes/handles.ts';
import { privateIno } from '../nodes/inode-numbers.ts';
import { mayOpen, mayRemember } from '../nodes/shares.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { chargeBorn, DIRECTORY_BYTES, mayTake } from '../quota/quota.ts';
import { OPAQUE } from '../stack/merged-directory.ts';
import { namesOf } from '../stack/merged-names.ts';
import { open } from './file-ops.ts';
import { checkName, nodeAt, refresh } from './lookup.ts';
import { madeBefore } from './made-before.ts';
import {
  bornNode,
  leave,
  modeFor,
  noteOrigin,
  own,
  ownFd,
  type Place,
  placeFor,
  readParent,
  settle,
  undo,
} from './new-place.ts';

const OPAQUE_YES = Buffer.from('y');
/** Shorter targets of links have room in the inode; the others take a block. */
const SHORT_TARGET = 60;
const LINK_BYTES = 4096;
const stat = newStat();

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
  const bytes = target.length < SHORT_TARGET ? 0 : LINK_BYTES;
  const create = (place: Place): number => symlinkat(target, place.fd, place.name);
  return make(core, caller, parent, name, 0o777, out, create, bytes);
}

function make(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  mode: number,
  out: EntryOut,
  create: (place: Place) => number,
  bytes = 0,
): number {
  const before = madeBefore(core, parent, name);
  if (before !== null) return fillEntry(core, before, out);
  const place = placeFor(core, caller, parent, name, 1, bytes);
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
  const before = madeBefore(core, parent, name);
  if (before !== null) return fillEntry(core, before, out);
  const place = placeFor(core, caller, parent, name, 1, DIRECTORY_BYTES);
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
  const before = madeBefore(core, parent, name);
  if (before !== null) {
    const result = open(core, caller, before, flags & ~O_EXCL, opened);
    return result === 0 ? fillEntry(core, before, out) : result;
  }
  if (!mayOpen(core) || !mayRemember(core)) return -E.NFILE;
  const simple = createSimple(core, caller, parent, name, flags, mode, out, opened);
  if (simple !== NOT_SIMPLE) return simple;
  const place = placeFor(core, caller, parent, name);
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
  handOut(core, node, fd, flags, opened);
  return fillEntry(core, node, out);
}

const NOT_SIMPLE = 1;

/** The usual case, with fewer system calls: no layer has the name and the private layer has the directory; O_EXCL tells whether it has the name. */
function createSimple(
  core: Core,
  caller: Caller,
  parent: Node,
  name: string,
  flags: number,
  mode: number,
  out: EntryOut,
  opened: OpenOut,
): number {
  if (core.readOnly || checkName(name) < 0 || refresh(core, parent) < 0 || !parent.priv) return NOT_SIMPLE;
  if (parent.merged !== null && namesOf(parent.merged).has(name)) return NOT_SIMPLE;
  const parentFd = directoryFd(core, parent);
  if (parentFd < 0 || mayTake(core, 0, 1) < 0) return NOT_SIMPLE;
  const bits = modeFor(caller, parent, mode);
  step(core, 'create');
  const fd = openat(parentFd, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, bits & 0o777);
  if (fd < 0) {
    core.ledger?.journal.step('create: not made');
    return fd === -E.EXIST ? NOT_SIMPLE : fd;
  }
  let changed = false;
  let result = fstat(fd, stat);
  // The directory's group counts only when it is a set-group-ID directory; then the new file has it.
  const same = parent.defaultAcl ? (bits & 0o7000) === 0 : (stat.mode & 0o7777) === bits;
  if (result === 0 && (!same || (caller.uid | caller.gid | stat.uid | stat.gid) !== 0)) {
    changed = true;
    result = readParent(parentFd);
    if (result >= 0) result = ownFd(caller, parent, fd, bits, stat);
  }
  if (result < 0) {
    close(fd);
    unlinkat(parentFd, name);
    return result;
  }
  const node = bornNode(core, parent, name, stat);
  handOut(core, node, fd, flags, opened);
  return changed ? fillEntry(core, node, out) : fillBorn(core, node, stat, out);
}

/** Hands out a node whose backing file is open already. */
function handOut(core: Core, node: Node, fd: number, flags: number, opened: OpenOut): void {
  node.noCapability = true;
  node.partial = null;
  const cached = core.quota !== null;
  node.backing = newBacking({ fd, cached, writable: true, written: true });
  opened.fh = addHandle(core, node, node.backing, flags);
  opened.backingFd = core.passthrough && !cached ? fd : -1;
  opened.backingReadOnly = false;
  opened.directIo = false;
  opened.keepCache = true;
  opened.keepsBacking = false;
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
  if (!mayOpen(core) || !mayRemember(core)) return -E.NFILE;
  const above = chainPrivate(core, caller, parent);
  if (above !== 0) return above;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const known = readParent(parentFd);
  if (known < 0) return known;
  const full = mayTake(core, 0, 1);
  if (full < 0) return full;
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
  if (core.quota !== null) chargeBorn(core, node, stat);
  handOut(core, node, fd, flags, opened);
  return fillEntry(core, node, out);
}
