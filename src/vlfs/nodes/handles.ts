/** Handles (fh): small integers for open files and directories, and the one backing descriptor that all opens of a node share. */
import { close, E, O_CLOEXEC, O_NOFOLLOW, O_RDONLY, O_RDWR, openat } from '../../sys/index.ts';
import { closeLarge, freesMuch } from '../copy-up/large-files.ts';
import { openShared } from '../copy-up/shared-content.ts';
import type { Backing, Core, Handle, Node } from '../core.ts';
import { settleLater } from '../delta/fill.ts';
import { openBase, partialOf, showsBase } from '../delta/partial-file.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { park, unpark } from '../private-layer/parked-files.ts';
import type { Steps } from '../steps.ts';
import { releaseIfUnused } from './nodes.ts';
import { countHandles } from './shares.ts';

const O_ACCMODE = 3;

/** The handle of an fh, or null when there is none. */
export function handleOf(core: Core, fh: number): Handle | null {
  return fh < 0 ? null : (core.handles[fh] ?? null);
}

/** Registers an open; returns its fh. */
export function addHandle(core: Core, node: Node, backing: Backing | null, flags: number): number {
  const handle: Handle = { node, backing, flags };
  countHandles(1);
  node.opens++;
  if ((flags & O_ACCMODE) !== O_RDONLY) node.writers++;
  if ((flags & O_ACCMODE) === O_RDWR) node.mappers++;
  if (backing !== null) {
    backing.opens++;
    if ((flags & O_ACCMODE) !== O_RDONLY) backing.written = true;
  }
  const free = core.freeHandles.pop();
  if (free !== undefined) {
    core.handles[free] = handle;
    core.ledger?.opened(free, handle);
    return free;
  }
  const fh = core.handles.push(handle) - 1;
  core.ledger?.opened(fh, handle);
  return fh;
}

/** RELEASE: closes the backing file with its last open. */
export function dropHandle(core: Core, fh: number): number {
  const handle = handleOf(core, fh);
  if (handle === null) return -E.BADF;
  // Before its descriptor is closed, whose number may be another's then.
  core.ledger?.closed(fh);
  core.handles[fh] = null;
  countHandles(-1);
  core.freeHandles.push(fh);
  const { node, backing } = handle;
  node.opens--;
  if ((handle.flags & O_ACCMODE) !== O_RDONLY) node.writers--;
  if ((handle.flags & O_ACCMODE) === O_RDWR) node.mappers--;
  if (backing !== null) {
    backing.opens--;
    if (backing.opens === 0) {
      const current = node.backing === backing;
      if (current) node.backing = null;
      if (backing.cached) {
        if (node.parent === null && !backing.shared && backing.baseFd < 0 && freesMuch(backing.fd))
          closeLarge(core, backing.fd);
        else closeBacking(backing);
        if (backing.partial !== null && node.partial === backing.partial)
          settleLater(core, node, backing.partial);
      } else if (
        current &&
        !backing.written &&
        node.parent !== null &&
        backing.shared === showsBase(core, node)
      )
        park(core, node, backing);
      else if (node.parent === null && !backing.shared && freesMuch(backing.fd)) {
        core.onBackingClosed?.(node.id);
        closeLarge(core, backing.fd);
      } else {
        close(backing.fd);
        core.onBackingClosed?.(node.id);
      }
    }
  }
  releaseIfUnused(core, node);
  return 0;
}

/** The backing of a regular file for one more open; a negative errno when it cannot be opened. */
export function openBacking(core: Core, node: Node): Backing | number {
  const { backing } = node;
  const shows = showsBase(core, node);
  if (backing !== null && backing.shared === shows) return backing;
  const kept = backing === null ? unpark(node) : null;
  if (kept !== null) {
    node.backing = kept;
    return kept;
  }
  if (shows) {
    const size = node.priv ? node.partial!.form.baseSize : node.unit!.index.size(node.entry);
    // What was frozen is private: its readers see what is written to its copy.
    const isFrozen = !node.priv && node.unit!.frozen !== null;
    const cached = !core.passthrough || isFrozen || size <= core.cachedBytes;
    // Only of a name that was just confirmed: the file of an old unit may be gone at the first read.
    const later = cached && !node.priv && node.generation === core.generation;
    const fd = later ? -1 : openContent(core, node);
    if (fd < 0 && !later) return fd;
    node.backing = newBacking({ fd, shared: true, cached });
    return node.backing;
  }
  if (node.parent === null) return -E.STALE;
  const parentFd = directoryFd(core, node.parent);
  if (parentFd < 0) return parentFd;
  let writable = !core.readOnly;
  let fd = openat(parentFd, node.name, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && writable && (fd === -E.ROFS || fd === -E.PERM || fd === -E.TXTBSY)) {
    writable = false;
    fd = openat(parentFd, node.name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  }
  if (fd < 0) return fd === -E.NOENT ? -E.STALE : fd;
  const partial = partialOf(core, node);
  const baseFd = partial === null ? -1 : openBase(core, partial.form);
  if (partial !== null && baseFd < 0) {
    close(fd);
    return baseFd;
  }
  // What is written through the kernel alone would not be counted.
  const cached = partial !== null || core.quota !== null;
  node.backing = newBacking({ fd, shared: false, cached, writable, partial, baseFd });
  return node.backing;
}

export function newBacking(known: Partial<Backing>): Backing {
  const none = { shared: false, cached: false, writable: false, written: false, opens: 0 };
  return { fd: -1, ...none, partial: null, baseFd: -1, ...known };
}

/** Closes what a backing has open. */
export function closeBacking(backing: Backing): void {
  if (backing.fd >= 0) close(backing.fd);
  if (backing.baseFd >= 0) close(backing.baseFd);
}

/** Opens the file of a layer that a node shows. */
function openContent(core: Core, node: Node): number {
  return node.priv ? openBase(core, node.partial!.form) : openShared(node.unit!, node.entry);
}

/** The descriptor of a backing, opened now if it was not yet. */
function opened(core: Core, node: Node, backing: Backing): number {
  if (backing.fd >= 0) return backing.fd;
  const fd = node.unit === null ? openContent(core, node) : openShared(node.unit, node.entry);
  if (fd >= 0) backing.fd = fd;
  return fd;
}

/** Before units may go: what is open can be read to the end. */
export function* holdOpenContent(core: Core): Steps<void> {
  for (const [fh, handle] of core.handles.entries()) {
    if (!handle?.backing?.shared) continue;
    opened(core, handle.node, handle.backing);
    core.ledger?.opened(fh, handle);
    yield;
  }
}

/** The descriptor for I/O by a handle. A handle on a shared file that was copied up meanwhile goes over to the copy. */
export function ioFd(core: Core, fh: number, handle: Handle): number {
  const { node, backing } = handle;
  if (backing === null) return -E.BADF;
  if (!backing.shared || showsBase(core, node)) return opened(core, node, backing);
  const fresh = openBacking(core, node);
  if (typeof fresh === 'number') return opened(core, node, backing);
  fresh.opens++;
  handle.backing = fresh;
  core.ledger?.opened(fh, handle);
  backing.opens--;
  if (backing.opens === 0 && backing.fd >= 0) {
    close(backing.fd);
    core.onBackingClosed?.(node.id);
  }
  return fresh.fd;
}
