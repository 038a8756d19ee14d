/**
 * The private layer's directories and places. A directory of the stack gets its private copy when something below it changes: it is
 * made in the work directory, with all attributes, and becomes visible by one rename, which changes nothing that one can see.
 */

import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  fchmod,
  fchown,
  fsetxattr,
  fstat,
  futimens,
  mkdirat,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  RENAME_NOREPLACE,
  renameat2,
  type Stat,
  statAt,
  UTIME_NOW,
  UTIME_OMIT,
  utimensat,
} from '../../sys/index.ts';
import { attributesMoved, type Core, type Node, step } from '../core.ts';
import { encodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { isCarried } from '../operations/internal-xattrs.ts';
import { DEFAULT_ACL, refresh } from '../operations/lookup.ts';
import { chargeDirectory, DIRECTORY_BYTES, directoryInode, mayTake } from '../quota/quota.ts';
import { entryOf, mergedTimes, topOf, unitOf } from '../stack/merged-directory.ts';
import { directoryFd } from './directory-fds.ts';
import { removeTree, temporaryName, workFd } from './work-dir.ts';

const stat = newStat();

/** Opens private/; a negative errno when it is not a directory. */
export function openPrivateDir(privateDir: string): number {
  return openat(AT_FDCWD, nameFromText(privateDir), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/** The descriptor of the private copy of a directory, which is made (with its parents) when missing; or a negative errno. */
export function privateDirectory(core: Core, node: Node): number {
  if (core.readOnly) return -E.ROFS;
  const checked = refresh(core, node);
  if (checked < 0) return checked;
  if (node.priv) return directoryFd(core, node);
  if (node.parent === null) return -E.NOENT;
  const parentFd = privateDirectory(core, node.parent);
  if (parentFd < 0) return parentFd;
  const made = copyUpDirectory(core, node, parentFd);
  return made < 0 ? made : directoryFd(core, node);
}

function copyUpDirectory(core: Core, node: Node, parentFd: number): number {
  const own = core.quota === null ? 0 : directoryInode(core, node);
  const full = own === 0 ? mayTake(core, DIRECTORY_BYTES, 1) : 0;
  if (full < 0) return full;
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mkdirat(work, temporary, 0o700);
  if (made < 0) return made;
  const result = fillDirectory(core, node, work, temporary);
  if (result < 0) {
    removeTree(work, temporary);
    return result;
  }
  const kept = keepTimes(parentFd);
  step(core, 'copy-up directory');
  const renamed = renameat2(work, temporary, parentFd, node.name, RENAME_NOREPLACE);
  if (renamed < 0) {
    removeTree(work, temporary);
    return renamed;
  }
  restoreTimes(parentFd, kept);
  attributesMoved(core, node.parent);
  attributesMoved(core, node);
  if (statAt(parentFd, node.name, stat) === 0) node.privIno = stat.ino;
  node.priv = true;
  if (core.quota !== null) chargeDirectory(core, own, node.privIno);
  return 0;
}

function fillDirectory(core: Core, node: Node, work: number, temporary: string): number {
  const ref = topOf(node.merged!);
  const unit = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  const { index } = unit;
  const fd = openat(work, temporary, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  try {
    let result = fchown(fd, index.uid(entry), index.gid(entry));
    if (result < 0) return result;
    if (index.hasXattrs(entry)) {
      for (const [name, value] of index.xattrs(entry)) {
        if (!isCarried(name)) continue;
        result = fsetxattr(fd, name, value);
        if (result < 0) return result;
        if ((name as string) === DEFAULT_ACL) node.defaultAcl = true;
      }
    }
    result = fsetxattr(fd, INO_XATTR, encodeIno(node.ino));
    if (result < 0) return result;
    result = fchmod(fd, index.mode(entry) & 0o7777);
    if (result < 0) return result;
    const { mtimeSec, mtimeNsec } = mergedTimes(node.merged!);
    return futimens(fd, mtimeSec, mtimeNsec, mtimeSec, mtimeNsec);
  } finally {
    close(fd);
  }
}

const times = newStat();

/** The times of a directory before something is put into it that must not show. */
export function keepTimes(fd: number): Stat | null {
  return fstat(fd, times) === 0 ? times : null;
}

/** Gives a directory the times of the last keepTimes back. */
export function restoreTimes(fd: number, kept: Stat | null): void {
  if (kept === null) return;
  utimensat(fd, '.', kept.atimeSec, kept.atimeNsec, kept.mtimeSec, kept.mtimeNsec);
}

/** A name below the directory went or came through a whiteout: the directory's modification time is now. */
export function touchDirectory(fd: number): void {
  utimensat(fd, '.', 0, UTIME_OMIT, 0, UTIME_NOW);
}
