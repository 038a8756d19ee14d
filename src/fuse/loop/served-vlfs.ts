/**
 * A VLFS as the loop serves it. What tells stale names may be missing; then all names are dropped by FUSE_NOTIFY_INC_EPOCH, which
 * costs the mounts that lie inside.
 */
import type { StaleName, VfsOperations, VlfsControl, VlfsSpec } from '../../vlfs/contract.ts';
import type { HiddenEntries, Ledger, Revival } from '../../vlfs/index.ts';

type Optional =
  | 'beginRelayer'
  | 'beginFreeze'
  | 'beginExchange'
  | 'takeStaleNames'
  | 'takeListed'
  | 'takePrunable'
  | 'knownFiles'
  | 'takeBackgroundJob'
  | 'readScanOnOpen'
  | 'readQuota';

export type ServedVlfs = VfsOperations &
  Omit<VlfsControl, Optional> &
  Partial<Pick<VlfsControl, Optional>> & {
    /** Missing when the VLFS does not use the ledger: then it cannot be taken over. */
    everyName?(): StaleName[];
    /** After a takeover, when the requests that the kernel sent again have been answered. */
    resentAnswered?(): void;
  };

export type OpenServedVlfs = (
  spec: VlfsSpec,
  options: {
    /** Objects that the VLFSs of this thread may know together. */
    mostNodes?: number;
    /** A node's attributes changed by something the kernel did not ask for. */
    onAttributes(nodeId: number): void;
    /** Takes a descriptor whose closing may take long. */
    onClose(fd: number): void;
    /** A backing file that was kept after its last release is closed. */
    onBackingClosed(nodeId: number): void;
    /** What became EIO. */
    onFault(operation: string, error: unknown): void;
    ledger?: Ledger;
    revive?: Revival;
    /** What it hides, as prepareVlfs read it. */
    hidden?: HiddenEntries;
  },
) => ServedVlfs;
