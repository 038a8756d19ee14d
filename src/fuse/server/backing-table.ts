/**
 * Which nodes are open through the kernel (FUSE passthrough) and which through the page cache. The kernel wants all opens of one
 * inode of one kind: one backing object for passthrough, and passthrough and cached opens never together. This table keeps
 * one backing id a node while any passthrough open of it lives (longer, when the VLFS keeps the file), and says which open flags are
 * possible for the next open.
 */
import { E } from '../../sys/index.ts';
import type { OpenOut } from '../../vlfs/contract.ts';
import { type Ledger, OPEN_MODE } from '../../vlfs/index.ts';
import { FOPEN } from '../abi/constants.ts';

/** How a transport gives descriptors to the kernel; virtio-fs has none. */
export interface BackingDevice {
  /** The backing id (> 0) of a descriptor, or a negative errno. Privileged: writes through it leave set-user-id bits alone. */
  open(fd: number, privileged: boolean): number;
  close(backingId: number): void;
}

interface NodeUse {
  backingId: number;
  privileged: boolean;
  passthroughOpens: number;
  cachedOpens: number;
  /** The VLFS keeps the backing file open after the last release. */
  kept: boolean;
  /** Its place in the ledger, or -1. */
  slot: number;
}

/** What the ledger of a killed process says of opens. */
export interface FormerOpens {
  handles: readonly { fh: number; node: number; mode: number }[];
  backings: readonly { node: number; id: number; privileged: boolean }[];
}

export interface BackingTable {
  /** Set once INIT agreed on passthrough. */
  enabled: boolean;
  /** Opens in passthrough so far, for status and tests. */
  passthroughOpens: number;
  /**
   * Counts an open and returns FOPEN_* flags; `backingId()` is then the id to send. Negative errno: the kernel
   * would refuse it. Writes of root, as far as it is known that an opener is, leave set-user-id bits alone; those of others end them.
   */
  opened(node: number, open: OpenOut, byRoot: boolean): number;
  /** The backing id of the open just counted, or 0. */
  backingId(): number;
  released(node: number, fh: number): void;
  /** The VLFS closed the backing file of a node without opens. */
  closed(node: number): void;
  closeAll(): void;
  /** After a takeover: what the kernel has open goes on, what is only registered is given up. */
  restore(former: FormerOpens): void;
}

export function createBackingTable(device: BackingDevice | null, ledger: Ledger | null = null): BackingTable {
  const nodes = new Map<number, NodeUse>();
  /** fh -> true when passthrough, false when cached; direct opens are not in it. */
  const handles = new Map<number, boolean>();
  let lastBackingId = 0;
  /** The kernel refused a backing file for good (its file system is stacked too deep). */
  let refused = false;

  function useOf(node: number): NodeUse {
    let use = nodes.get(node);
    if (use === undefined) {
      use = { backingId: 0, privileged: false, passthroughOpens: 0, cachedOpens: 0, kept: false, slot: -1 };
      nodes.set(node, use);
    }
    return use;
  }

  function openPassthrough(node: number, use: NodeUse, open: OpenOut, byRoot: boolean): boolean {
    const privileged = byRoot || open.backingReadOnly;
    if (use.passthroughOpens === 0 && use.privileged && !privileged) dropId(use);
    if (use.backingId === 0) {
      const id = device!.open(open.backingFd, privileged);
      if (id <= 0) {
        refused ||= id === -E.LOOP || id === -E.PERM || id === -E.OPNOTSUPP;
        return false;
      }
      use.backingId = id;
      use.privileged = privileged;
      use.slot = ledger?.registered(node, id, privileged) ?? -1;
    }
    use.passthroughOpens++;
    use.kept = open.keepsBacking;
    handles.set(open.fh, true);
    ledger?.openMode(open.fh, OPEN_MODE.passthrough);
    lastBackingId = use.backingId;
    return true;
  }

  function dropId(use: NodeUse): void {
    if (use.backingId > 0) device?.close(use.backingId);
    use.backingId = 0;
    ledger?.unregistered(use.slot);
    use.slot = -1;
  }

  function openCached(use: NodeUse, open: OpenOut): number {
    use.cachedOpens++;
    handles.set(open.fh, false);
    ledger?.openMode(open.fh, OPEN_MODE.cached);
    return open.keepCache ? FOPEN.KEEP_CACHE : 0;
  }

  return {
    enabled: false,
    passthroughOpens: 0,
    opened(node, open, byRoot) {
      lastBackingId = 0;
      const known = nodes.get(node);
      const live = known !== undefined && known.passthroughOpens > 0;
      if (live && open.backingFd < 0) return -E.TXTBSY;
      const possible = this.enabled && !refused && device !== null && open.backingFd >= 0;
      if (possible && (known === undefined || known.cachedOpens === 0)) {
        const use = useOf(node);
        if (openPassthrough(node, use, open, byRoot)) {
          this.passthroughOpens++;
          return FOPEN.PASSTHROUGH | (open.directIo ? FOPEN.DIRECT_IO : 0);
        }
      }
      if (open.directIo) return FOPEN.DIRECT_IO | FOPEN.PARALLEL_DIRECT_WRITES;
      return openCached(useOf(node), open);
    },
    backingId: () => lastBackingId,
    released(node, fh) {
      const passthrough = handles.get(fh);
      if (passthrough === undefined) return;
      handles.delete(fh);
      const use = nodes.get(node);
      if (use === undefined) return;
      if (passthrough) use.passthroughOpens--;
      else use.cachedOpens--;
      if (use.passthroughOpens > 0 || (use.kept && use.backingId > 0)) return;
      dropId(use);
      if (use.cachedOpens <= 0) nodes.delete(node);
    },
    closed(node) {
      const use = nodes.get(node);
      if (use === undefined || use.passthroughOpens > 0) return;
      dropId(use);
      if (use.cachedOpens <= 0) nodes.delete(node);
    },
    closeAll() {
      for (const use of nodes.values()) if (use.backingId > 0) device?.close(use.backingId);
      nodes.clear();
      handles.clear();
    },
    restore(former) {
      for (const { fh, node, mode } of former.handles) {
        if (mode === OPEN_MODE.direct) continue;
        const use = useOf(node);
        // The VLFS says when it closes the file.
        use.kept = true;
        handles.set(fh, mode === OPEN_MODE.passthrough);
        if (mode === OPEN_MODE.passthrough) use.passthroughOpens++;
        else use.cachedOpens++;
      }
      for (const { node, id, privileged } of former.backings) {
        const use = nodes.get(node);
        if (use === undefined || use.passthroughOpens === 0 || use.backingId > 0) {
          device?.close(id);
          continue;
        }
        use.backingId = id;
        use.privileged = privileged;
        use.slot = ledger?.registered(node, id, privileged) ?? -1;
      }
    },
  };
}
