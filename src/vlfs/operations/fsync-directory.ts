/**
 * fsyncdir: what was done to the names of a directory is on the disk, the whiteouts of its deletions too. These lie in other directories, so
 * the last one that was changed is synced first: ext4 and XFS write their journal in order, up to it; for other file systems all is synced.
 */
import { close, dup, fstatfs } from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { refresh } from './lookup.ts';

const EXT4 = 0xef53;
const XFS = 0x58465342;

export function fsyncdir(core: Core, caller: Caller, node: Node, dataOnly: boolean): number {
  if (core.readOnly) return 0;
  if (core.changedSetFd >= 0 && !hasOrderedJournal(core.changedSetFd)) {
    close(core.changedSetFd);
    core.changedSetFd = -1;
    caller.job = slowJob('reply', { kind: 'syncfs', fd: core.rootFd });
    return PENDING;
  }
  const whiteouts = whiteoutJob(core);
  if (whiteouts !== null) {
    caller.job = whiteouts;
    return PENDING;
  }
  if (refresh(core, node) < 0 || !node.priv) return 0;
  const known = directoryFd(core, node);
  // A descriptor of its own: the cache may close the other one while the job runs.
  const fd = known < 0 ? known : dup(known);
  if (fd < 0) return fd;
  caller.job = slowJob('reply', { kind: 'fsync', fd, dataOnly, done: () => close(fd) });
  return PENDING;
}

/** The job that brings the whiteouts to the disk, for all who wait for it; null when they are there. */
function whiteoutJob(core: Core): SlowJob | null {
  if (core.whiteoutSync !== null) return core.whiteoutSync;
  const fd = core.changedSetFd;
  if (fd < 0) return null;
  core.changedSetFd = -1;
  const ended = (errno: number): void => {
    core.whiteoutSync = null;
    if (errno !== 0 && core.changedSetFd < 0) core.changedSetFd = fd;
    else close(fd);
  };
  core.whiteoutSync = slowJob('retry', { kind: 'fsync', fd, dataOnly: false, done: ended });
  return core.whiteoutSync;
}

const fsStat = {
  type: 0,
  bsize: 0,
  blocks: 0,
  bfree: 0,
  bavail: 0,
  files: 0,
  ffree: 0,
  namelen: 0,
  frsize: 0,
};

function hasOrderedJournal(fd: number): boolean {
  return fstatfs(fd, fsStat) === 0 && (fsStat.type === EXT4 || fsStat.type === XFS);
}
