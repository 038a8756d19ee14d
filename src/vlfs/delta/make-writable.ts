/**
 * Before a partial file is opened for writing, or cut: where the file system shares blocks,
 * it becomes an ordinary file at once; else it stays partial and what is written goes into blocks of its own. A node whose content is open through
 * passthrough cannot change its backing file: then another node takes its names, and the kernel walks again (-ESTALE).
 */
import { close, E, ftruncate } from '../../sys/index.ts';
import type { Caller } from '../contract.ts';
import { takeOverPrivate } from '../copy-up/turn-private.ts';
import type { Core, Node } from '../core.ts';
import { dropParked } from '../private-layer/parked-files.ts';
import { canReflink, complete, mayFill, waitForFill } from './fill.ts';
import { openBase, type Partial, partialOf } from './partial-file.ts';
import { dropPartial } from './partial-form.ts';

/** 0: the node may be opened for writing. PENDING, -ESTALE (walk again) or another negative errno. `empty`: its content goes anyway. */
export function makeWritable(core: Core, caller: Caller, node: Node, empty: boolean): number {
  const partial = partialOf(core, node);
  if (partial !== null) {
    if (empty || !partial.metaOnDisk) {
      if (empty && partial.filling !== null) return waitForFill(caller, partial);
    } else {
      const made = completeIfShared(core, caller, node, partial);
      if (made !== 0) return made;
    }
  }
  const { backing } = node;
  // Another node would have no name that one could walk to.
  if (node.parent === null && backing?.shared === true && !backing.cached) return -E.STALE;
  if (node.partial) node.partial.form.meta = false;
  if (backing === null || !backing.shared) {
    if (node.partial !== undefined) dropParkedBase(core, node);
    return 0;
  }
  if (backing.cached) {
    node.backing = null;
    return 0;
  }
  takeOverPrivate(core, node);
  return -E.STALE;
}

/** What is parked may be the file below. */
function dropParkedBase(core: Core, node: Node): void {
  if (node.parked?.shared === true) dropParked(core, node);
}

/** Blocks that can be shared are: PENDING until the file is an ordinary one. 0: they cannot. */
function completeIfShared(core: Core, caller: Caller, node: Node, partial: Partial): number {
  if (partial.filling !== null) return waitForFill(caller, partial);
  // Shared blocks count too: without room for all of them the file stays partial.
  if (!mayFill(core, partial)) return 0;
  const baseFd = openBase(core, partial.form);
  if (baseFd < 0) return baseFd;
  const shares = canReflink(core, baseFd);
  close(baseFd);
  return shares ? complete(core, caller, node) : 0;
}

/** O_TRUNC: nothing of the file below is left. */
export function emptyPartial(node: Node, fd: number): number {
  const cut = ftruncate(fd, 0);
  if (cut < 0) return cut;
  if (node.backing !== null) node.backing.partial = null;
  node.partial = null;
  return dropPartial(fd);
}
