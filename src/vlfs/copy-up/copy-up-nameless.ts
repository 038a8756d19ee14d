/**
 * The private copy of a shared file that has no name any more, for who has it open and writes to it: a kernel that opens files without asking tells of the first
 * write only, and the name may have gone before. The copy has no name either, and lives as long as the kernel knows the node.
 */
import {
  close,
  dup,
  E,
  fchmod,
  fchown,
  fsetxattr,
  fstat,
  futimens,
  newStat,
  O_CLOEXEC,
  O_RDWR,
  O_TMPFILE,
  openat,
} from '../../sys/index.ts';
import { type Caller, PENDING } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { newBacking } from '../nodes/handles.ts';
import { isCarried } from '../operations/internal-xattrs.ts';
import { workFd } from '../private-layer/work-dir.ts';
import { chargeBorn, copyBytes, mayTake } from '../quota/quota.ts';
import { copyInline, openShared } from './shared-content.ts';
import { slowJob } from './slow-job.ts';

const stat = newStat();

/** 0 (then the copy is `node.backing`), PENDING while a file of more than `inlineBytes` is copied, or a negative errno. */
export function copyUpNameless(core: Core, caller: Caller, node: Node, inlineBytes: number): number {
  if (node.copyUp !== null) {
    const { finished, job, fromFd, toFd } = node.copyUp;
    if (!finished) {
      caller.job = job;
      return PENDING;
    }
    node.copyUp = null;
    close(fromFd);
    return turnPrivate(core, node, toFd);
  }
  const { unit, entry } = node;
  if (unit === null) return -E.STALE;
  const full = core.quota === null ? 0 : mayTake(core, copyBytes(node), 1);
  if (full < 0) return full;
  const work = workFd(core);
  if (work < 0) return work;
  const { backing } = node;
  // Its layer may have left the stack; then it was opened before.
  const fromFd = backing?.shared && backing.fd >= 0 ? dup(backing.fd) : openShared(unit, entry);
  if (fromFd < 0) return fromFd;
  const toFd = openat(work, '.', O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600);
  const size = unit.index.size(entry);
  if (toFd >= 0 && size > inlineBytes) {
    startCopy(core, node, fromFd, toFd);
    return copyUpNameless(core, caller, node, inlineBytes);
  }
  const copied = toFd < 0 ? toFd : copyInline(fromFd, toFd, size);
  close(fromFd);
  if (copied >= 0) return turnPrivate(core, node, toFd);
  if (toFd >= 0) close(toFd);
  return copied;
}

function startCopy(core: Core, node: Node, fromFd: number, toFd: number): void {
  const sizeBytes = node.unit!.index.size(node.entry);
  const job = slowJob('retry', {
    kind: 'copy-data',
    fromFd,
    toFd,
    sizeBytes,
    done(errno) {
      if (node.copyUp?.job !== job || core.nodes.get(node.id) !== node) return;
      if (errno === 0) node.copyUp.finished = true;
      else {
        node.copyUp = null;
        for (const fd of [fromFd, toFd]) close(fd);
      }
    },
  });
  // Its temporary name is that of nothing.
  node.copyUp = { job, fromFd, toFd, temporary: '', finished: false };
}

/** The copy gets the attributes that the file has now. */
function turnPrivate(core: Core, node: Node, fd: number): number {
  const { index } = node.unit!;
  const { entry, gone } = node;
  const given = fchown(fd, gone?.uid ?? index.uid(entry), gone?.gid ?? index.gid(entry));
  let result = given;
  for (const [name, value] of index.hasXattrs(entry) ? index.xattrs(entry) : [])
    if (result >= 0 && isCarried(name)) result = fsetxattr(fd, name, value);
  if (result >= 0) result = fchmod(fd, (gone?.mode ?? index.mode(entry)) & 0o7777);
  const { atimeSec, atimeNsec } = gone ?? {
    atimeSec: index.mtimeSec(entry),
    atimeNsec: index.mtimeNsec(entry),
  };
  const { mtimeSec, mtimeNsec } = gone ?? {
    mtimeSec: index.mtimeSec(entry),
    mtimeNsec: index.mtimeNsec(entry),
  };
  if (result >= 0) result = futimens(fd, atimeSec, atimeNsec, mtimeSec, mtimeNsec);
  if (result >= 0) result = fstat(fd, stat);
  if (result < 0) {
    close(fd);
    return result;
  }
  node.priv = true;
  node.privIno = stat.ino;
  node.partial = null;
  node.backing = newBacking({ fd, cached: true, writable: true });
  core.ledger?.changed(node);
  core.demand!.hold(node);
  if (core.quota !== null) chargeBorn(core, node, stat);
  return 0;
}
