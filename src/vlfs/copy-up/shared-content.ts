/** The content of shared files: opening it, and copying a small one. */
import {
  close,
  copyFileRange,
  E,
  fgetxattr,
  O_CLOEXEC,
  O_RDONLY,
  openat2,
  pread,
  pwrite,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
} from '../../sys/index.ts';
import { basesOf, openShown } from '../delta/outside.ts';
import { PARTIAL_XATTR } from '../delta/partial-form.ts';
import { type Unit, unitRootFd } from '../stack/stack.ts';

/** Opens the file of a unit for reading; a negative errno (-ESTALE: the unit is gone). */
export function openShared(unit: Unit, entry: number): number {
  if (unit.frozen !== null) {
    const opened = unit.refs === 0 ? -E.STALE : unit.frozen.open(entry);
    return opened === -E.NOENT ? -E.STALE : opened < 0 ? opened : contentOf(unit, opened);
  }
  const root = unitRootFd(unit);
  if (root < 0) return -E.STALE;
  const fd = openat2(
    root,
    unit.index.path(entry),
    O_RDONLY | O_CLOEXEC,
    0,
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
  );
  if (fd < 0) return fd === -E.NOENT || fd === -E.NOTDIR ? -E.STALE : fd;
  return unit.overlay ? contentOf(unit, fd) : fd;
}

/** A frozen private layer may hold partial files: what such a one shows. Takes over the descriptor. */
function contentOf(unit: Unit, fd: number): number {
  if (typeof fgetxattr(fd, PARTIAL_XATTR) === 'number') return fd;
  try {
    return openShown(fd, basesOf(unit.treeDir), unit.treeDir) ?? -E.IO;
  } catch {
    return -E.IO;
  } finally {
    close(fd);
  }
}

const chunk = Buffer.allocUnsafeSlow(64 * 1024);

/** Copies a small file. 0 or a negative errno. */
export function copyInline(fromFd: number, toFd: number, size: number): number {
  for (let at = 0; at < size; ) {
    const copied = copyFileRange(fromFd, at, toFd, at, size - at);
    if (copied === 0) return -E.IO;
    if (copied < 0) return copyByHand(fromFd, toFd, at, size);
    at += copied;
  }
  return 0;
}

/** For pairs of file systems that copy_file_range(2) refuses. */
function copyByHand(fromFd: number, toFd: number, from: number, size: number): number {
  for (let at = from; at < size; ) {
    const got = pread(fromFd, chunk, Math.min(chunk.length, size - at), at);
    if (got <= 0) return got === 0 ? -E.IO : got;
    for (let done = 0; done < got; ) {
      const put = pwrite(toFd, chunk.subarray(done, got), got - done, at + done);
      if (put < 0) return put;
      done += put;
    }
    at += got;
  }
  return 0;
}
