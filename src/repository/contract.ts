/**
 * A repository: a set of layer units and a flat database of their metadata. The rules every kind obeys are in the
 * doc comments here, and in one suite (test/contract/repository) that runs over every kind.
 */
import type { Progress } from '../base/index.ts';
import type { LayerUnit } from '../layer/contract.ts';
import type { OfferedUnit } from '../resolver/contract.ts';

export type RepositoryKind = 'dir' | 'apt' | 'deb' | 'rpm' | 'http' | 's3' | 'oci';

/** What `strata repo add` wrote, at repos/NAME/repo.json. */
export interface RepositoryConfig {
  name: string;
  kind: RepositoryKind;
  /** A directory, `apt:SUITE`, or a URL. */
  source: string;
  /** Glob patterns on layer names; when `allow` is not empty only matching layers are offered. `deny` wins. */
  allow: string[];
  deny: string[];
  keyFile?: string;
}

export interface UnitRef {
  layer: string;
  version: string;
}

export interface Repository {
  readonly config: RepositoryConfig;
  /** Directory where the units of this repository stand once they are here: $ROOT/repos/NAME (for kind dir: the source itself). */
  readonly unitsDir: string;
  /** All offered units (filters applied). Cached; after the first reading of an unchanged source this is well under a second for 63,000. */
  offered(): Promise<OfferedUnit[]>;
  /** A cheap token that changes whenever `offered()` would. */
  stamp(): Promise<string>;
  /** The unit on disk, or null when it has not been mirrored yet. No network. */
  local(ref: UnitRef): LayerUnit | null;
  /** Makes the units present: fetched (checksums verified), converted once, kept. All or each wholly: a failed unit leaves nothing. Units
   * already here cost nothing. Concurrent calls for the same unit join. Result in the order of refs. */
  ensure(refs: UnitRef[], progress?: Progress): Promise<LayerUnit[]>;
  /** Units that stand on disk here. */
  localUnits(): Promise<LayerUnit[]>;
  /** Reads the source anew (apt: the host's lists as they are now; dir: rebuilds the Layers database). */
  sync(progress?: Progress): Promise<{ units: number; added: number; removed: number }>;
  /** Deletes one local unit. Throws NOT_FOUND. The caller has checked that nothing uses it. */
  remove(ref: UnitRef): Promise<void>;
}
