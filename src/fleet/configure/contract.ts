/**
 * Configuration of a template: what dpkg would have done after unpacking, on a file system that is composed of layer units
 * already. Whatever is written below `rootfs` becomes the template's config layer.
 */
import type { Progress } from '../../base/index.ts';

/** One layer unit of the new stack (or, when removed, of the old one). */
export interface UnitChange {
  kind: 'new' | 'upgraded' | 'removed' | 'unchanged';
  /** Directory NAME_VERSION/ of the unit; of the old unit when removed. */
  dir: string;
  /** For upgraded (or downgraded): the directory of the unit that it takes the place of. */
  previousDir?: string;
  /** The layer is implicit: apt's mark for packages that were installed automatically. */
  auto?: boolean;
}

/** A file for the config layer. Path without leading slash. */
export interface ConfigFile {
  path: string;
  content: string;
}

export interface ConfigureInput {
  /** The state root; the container's bundle lives there meanwhile. */
  root: string;
  /** The mounted, writable scratch file system. */
  rootfs: string;
  /** For messages and the container's host name. */
  name: string;
  changes: UnitChange[];
  /** Text of var/lib/dpkg/status of the previous generation, or null for a fresh template. */
  previousStatus: string | null;
  /** Put in place before anything runs, when the path does not exist yet (e.g. etc/apt/sources.list). */
  seedFiles?: ConfigFile[];
  progress?: Progress;
  /** Default: 20 minutes and 3 seconds for each changed unit. */
  timeoutMs?: number;
  /** Default none. */
  network?: 'none' | 'host';
}

export type ConfigureResult =
  | {
      ok: true;
      elapsedMs: number;
      /** Things a person should know, e.g. that secrets were made which appliances will share. */
      notes: string[];
    }
  | {
      ok: false;
      elapsedMs: number;
      /** Layer whose script failed, or null when that is not known. */
      unit: string | null;
      /** preinst, postinst, pre-install ..., or null. */
      script: string | null;
      /** Exit status of the script or of the run; 124 when the time limit was met. */
      status: number;
      /** The last lines of output. */
      output: string;
    };
