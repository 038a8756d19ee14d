/**
 * Files whose space takes a while to free (ext4: seconds for many GiB in small pieces). Whoever removes the last name holds the file by a descriptor
 * that somebody else closes; what is cut off is cut off in the blocking pool.
 */
import {
  close,
  dup,
  fstat,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_PATH,
  O_RDWR,
  openat,
  S_IFREG,
} from '../../sys/index.ts';
import { type Attr, type Caller, PENDING } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { partialOf } from '../delta/partial-file.ts';
import { statNode } from '../nodes/attributes.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { slowJob } from './slow-job.ts';

/** Less is freed at once; 4,096 blocks, each perhaps in a place of its own, take about a millisecond. */
const LARGE_BYTES = 16 << 20;
const BLOCK_BYTES = 512;

const stat = newStat();

/** Before a private file loses its last name: a descriptor for closeLarge, or -1. `last`: its attributes. */
export function holdLarge(core: Core, node: Node, parentFd: number, name: string, last: Attr | null): number {
  if (core.onClose === null || node.kind !== S_IFREG || last === null || last.nlink > 1) return -1;
  if (last.blocks * BLOCK_BYTES < LARGE_BYTES) return -1;
  return openat(parentFd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/** Gives up what holdLarge gave. */
export function closeLarge(core: Core, fd: number): void {
  if (fd < 0) return;
  if (core.onClose === null) close(fd);
  else core.onClose(fd);
}

/** Whether closing this descriptor, the last one of its file, frees much. */
export function freesMuch(fd: number): boolean {
  return fstat(fd, stat) === 0 && stat.nlink === 0 && stat.blocks * BLOCK_BYTES >= LARGE_BYTES;
}

/** Before a private file is cut to `size`: PENDING when there is much to cut off, with the job that does; else 0. */
export function cutLarge(core: Core, caller: Caller, node: Node, size: number): number {
  // The map of a partial file must be cut with it.
  if (partialOf(core, node) !== null) return 0;
  if (statNode(core, node, stat) < 0 || stat.size <= size) return 0;
  if (stat.blocks * BLOCK_BYTES - size < LARGE_BYTES) return 0;
  const open = node.backing !== null && !node.backing.shared ? node.backing : null;
  let fd = open === null ? -1 : dup(open.fd);
  if (open === null && node.parent !== null) {
    const parentFd = directoryFd(core, node.parent);
    if (parentFd >= 0) fd = openat(parentFd, node.name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  }
  if (fd < 0) return 0;
  caller.job = slowJob('retry', { kind: 'truncate', fd, sizeBytes: size, done: () => close(fd) });
  return PENDING;
}
