/**
 * Backing files that nobody has open any more, kept open for the next open: then it costs no system call, and the file server may keep what it
 * registered for it. One bounded least-recently-used cache per thread, for all VLFSs. Only files that were not opened for writing are parked:
 * closing a written file may bring it to the disk. A file that loses its last name or its node leaves at once, so its space is free then.
 */
import { close, raiseOpenFiles } from '../../sys/index.ts';
import type { Backing, Core, Node } from '../core.ts';
import type { Unit } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';

/** Parked files of a thread: about 2 KiB of the kernel's memory each; and what part of the limit of open files they may take. */
const MOST = 16384;
const PART_OF_LIMIT = 6;
/** Files that are looked at between two steps. */
const A_STEP = 128;
let capacity = 0;
const parked = new Map<Node, Core>();

/** Keeps the backing of a node without opens. */
export function park(core: Core, node: Node, backing: Backing): void {
  if (capacity === 0) capacity = Math.max(1, Math.min(MOST, Math.floor(raiseOpenFiles(0) / PART_OF_LIMIT)));
  node.parked = backing;
  parked.set(node, core);
  if (parked.size <= capacity) return;
  const [oldest, owner] = parked.entries().next().value!;
  dropParked(owner, oldest);
}

/** The parked backing of a node for its next open; null when there is none. */
export function unpark(node: Node): Backing | null {
  const backing = node.parked;
  if (backing === null) return null;
  node.parked = null;
  parked.delete(node);
  return backing;
}

/** Closes the parked backing of a node, if it has one. */
export function dropParked(core: Core, node: Node): void {
  const backing = unpark(node);
  if (backing === null) return;
  close(backing.fd);
  core.onBackingClosed?.(node.id);
}

/** Closes the parked shared files of a VLFS whose units are not among those that stay. */
export function* dropParkedOf(core: Core, stay: ReadonlySet<Unit>): Steps<void> {
  let looked = 0;
  // Those that are parked again meanwhile are in use, and so not of such units.
  const all = parked.size;
  for (const [node, owner] of parked) {
    if (++looked > all) return;
    if (looked % A_STEP === 0) yield;
    if (owner === core && node.parked?.shared === true && !stay.has(node.unit!)) dropParked(core, node);
  }
}

/** Closes all parked files of a VLFS. */
export function* dropAllParked(core: Core): Steps<void> {
  let looked = 0;
  for (const [node, owner] of parked) {
    if (++looked % A_STEP === 0) yield;
    if (owner === core) dropParked(core, node);
  }
}
