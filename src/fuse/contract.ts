/**
 * The data plane as the control plane sees it: one process (strata-fs) that serves every mounted VLFS. stratad starts it,
 * talks to it over a unix socket (one JSON value a line), and finds it again after its own restart.
 */
import type { CacheMode, FreshPrivate, PrivateFile, StackSpec, VlfsSpec } from '../vlfs/contract.ts';

export interface MountRequest {
  /** Appliance name: one mount each VLFS instance; further mountpoints of the same appliance share the instance by bind mount. */
  id: string;
  mountpoint: string;
  vlfs: VlfsSpec;
  readOnly: boolean;
}

export interface MountInfo {
  id: string;
  mountpoint: string;
  stackKey: string;
  readOnly: boolean;
  cache: CacheMode;
  /** Requests served, for status. */
  requests: number;
  /** The same by kind: names as in linux/fuse.h without FUSE_. */
  kinds: Record<string, number>;
  openFiles: number;
}

export interface DataPlaneStatus {
  pid: number;
  uptimeMs: number;
  mounts: MountInfo[];
  /** VLFSs that have no mountpoint any more but live on: unmounted with force while programs used them, or a moment ago. */
  lingering: string[];
  memoryBytes: number;
  /** Opens served by the kernel (FUSE passthrough) on the connections that live. */
  passthroughOpens: number;
  /** What INIT of a live connection agreed on; fuseMinor is 0 (and the rest false) while there is none. */
  kernel: { fuseMinor: number; passthrough: boolean; incEpoch: boolean };
}

/** What is mounted of one VLFS, and at one directory. */
export interface FoundMounts {
  /** The strata-fs that answers. */
  pid: number;
  mounts: Pick<MountInfo, 'id' | 'mountpoint' | 'stackKey' | 'cache'>[];
  /** The VLFS lives on without a mountpoint, as in DataPlaneStatus. */
  isLingering: boolean;
}

export interface DataPlane {
  mount(request: MountRequest): Promise<void>;
  /** Throws BUSY unless force (then lazily). */
  unmount(mountpoint: string, options: { force: boolean }): Promise<void>;
  /** Exchanges the stacks of several mounted VLFSs, each atomically; answers when every path walk that begins afterwards sees the new stack. */
  relayer(changes: { id: string; stack: StackSpec; privateFiles?: PrivateFile[] }[]): Promise<void>;
  /** Before `freeze`, with the same arguments: has ready what can be, and changes nothing that one can see. Resolves when it is sent. */
  prepareFreeze(change: { id: string; stack: StackSpec; dir: string }): Promise<void>;
  /**
   * Freezes the private layer of a mounted VLFS at one instant, and shows the same as before: `dir`/{private, whiteouts}, which are empty and the topmost level
   * of `stack`, change places with those of the VLFS. Files that are open stay the VLFS's own; the frozen layer has copies of them. False: it is done, but is no state
   * of one instant, because of what a program stored through a mapping meanwhile. Throws NOT_FOUND when it has no mountpoint; then nothing was changed.
   */
  freeze(change: { id: string; stack: StackSpec; dir: string }): Promise<boolean>;
  /** Waits until all is in the frozen layer of the last freeze: nobody may read it before. Throws NOT_FOUND when the VLFS is not served. */
  follow(id: string): Promise<void>;
  /** Shows the shared originals again. Returns what was reverted. */
  revert(id: string, paths: string[]): Promise<string[]>;
  /** A fresh private layer, keeping the given paths. */
  reset(id: string, keep: string[]): Promise<void>;
  /**
   * Shows another stack of a mounted VLFS, and in the same step, with `fresh`, a fresh private layer; else a layer of the stack that was merged beside comes under the private one:
   * BUSY, naming the path, when that has changed what the layer changes too. Its programs wait meanwhile. Repeating what was done does nothing.
   */
  exchange(change: { id: string; stack: StackSpec; fresh: FreshPrivate | null }): Promise<void>;
  /** Reads ROOT/scan/quarantine and which appliances are checked at open anew; answers when all VLFSs do as they say. */
  readScanState(): Promise<void>;
  status(): Promise<DataPlaneStatus>;
  /** Asks no serving thread: it costs the same whatever else is mounted, and waits for no disk. */
  find(what: { id: string; mountpoint?: string }): Promise<FoundMounts>;
  close(): void;
}
