/** Containers on an appliance's root file system: what a container engine gives by default, and no more. */

export interface ContainerSpec {
  /** Unique container id, e.g. `strata-web-1-4711`. */
  id: string;
  /** The mounted VLFS. */
  rootfs: string;
  hostname: string;
  command: string[];
  env: Record<string, string>;
  cwd: string;
  network: 'host' | 'none';
  /** True when stdin is a terminal. */
  terminal: boolean;
  /** uid:gid inside; default 0:0. */
  user?: { uid: number; gid: number };
  /** Extra bind mounts, read-only unless said. */
  mounts?: { source: string; target: string; writable?: boolean }[];
  /** fsync, sync and the like do nothing inside: for scratch file systems that are thrown away when anything fails. */
  suppressSync?: boolean;
  /** Kill after this time; exit status 124. */
  timeoutMs?: number;
}

export interface ContainerResult {
  /** Exit status; 128 + signal when killed. */
  status: number;
  /** Captured, last 256 KiB, when output was captured. */
  output: string;
}
