/**
 * Copy-up: the private copy of a shared file (or symlink, device ...) with all its attributes, made in the work directory and renamed into
 * place. Nothing that one can see changes, so a crash at any point leaves before or after. Small files are copied here; large ones by
 * two jobs of the blocking pool (copy, fdatasync), and the operation is repeated afterwards.
 * The small ones' write-out is started, not awaited, before the rename: an ordered journal (ext4, btrfs) then never shows the name without the data.
 */
import type { Name } from '../../base/index.ts';
import {
  close,
  E,
  fchmod,
  fchown,
  fchownat,
  fsetxattr,
  ftruncate,
  futimens,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_RDWR,
  openat,
  RENAME_NOREPLACE,
  renameat2,
  S_IFLNK,
  S_IFREG,
  setxattrAt,
  startWriteback,
  statAt,
  symlinkat,
  unlinkat,
  utimensat,
} from '../../sys/index.ts';
import { QUARANTINE_XATTR, quarantinedEntry } from '../checks/quarantine.ts';
import { type Caller, PENDING } from '../contract.ts';
import { attributesMoved, type CopyUp, type Core, type Node, step } from '../core.ts';
import { BLOCK, newBlockMap } from '../delta/block-map.ts';
import { newPartial, noteBase } from '../delta/partial-file.ts';
import { blocksOf, markMetacopy, type PartialForm, redirectOf, storePartial } from '../delta/partial-form.ts';
import { encodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { movedKnownFor } from '../nodes/moved-directories.ts';
import { attachName, forgetInode, pathOf } from '../nodes/nodes.ts';
import { isCarried } from '../operations/internal-xattrs.ts';
import { confirm } from '../operations/lookup.ts';
import { dropParked } from '../private-layer/parked-files.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { keepTimes, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import { temporaryName, workFd } from '../private-layer/work-dir.ts';
import { chargeCopy, copyBytes, mayTake } from '../quota/quota.ts';
import type { Unit } from '../stack/stack.ts';
import { type LinkPlace, linkEverywhere, placesOf } from './copy-up-links.ts';
import { copyUpNameless } from './copy-up-nameless.ts';
import { encodeOrigin, ORIGIN_XATTR } from './origin.ts';
import { copyInline, openShared } from './shared-content.ts';
import { slowJob } from './slow-job.ts';
import { takeOver, turnPrivate } from './turn-private.ts';

/** Up to this size a file is copied at once; a job would cost more than the copy. */
export const INLINE_BYTES = 128 * 1024;

/**
 * Makes the node private. Returns 0, PENDING (with caller.job) or a negative errno; -ESTALE when the node's place was taken by another one
 * because the old content is open through passthrough: the kernel then walks the path again and finds that one.
 * `empty`: the content will be truncated to nothing anyway.
 */
export function copyUp(core: Core, caller: Caller, node: Node, empty = false): number {
  if (core.readOnly) return -E.ROFS;
  if (node.successor === null && node.priv) return 0;
  const confirmed = confirm(core, node);
  const isNameless = node.gone !== null || node.parent === null || confirmed < 0;
  if (isNameless && core.noOpen && node.kind === S_IFREG)
    return copyUpNameless(core, caller, node, INLINE_BYTES);
  if (isNameless) return confirmed < 0 ? confirmed : -E.STALE;
  if (node.copyUp !== null) return continueCopyUp(core, caller, node, node.copyUp);
  const above = chainPrivate(core, caller, node.parent!);
  if (above !== 0) return above;
  const unit = node.unit!;
  const ready = movedKnownFor(core, caller, node);
  if (ready !== 0) return ready;
  if (core.quota !== null) {
    const full = mayCopyUp(core, node, empty);
    if (full < 0) return full;
  }
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  if (node.kind !== S_IFREG) {
    const made = makeSpecial(unit, node.entry, work, temporary);
    return made < 0 ? made : publish(core, node, work, temporary);
  }
  const toFd = openat(work, temporary, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0o600);
  if (toFd < 0) return toFd;
  const size = unit.index.size(node.entry);
  if (empty || size === 0) return finish(core, node, work, temporary, toFd, null);
  if (mayBePartial(core, unit, size)) {
    const made = finish(
      core,
      node,
      work,
      temporary,
      toFd,
      quarantinedEntry(unit, node.entry),
      formOf(unit, node.entry),
    );
    if (made !== -E.NOSPC && made !== -E.RANGE && made !== -E.TOOBIG) return made;
    // Its attributes have no room for the mark.
    return copyWhole(core, caller, node, work, temporaryName(core));
  }
  return copyContent(core, caller, node, { work, temporary, toFd });
}

/** 0, or -EDQUOT when the copy would exceed the quota. */
function mayCopyUp(core: Core, node: Node, empty: boolean): number {
  const unit = node.unit!;
  const size = unit.index.size(node.entry);
  const bytes = node.kind !== S_IFREG || empty || isLarge(core, unit, size) ? 0 : copyBytes(node);
  return mayTake(core, bytes, unit.frozen === null ? 1 : 0);
}

function copyWhole(core: Core, caller: Caller, node: Node, work: number, temporary: string): number {
  const toFd = openat(work, temporary, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0o600);
  return toFd < 0 ? toFd : copyContent(core, caller, node, { work, temporary, toFd });
}

function copyContent(
  core: Core,
  caller: Caller,
  node: Node,
  { work, temporary, toFd }: { work: number; temporary: string; toFd: number },
): number {
  const unit = node.unit!;
  const size = unit.index.size(node.entry);
  const fromFd = openShared(unit, node.entry);
  if (fromFd < 0) return abandon(work, temporary, toFd, fromFd);
  if (size > INLINE_BYTES) {
    startCopyJob(core, node, fromFd, toFd, temporary, size);
    return continueCopyUp(core, caller, node, node.copyUp!);
  }
  const copied = copyInline(fromFd, toFd, size);
  close(fromFd);
  if (copied < 0) return abandon(work, temporary, toFd, copied);
  startWriteback(toFd);
  return finish(core, node, work, temporary, toFd, quarantinedEntry(unit, node.entry));
}

/** Large files of layers that stay what they are; a config level's next generation has the same name. */
function mayBePartial(core: Core, unit: Unit, size: number): boolean {
  return isLarge(core, unit, size) && noteBase(core, unit) === 0;
}

function isLarge(core: Core, unit: Unit, size: number): boolean {
  return size > core.partialBytes && !unit.overlay;
}

/** A copy that shows all of the shared file. */
function formOf(unit: Unit, entry: number): PartialForm {
  const baseSize = unit.index.size(entry);
  const path = unit.index.path(entry);
  const baseBlocks = Math.ceil(unit.index.blocks(entry) / (BLOCK / 512));
  const limit = blocksOf(baseSize);
  return { unit: unit.id, path, baseSize, baseBlocks, limit, meta: true, map: newBlockMap() };
}

/** The mark of a partial file, and overlayfs' one; where the file will stand elsewhere than the shared one, overlayfs is told where that is. */
function markPartial(core: Core, node: Node, toFd: number, form: PartialForm): number {
  const sized = ftruncate(toFd, form.baseSize);
  if (sized < 0) return sized;
  const marked = markMetacopy(toFd);
  if (marked < 0) return marked;
  const redirect = redirectOf(form);
  if (pathOf(core, node.parent!, node.name) !== form.path) {
    const redirected = fsetxattr(toFd, redirect.name, redirect.value);
    if (redirected < 0) return redirected;
  }
  return storePartial(toFd, form);
}

function abandon(work: number, temporary: string, toFd: number, errno: number): number {
  close(toFd);
  unlinkat(work, temporary);
  return errno;
}

/** The slow part: the copy, then its way to the disk. What was made is removed when one of them fails. */
function startCopyJob(
  core: Core,
  node: Node,
  fromFd: number,
  toFd: number,
  temporary: string,
  size: number,
): void {
  const state: CopyUp = { job: null as never, fromFd, toFd, temporary, finished: false };
  const failed = (errno: number): boolean => {
    if (errno !== 0 && node.copyUp === state) dropCopyUp(core, node);
    return errno !== 0;
  };
  const sync = slowJob('retry', {
    kind: 'fsync',
    fd: toFd,
    dataOnly: true,
    done(errno) {
      if (!failed(errno)) state.finished = true;
    },
  });
  state.job = slowJob('retry', {
    kind: 'copy-data',
    fromFd,
    toFd,
    sizeBytes: size,
    done(errno) {
      if (!failed(errno)) state.job = sync;
    },
  });
  node.copyUp = state;
}

/** Waits for the job that is under way, or ends the copy-up. */
function continueCopyUp(core: Core, caller: Caller, node: Node, state: CopyUp): number {
  if (!state.finished) {
    caller.job = state.job;
    return PENDING;
  }
  close(state.fromFd);
  node.copyUp = null;
  const mark = quarantinedEntry(node.unit!, node.entry);
  return finish(core, node, workFd(core), state.temporary, state.toFd, mark);
}

/** Forgets a copy that will not be finished (the node's place changed, or the VLFS closes). */
export function dropCopyUp(core: Core, node: Node): void {
  const state = node.copyUp;
  if (state === null) return;
  node.copyUp = null;
  close(state.fromFd);
  abandon(core.workFd, state.temporary, state.toFd, 0);
}

/** Attributes of the finished regular file, then its place. `mark`: its content is in quarantine. */
function finish(
  core: Core,
  node: Node,
  work: number,
  temporary: string,
  toFd: number,
  mark: string | null,
  form: PartialForm | null = null,
): number {
  const { index } = node.unit!;
  const { entry } = node;
  const places = placesOf(core, node);
  const step1 = fchown(toFd, index.uid(entry), index.gid(entry));
  const step2 = step1 < 0 ? step1 : setAttributes(core, node, (name, value) => fsetxattr(toFd, name, value));
  const noted = step2 < 0 || form === null ? step2 : markPartial(core, node, toFd, form);
  const marked =
    noted < 0 || mark === null ? noted : fsetxattr(toFd, QUARANTINE_XATTR, Buffer.from(mark, 'latin1'));
  const step3 = marked < 0 ? marked : fchmod(toFd, index.mode(entry) & 0o7777);
  const seconds = index.mtimeSec(entry);
  const nanoseconds = index.mtimeNsec(entry);
  const step4 = step3 < 0 ? step3 : futimens(toFd, seconds, nanoseconds, seconds, nanoseconds);
  if (step4 < 0) return abandon(work, temporary, toFd, step4);
  close(toFd);
  return publish(core, node, work, temporary, places, form);
}

function setAttributes(core: Core, node: Node, set: (name: string, value: Uint8Array) => number): number {
  const { index } = node.unit!;
  if (index.hasXattrs(node.entry)) {
    for (const [name, value] of index.xattrs(node.entry)) {
      if (!isCarried(name)) continue;
      const result = set(name, value);
      if (result < 0) return result;
    }
  }
  const result = set(INO_XATTR, encodeIno(node.ino));
  if (result < 0) return result;
  if (node.unit!.frozen !== null) {
    const origin = index.xattrs(node.entry).get(ORIGIN_XATTR as Name);
    return origin === undefined ? 0 : set(ORIGIN_XATTR, origin);
  }
  const path = pathOf(core, node.parent!, node.name);
  return path === null ? 0 : set(ORIGIN_XATTR, encodeOrigin(path, node.unit!, node.entry));
}

/** A symlink, device, fifo or socket with the entry's attributes in the work directory. */
function makeSpecial(unit: Unit, entry: number, work: number, temporary: string): number {
  const { index } = unit;
  const mode = index.mode(entry);
  const made =
    (mode & 0o170000) === S_IFLNK
      ? symlinkat(index.symlinkTarget(entry), work, temporary)
      : mknodat(work, temporary, mode, index.rdev(entry));
  return made < 0 ? made : fchownat(work, temporary, index.uid(entry), index.gid(entry));
}

const stat = newStat();

/** Moves the finished copy to the node's name (to all names of a hard-linked inode) and tells the node. */
function publish(
  core: Core,
  node: Node,
  work: number,
  temporary: string,
  known?: LinkPlace[],
  form: PartialForm | null = null,
): number {
  const fail = (errno: number): number => {
    unlinkat(work, temporary);
    return errno;
  };
  const { parent, name } = node;
  if (parent === null) return fail(-E.STALE);
  if (node.kind !== S_IFREG) {
    const { index } = node.unit!;
    const { entry } = node;
    const attributes = setAttributes(core, node, (attribute, value) =>
      setxattrAt(work, temporary, attribute, value),
    );
    if (attributes < 0) return fail(attributes);
    const seconds = index.mtimeSec(entry);
    utimensat(work, temporary, seconds, index.mtimeNsec(entry), seconds, index.mtimeNsec(entry));
  }
  const places = known ?? placesOf(core, node);
  if (places.length > 1) {
    const linked = linkEverywhere(core, work, temporary, places);
    if (linked < 0) return fail(linked);
  } else {
    const parentFd = privateDirectory(core, parent);
    if (parentFd < 0) return fail(parentFd);
    const kept = keepTimes(parentFd);
    step(core, 'copy-up');
    const renamed = renameat2(work, temporary, parentFd, name, RENAME_NOREPLACE);
    if (renamed < 0) return fail(renamed);
    restoreTimes(parentFd, kept);
    attributesMoved(core, parent);
  }
  attributesMoved(core, node);
  return becomePrivate(core, node, places, form);
}

function becomePrivate(
  core: Core,
  node: Node,
  places: readonly LinkPlace[],
  form: PartialForm | null,
): number {
  const { parent, name } = node;
  const parentFd = privateDirectory(core, parent!);
  const result = parentFd < 0 ? parentFd : statAt(parentFd, name, stat);
  if (result < 0) return result;
  const from = { unit: node.unit, entry: node.entry };
  for (const place of places) {
    if (place.parent.children!.get(place.name) !== node) attachName(core, node, place.parent, place.name);
  }
  if (form !== null) {
    // Its content is what it was, so open files stay as they are.
    forgetInode(core, node);
    turnPrivate(core, node, stat.ino, newPartial(form));
    if (core.quota !== null) chargeCopy(core, node, from, stat);
    return 0;
  }
  dropParked(core, node);
  const heir = node.backing !== null && !node.backing.cached ? takeOver(core, node) : node;
  forgetInode(core, node);
  turnPrivate(core, heir, stat.ino, null);
  if (core.quota !== null) chargeCopy(core, heir, from, stat);
  if (heir !== node) return -E.STALE;
  // What is not read by passthrough goes over to the copy: the kernel asks for every byte it does not have.
  if (node.backing !== null) node.backing = null;
  return 0;
}

/** Cuts a private file that is not open. */
export function truncatePrivate(parentFd: number, name: string, size: number): number {
  const fd = openat(parentFd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  const result = ftruncate(fd, size);
  close(fd);
  return result;
}
