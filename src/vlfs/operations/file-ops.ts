/**
 * Operations on open files: open, read, write, fsync, fallocate, lseek, copy_file_range. Data normally flows through passthrough; what arrives
 * here goes to the backing descriptor. Writes never reach a shared file: a handle that may write has a private backing.
 */
import {
  close,
  copyFileRange as copyRangeCall,
  E,
  fallocate as fallocateCall,
  fchmod,
  fremovexattr,
  fstat,
  ftruncate,
  lseek as lseekCall,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  openat,
  pread,
  pwrite,
  S_IFREG,
  S_ISGID,
  S_ISUID,
} from '../../sys/index.ts';
import { contentWent, refusedContent } from '../checks/quarantine.ts';
import { judgedForOpen } from '../checks/scan-on-open.ts';
import { type Caller, type OpenOut, PENDING } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { cutLarge } from '../copy-up/large-files.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import { attributesMoved, type Backing, type Core, type Handle, type Node } from '../core.ts';
import { keepFillTimes, queueFill, settled, waitForFill, wantsFill } from '../delta/fill.ts';
import { emptyPartial, makeWritable } from '../delta/make-writable.ts';
import type { Partial } from '../delta/partial-file.ts';
import { fallocatePartial, isFilling, readPartial, seekPartial, writePartial } from '../delta/partial-io.ts';
import { waitForCopy } from '../freeze/follow.ts';
import { mayChange } from '../freeze/open-files.ts';
import { addHandle, dropHandle, handleOf, ioFd, openBacking } from '../nodes/handles.ts';
import { mayOpen } from '../nodes/shares.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { confirm } from './lookup.ts';

const O_ACCMODE = 3;
const S_IXGRP = 0o010;
/** Longer copies go to the blocking pool. */
const INLINE_COPY_BYTES = 1 << 20;

const stat = newStat();

export function open(core: Core, caller: Caller, node: Node, flags: number, out: OpenOut): number {
  if (node.kind !== S_IFREG) return node.children !== null ? -E.ISDIR : -E.NXIO;
  if (node.successor !== null) return -E.STALE;
  if (!mayOpen(core)) return -E.NFILE;
  const writes = (flags & O_ACCMODE) !== O_RDONLY || (flags & O_TRUNC) !== 0;
  // Who cuts the file to nothing does not see what was in it.
  if ((flags & O_TRUNC) === 0) {
    const refused = refusedContent(core, node);
    if (refused < 0) return refused;
    if (core.scanOnOpen !== null && (flags & O_ACCMODE) !== O_WRONLY) {
      const judged = judgedForOpen(core, caller, node);
      if (judged !== 0) return judged;
    }
  }
  if (writes) {
    if (core.readOnly) return -E.ROFS;
    if (mayChange(flags)) {
      const waits = waitForCopy(core, caller, node);
      if (waits !== 0) return waits;
    }
    const truncate = (flags & O_TRUNC) !== 0;
    const wasShared = !node.priv;
    const copied = copyUp(core, caller, node, truncate);
    if (copied !== 0) return copied;
    const confirmed = confirm(core, node);
    if (confirmed < 0) return confirmed;
    const ready = makeWritable(core, caller, node, truncate);
    if (ready !== 0) return ready;
    if (truncate && !wasShared) {
      const cut = cutLarge(core, caller, node, 0);
      if (cut !== 0) return cut;
    }
    const result = openAs(core, node, flags, out);
    if (result < 0) return result;
    if (truncate) {
      const { fd, partial } = handleOf(core, out.fh)!.backing!;
      const cut = wasShared ? 0 : partial === null ? ftruncate(fd, 0) : emptyPartial(node, fd);
      if (cut < 0) {
        dropHandle(core, out.fh);
        return cut;
      }
      contentWent(fd);
      if (caller.killPriv === true) killPrivileges(fd);
    }
    return 0;
  }
  // After a relayer a walk may still end here by a name the kernel holds: then it walks again. Who has the old file open (or runs it) may
  // open that once more, through /proc.
  if (node.priv || node.opens === 0) {
    const confirmed = confirm(core, node);
    if (confirmed < 0) return confirmed;
  } else if (core.revoked.has(node)) return -E.STALE;
  return openAs(core, node, flags, out);
}

/** Registers an open of a node whose content is settled. */
export function openAs(core: Core, node: Node, flags: number, out: OpenOut): number {
  const backing = openBacking(core, node);
  if (typeof backing === 'number') return backing;
  if ((flags & O_ACCMODE) !== O_RDONLY && !backing.writable) return -E.ROFS;
  out.fh = addHandle(core, node, backing, flags);
  out.backingFd = core.passthrough && !backing.cached ? backing.fd : -1;
  out.backingReadOnly = !backing.writable;
  // The kernel writes to a backing file with our privileges, so it would leave set-user-id bits alone; and what it writes is not counted.
  out.directIo =
    out.backingFd >= 0 &&
    (flags & O_ACCMODE) !== O_RDONLY &&
    (core.quota !== null || hasPrivilegeBits(backing.fd));
  // What a private file has in the page cache may be older than what was written to it through passthrough.
  out.keepCache = backing.shared || (backing.cached && isCoherent(core, node, backing)) || !core.passthrough;
  out.keepsBacking = true;
  return 0;
}

/** A file that was open for passthrough before there was a quota is cached anew at its first open. */
function isCoherent({ quota }: Core, node: Node, { partial }: Backing): boolean {
  if (quota === null || partial !== null || quota.coherent.has(node)) return true;
  quota.coherent.add(node);
  return false;
}

function hasPrivilegeBits(fd: number): boolean {
  return fstat(fd, stat) === 0 && (stat.mode & (S_ISUID | S_ISGID)) !== 0;
}

/** The content of a file that is open: its own, or in part that of a file below. */
function partialOfHandle(handle: Handle): { fds: Backing; partial: Partial } | null {
  const { backing } = handle;
  return backing === null || backing.partial === null ? null : { fds: backing, partial: backing.partial };
}

/** A mode without set-user-id and, for executables of the group, set-group-id. */
export function withoutPrivileges(mode: number): number {
  return mode & S_IXGRP ? mode & ~(S_ISUID | S_ISGID) : mode & ~S_ISUID;
}

/** A write, truncation or change of owner ends set-user-id, set-group-id (of executables) and capabilities. */
export function killPrivileges(fd: number): void {
  if (fstat(fd, stat) !== 0) return;
  const mode = withoutPrivileges(stat.mode);
  if (mode !== stat.mode) fchmod(fd, mode & 0o7777);
  fremovexattr(fd, 'security.capability');
}

export function read(core: Core, fh: number, offset: number, into: Uint8Array): number {
  const handle = handleOf(core, fh);
  if (handle === null) return -E.BADF;
  const fd = ioFd(core, fh, handle);
  if (fd < 0) return fd;
  const part = partialOfHandle(handle);
  if (part !== null) return readPartial(part.fds, part.partial, offset, into);
  let done = 0;
  while (done < into.length) {
    const got = pread(fd, done === 0 ? into : into.subarray(done), into.length - done, offset + done);
    if (got === -E.INTR) continue;
    if (got < 0) return done > 0 ? done : got;
    if (got === 0) break;
    done += got;
  }
  return done;
}

/** The descriptor of a file that is open for writing, to change it at `offset`; or PENDING or a negative errno. */
function fdToChange(core: Core, caller: Caller, fh: number, offset: number): number {
  const handle = handleOf(core, fh);
  if (handle === null || (handle.flags & O_ACCMODE) === O_RDONLY) return -E.BADF;
  const waits = waitForCopy(core, caller, handle.node, offset);
  return waits !== 0 ? waits : ioFd(core, fh, handle);
}

export function write(
  core: Core,
  caller: Caller,
  fh: number,
  offset: number,
  from: Uint8Array,
  killPriv: boolean,
): number {
  const fd = fdToChange(core, caller, fh, offset);
  if (fd < 0) return fd;
  const handle = handleOf(core, fh)!;
  const part = partialOfHandle(handle);
  const done =
    part === null
      ? writeAll(fd, offset, from)
      : changePartial(core, caller, handle.node, part.partial, offset, offset + from.length, () =>
          writePartial(part.fds, part.partial, offset, from),
        );
  if (killPriv && done >= 0) killPrivileges(fd);
  return done;
}

/** A change of [from, to) of a partial file that is open; PENDING while that is being copied. */
function changePartial(
  core: Core,
  caller: Caller,
  node: Node,
  partial: Partial,
  from: number,
  to: number,
  change: () => number,
): number {
  if (isFilling(partial, from, to)) return waitForFill(caller, partial);
  const result = change();
  if (partial.filling !== null) keepFillTimes(partial, partial.filling.fd);
  if (wantsFill(partial)) queueFill(core, node, partial);
  return result;
}

function writeAll(fd: number, offset: number, from: Uint8Array): number {
  let done = 0;
  while (done < from.length) {
    const put = pwrite(fd, done === 0 ? from : from.subarray(done), from.length - done, offset + done);
    if (put === -E.INTR) continue;
    if (put < 0) {
      if (done === 0) return put;
      break;
    }
    done += put;
  }
  return done;
}

export function fsync(core: Core, caller: Caller, fh: number, dataOnly: boolean): number {
  const handle = handleOf(core, fh);
  if (handle === null) return -E.BADF;
  if (handle.backing === null) return 0;
  if (handle.backing.shared) return handle.node.priv ? fsyncAttributes(core, caller, handle.node) : 0;
  if (handle.backing.partial !== null) return fsyncPartial(caller, handle.backing, handle.backing.partial);
  // Stores through mappings changed times that the kernel may have been told; a program may look at them after this.
  if (core.passthrough && handle.backing.written) attributesMoved(core, handle.node);
  caller.job = slowJob('reply', { kind: 'fsync', fd: handle.backing.fd, dataOnly });
  return PENDING;
}

/** The map is in the attributes, so these go to the disk in any case. */
function fsyncPartial(caller: Caller, { fd }: Backing, partial: Partial): number {
  const { changes } = partial;
  caller.job = slowJob('reply', {
    kind: 'fsync',
    fd,
    dataOnly: false,
    done(errno) {
      if (errno === 0) settled(partial, fd, changes);
    },
  });
  return PENDING;
}

/** A metadata-only copy is open by the file below; its attributes are in the private layer. */
function fsyncAttributes(core: Core, caller: Caller, node: Node): number {
  if (node.parent === null || core.readOnly) return 0;
  const parentFd = directoryFd(core, node.parent);
  const fd = parentFd < 0 ? parentFd : openat(parentFd, node.name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return 0;
  caller.job = slowJob('reply', { kind: 'fsync', fd, dataOnly: false, done: () => close(fd) });
  return PENDING;
}

export function fallocate(
  core: Core,
  caller: Caller,
  fh: number,
  mode: number,
  offset: number,
  length: number,
): number {
  const fd = fdToChange(core, caller, fh, offset);
  if (fd < 0) return fd;
  const handle = handleOf(core, fh)!;
  const part = partialOfHandle(handle);
  if (part !== null) {
    return changePartial(core, caller, handle.node, part.partial, offset, offset + length, () =>
      fallocatePartial(part.fds, part.partial, mode, offset, length),
    );
  }
  if (length > 64 * INLINE_COPY_BYTES) {
    caller.job = slowJob('reply', { kind: 'fallocate', fd, mode, offset, length });
    return PENDING;
  }
  return fallocateCall(fd, mode, offset, length);
}

export function lseek(core: Core, fh: number, offset: number, whence: number): number {
  const handle = handleOf(core, fh);
  if (handle === null) return -E.BADF;
  const fd = ioFd(core, fh, handle);
  if (fd < 0) return fd;
  const part = partialOfHandle(handle);
  return part === null ? lseekCall(fd, offset, whence) : seekPartial(part.fds, part.partial, offset, whence);
}

export function copyFileRange(
  core: Core,
  caller: Caller,
  fhIn: number,
  offsetIn: number,
  fhOut: number,
  offsetOut: number,
  length: number,
): number {
  const source = handleOf(core, fhIn);
  const target = handleOf(core, fhOut);
  if (source === null || target === null || (target.flags & O_ACCMODE) === O_RDONLY) return -E.BADF;
  // As the kernel, which asks for no such copy.
  if (source.node === target.node && Math.abs(offsetIn - offsetOut) < length) return -E.INVAL;
  const waits = waitForCopy(core, caller, target.node);
  if (waits !== 0) return waits;
  const fromFd = ioFd(core, fhIn, source);
  const toFd = ioFd(core, fhOut, target);
  if (fromFd < 0 || toFd < 0) return -E.BADF;
  const from = partialOfHandle(source);
  const to = partialOfHandle(target);
  if (from !== null || to !== null)
    return copyThroughMemory(
      core,
      caller,
      { fh: fhIn, offset: offsetIn },
      { fh: fhOut, offset: offsetOut },
      length,
    );
  if (length <= INLINE_COPY_BYTES) return copyRangeCall(fromFd, offsetIn, toFd, offsetOut, length);
  caller.job = slowJob('reply', {
    kind: 'copy-range',
    fromFd,
    fromOffset: offsetIn,
    toFd,
    toOffset: offsetOut,
    sizeBytes: length,
  });
  return PENDING;
}

const copied = Buffer.allocUnsafeSlow(INLINE_COPY_BYTES);

/** Between files of which one is partial: a part of the range, as copy_file_range may. */
function copyThroughMemory(
  core: Core,
  caller: Caller,
  from: { fh: number; offset: number },
  to: { fh: number; offset: number },
  length: number,
): number {
  const got = read(core, from.fh, from.offset, copied.subarray(0, Math.min(length, copied.length)));
  return got <= 0 ? got : write(core, caller, to.fh, to.offset, copied.subarray(0, got), false);
}
