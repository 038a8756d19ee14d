/** setattr: chmod, chown, truncate, utimes. A shared file is copied up first; a shared directory gets its private copy. */
import {
  chmodPathFd,
  close,
  E,
  fchmod,
  fchown,
  fchownat,
  fstat,
  ftruncate,
  futimens,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_PATH,
  O_RDWR,
  openat,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  UTIME_NOW,
  UTIME_OMIT,
  utimensat,
} from '../../sys/index.ts';
import { contentWent, refusedContent } from '../checks/quarantine.ts';
import type { Attr, Caller, SetAttrIn } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { cutLarge } from '../copy-up/large-files.ts';
import { type Core, type Node, step } from '../core.ts';
import { keepFillTimes, queueFill, waitForFill, wantsFill } from '../delta/fill.ts';
import { emptyPartial, makeWritable } from '../delta/make-writable.ts';
import { openBase, type Partial, partialOf } from '../delta/partial-file.ts';
import { truncatePartial } from '../delta/partial-io.ts';
import { waitForCopy } from '../freeze/follow.ts';
import { fillAttr } from '../nodes/attributes.ts';
import { handleOf } from '../nodes/handles.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { killPrivileges, withoutPrivileges } from './file-ops.ts';
import { confirm } from './lookup.ts';

/** FATTR_* of linux/fuse.h. */
export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const;

const OWNER = FATTR.UID | FATTR.GID;
const TIMES = FATTR.ATIME | FATTR.MTIME | FATTR.ATIME_NOW | FATTR.MTIME_NOW;
const ANYTHING = OWNER | TIMES | FATTR.MODE | FATTR.SIZE | FATTR.KILL_SUIDGID;

const stat = newStat();

export function setattr(core: Core, caller: Caller, node: Node, change: SetAttrIn, out: Attr): number {
  if ((change.valid & ANYTHING) === 0) {
    const left = leftAlone(core, node, out);
    if (left !== 1) return left;
  }
  const result = applyTo(core, caller, node, change);
  return result === 0 ? fillAttr(core, node, out) : result;
}

/**
 * A request that names no attribute is a chown to (-1, -1), or comes before fallocate and copy_file_range of somebody who must end set-user-id
 * bits: both are chown(-1, -1) of the private file. A shared file without such bits is left alone. 0: so it was; 1: it must be done.
 */
function leftAlone(core: Core, node: Node, out: Attr): number {
  const result = fillAttr(core, node, out);
  if (result < 0) return result;
  if (node.gone !== null) return 0;
  const privileged = node.kind === S_IFREG && (out.mode & (S_ISUID | S_ISGID)) !== 0;
  return (node.successor ?? node).priv || privileged ? 1 : 0;
}

function applyTo(core: Core, caller: Caller, node: Node, change: SetAttrIn): number {
  if (core.readOnly) return -E.ROFS;
  if (node.successor !== null) return applyTo(core, caller, node.successor, change);
  if (node.children !== null) {
    if (node.gone !== null && node.parent === null) return -E.STALE;
    const above = chainPrivate(core, caller, node);
    if (above !== 0) return above;
    const fd = privateDirectory(core, node);
    return fd < 0 ? fd : applyToFd(core, fd, change);
  }
  if (change.valid & FATTR.SIZE && node.priv) {
    const waits = waitForCopy(core, caller, node);
    if (waits !== 0) return waits;
    const cut = cutLarge(core, caller, node, change.size);
    if (cut !== 0) return cut;
  }
  const byHandle = change.valid & FATTR.FH ? handleOf(core, change.fh)?.backing : node.backing;
  if (byHandle && !byHandle.shared) {
    const { partial, fd, baseFd } = byHandle;
    if (partial !== null) return applyToPartial(core, caller, { node, partial, fd, baseFd }, change);
    return applyToFd(core, fd, change);
  }
  if (node.gone !== null) {
    const applied = applyToGone(node.gone, change);
    core.ledger?.gone(node, node.gone);
    return applied;
  }
  // A part of it would be another content.
  if (change.valid & FATTR.SIZE && change.size > 0 && node.kind === S_IFREG) {
    const refused = refusedContent(core, node);
    if (refused < 0) return refused;
  }
  const copied = copyUp(core, caller, node, (change.valid & FATTR.SIZE) !== 0 && change.size === 0);
  if (copied === -E.STALE && node.successor !== null) return applyTo(core, caller, node.successor, change);
  if (copied !== 0) return copied;
  const confirmed = confirm(core, node);
  if (confirmed < 0) return confirmed;
  if (node.kind === S_IFREG && (change.valid & FATTR.SIZE) !== 0) {
    const ready = makeWritable(core, caller, node, change.size === 0);
    if (ready === -E.STALE && node.successor !== null) return applyTo(core, caller, node.successor, change);
    if (ready !== 0) return ready;
  }
  return applyToName(core, caller, node, change);
}

/** A shared file without a name has no copy: its attributes live as long as somebody holds it. Its content cannot change any more. */
function applyToGone(attr: Attr, change: SetAttrIn): number {
  const { valid } = change;
  if (valid & FATTR.SIZE || attr.nlink > 0) return -E.STALE;
  const now = Date.now();
  const seconds = Math.floor(now / 1000);
  const nanoseconds = (now - seconds * 1000) * 1_000_000;
  if (valid & FATTR.UID) attr.uid = change.uid;
  if (valid & FATTR.GID) attr.gid = change.gid;
  if (valid & FATTR.KILL_SUIDGID) attr.mode = withoutPrivileges(attr.mode);
  if (valid & FATTR.MODE) attr.mode = (attr.mode & S_IFMT) | (change.mode & 0o7777);
  if (valid & FATTR.ATIME) {
    attr.atimeSec = valid & FATTR.ATIME_NOW ? seconds : change.atimeSec;
    attr.atimeNsec = valid & FATTR.ATIME_NOW ? nanoseconds : change.atimeNsec;
  }
  if (valid & FATTR.MTIME) {
    attr.mtimeSec = valid & FATTR.MTIME_NOW ? seconds : change.mtimeSec;
    attr.mtimeNsec = valid & FATTR.MTIME_NOW ? nanoseconds : change.mtimeNsec;
  }
  attr.ctimeSec = seconds;
  attr.ctimeNsec = nanoseconds;
  return 0;
}

/** A partial file that is open. Times that are set while it is being completed are kept over that. */
function applyToPartial(
  core: Core,
  caller: Caller,
  { node, partial, fd, baseFd }: { node: Node; partial: Partial; fd: number; baseFd: number },
  change: SetAttrIn,
): number {
  if (change.valid & FATTR.SIZE && partial.filling !== null) return waitForFill(caller, partial);
  const cut = (size: number): number =>
    size === 0 ? emptyPartial(node, fd) : truncatePartial({ fd, baseFd }, partial, size);
  const result = applyToFd(core, fd, change, cut);
  keepFillTimes(partial, fd);
  if (wantsFill(partial)) queueFill(core, node, partial);
  return result;
}

function applyToName(core: Core, caller: Caller, node: Node, change: SetAttrIn): number {
  if (node.parent === null) return -E.STALE;
  const parentFd = directoryFd(core, node.parent);
  if (parentFd < 0) return parentFd;
  if (node.kind === S_IFREG) {
    const fd = openat(parentFd, node.name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fd === -E.NOENT ? -E.STALE : fd;
    const partial = partialOf(core, node);
    const baseFd =
      partial !== null && change.valid & FATTR.SIZE && change.size > 0 ? openBase(core, partial.form) : -1;
    const result =
      partial === null
        ? applyToFd(core, fd, change)
        : change.valid & FATTR.SIZE && change.size > 0 && baseFd < 0
          ? baseFd
          : applyToPartial(core, caller, { node, partial, fd, baseFd }, change);
    if (baseFd >= 0) close(baseFd);
    close(fd);
    return result;
  }
  return applyToSpecial(core, parentFd, node, change);
}

/** Order as notify_change: owner (which ends privileges), size, mode, times. */
function applyToFd(
  core: Core,
  fd: number,
  change: SetAttrIn,
  cut: (size: number) => number = (size) => ftruncate(fd, size),
): number {
  const { valid } = change;
  step(core, 'setattr');
  if (valid & OWNER || (valid & ANYTHING) === 0) {
    const uid = valid & FATTR.UID ? change.uid : 0xffffffff;
    const gid = valid & FATTR.GID ? change.gid : 0xffffffff;
    const result = fchown(fd, uid, gid);
    if (result < 0) return result;
  }
  if (valid & FATTR.SIZE) {
    const result = cut(change.size);
    if (result < 0) return result;
    if (change.size === 0) contentWent(fd);
  }
  if (valid & FATTR.KILL_SUIDGID) killPrivileges(fd);
  if (valid & FATTR.MODE) {
    const result = fchmod(fd, change.mode & 0o7777);
    if (result < 0) return result;
  }
  if (valid & TIMES) {
    const t = timesOf(change);
    return futimens(fd, t.atimeSec, t.atimeNsec, t.mtimeSec, t.mtimeNsec);
  }
  return 0;
}

function applyToSpecial(core: Core, parentFd: number, node: Node, change: SetAttrIn): number {
  const { valid } = change;
  step(core, 'setattr');
  if (valid & FATTR.SIZE) return -E.INVAL;
  if (valid & OWNER || (valid & ANYTHING) === 0) {
    const uid = valid & FATTR.UID ? change.uid : 0xffffffff;
    const gid = valid & FATTR.GID ? change.gid : 0xffffffff;
    const result = fchownat(parentFd, node.name, uid, gid);
    if (result < 0) return result;
  }
  if (valid & FATTR.MODE) {
    if (node.kind === S_IFLNK) return -E.OPNOTSUPP;
    const fd = openat(parentFd, node.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fd;
    const same = fstat(fd, stat) === 0 && (stat.mode & 0o170000) === node.kind;
    const result = same ? chmodPathFd(fd, change.mode & 0o7777) : -E.STALE;
    close(fd);
    if (result < 0) return result;
  }
  if (valid & TIMES) {
    const t = timesOf(change);
    return utimensat(parentFd, node.name, t.atimeSec, t.atimeNsec, t.mtimeSec, t.mtimeNsec);
  }
  return 0;
}

const times = { atimeSec: 0, atimeNsec: 0, mtimeSec: 0, mtimeNsec: 0 };

function timesOf(change: SetAttrIn): typeof times {
  const { valid } = change;
  times.atimeSec = change.atimeSec;
  times.mtimeSec = change.mtimeSec;
  times.atimeNsec = valid & FATTR.ATIME_NOW ? UTIME_NOW : valid & FATTR.ATIME ? change.atimeNsec : UTIME_OMIT;
  times.mtimeNsec = valid & FATTR.MTIME_NOW ? UTIME_NOW : valid & FATTR.MTIME ? change.mtimeNsec : UTIME_OMIT;
  return times;
}
