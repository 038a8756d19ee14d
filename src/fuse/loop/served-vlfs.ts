/**
 * A VLFS as the loop serves it. The two methods on stale names may be missing; then all names are dropped by FUSE_NOTIFY_INC_EPOCH, which
 * costs the mounts that lie inside.
 */
import type { VfsOperations, VlfsControl } from '../../vlfs/contract.ts';

export type ServedVlfs = VfsOperations &
  Omit<VlfsControl, 'staleNames' | 'takeStaleNames'> &
  Partial<Pick<VlfsControl, 'staleNames' | 'takeStaleNames'>>;
