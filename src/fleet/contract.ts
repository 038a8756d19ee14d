/**
 * The domain: templates, appliances and what is done to them. One Fleet per state root, inside stratad. Every method that changes
 * state is all or nothing (journalled; recovered at open) and safe against kill -9 at any instant.
 */
import type { Progress } from '../base/index.ts';
import type { UnitMetadata } from '../formats/contract.ts';
import type { DataPlane } from '../fuse/contract.ts';
import type { RepositoryConfig, RepositoryKind } from '../repository/contract.ts';
import type { ScannerKind, ScanResult } from '../scan/contract.ts';
import type { CacheMode, DiffEntry, Differences, MergeConflict } from '../vlfs/contract.ts';

export interface LdfLine {
  repo: string;
  layer: string;
  version: string;
  held: boolean;
}

export interface TemplateInfo {
  name: string;
  generation: number;
  explicit: LdfLine[];
  implicit: LdfLine[];
  refs: string[];
  /** Units of its stack, those of the templates it refers to included. */
  units: number;
  /** The LDF's text. */
  ldf: string;
  appliances: number;
}

/** Where the time of making a template went, in milliseconds. */
export interface TemplateTimings {
  /** Reading the repositories' offers and solving. */
  resolve_ms: number;
  /** Fetching and converting what was not mirrored yet. */
  mirror_ms: number;
  /** Ordering the layers and checking that none hides another. */
  compose_ms: number;
  /** The distribution's tools in the container, and indexing what they wrote. */
  configure_ms: number;
}

/** Missing: as it is, or as that of the source. */
export interface QuotaOptions {
  quotaBytes?: number | 'none';
  quotaInodes?: number | 'none';
}

export interface QuotaInfo {
  name: string;
  /** null: no limit. */
  quota_bytes: number | null;
  quota_inodes: number | null;
  /** Of what the appliance shows of its own, private or frozen: allocated bytes of files, 4 KiB a directory. */
  used_bytes: number;
  used_inodes: number;
}

/** Space on disk; what the layers of templates take is nobody's. */
export interface SpaceInfo {
  /** What deleting the appliance gives back. Blocks that files share by reflink count as shared. */
  exclusive_bytes: number;
  /** What it has together with others. */
  shared_bytes: number;
  /** Layers that others have too: `frozen/ID`, `imports/ID`; of many appliances a hundred. */
  shared_with: { layer: string; bytes: number; count: number; appliances: string[] }[];
}

export interface ApplianceInfo {
  name: string;
  mac: string;
  template: string;
  mounts: string[];
  generation: number;
  held_back: string | null;
  /** When its time to live is over; missing: never. */
  expires?: string;
  /** Only in show, as all that follows. */
  created_at?: string;
  /** The appliance that it was cloned from, if that is still there. */
  parent?: string | null;
  snapshots?: number;
  /** Bytes of the private layer and of frozen ones. */
  private_bytes?: number;
  /** In show, and in lists with sizes. */
  exclusive_bytes?: number;
  shared_bytes?: number;
  /** Only in show. */
  shared_with?: SpaceInfo['shared_with'];
  layers?: number;
  /** Layers that it shares with its clones, or with what it was cloned from. */
  frozen_layers?: number;
  /** Frozen layers are being merged: so many of so many are done; both 0 while it waits for others. */
  merging?: { done: number; total: number };
  ldf?: string;
  root?: string;
}

/** An appliance in the tree of its family. */
export interface FamilyMember {
  name: string;
  template: string;
  /** Below the head of its tree. */
  depth: number;
  parent: string | null;
  /** Whose clone it was, when that one is deleted. */
  deleted_parent: string | null;
  created_at: string;
  expires: string | null;
  mounts: string[];
  snapshots: { name: string; created_at: string }[];
}

/**
 * What becomes of the frozen layers behind a clone: `async` merges them in the background, so that a long line of clones stays a few layers; `sync` waits
 * for that; `lazy` leaves them as they are. What a clone shows is the same at once in all of them.
 */
export type CloneMode = 'lazy' | 'async' | 'sync';

export interface UpdateResult {
  templates: {
    name: string;
    from: number;
    to: number;
    changes: { layer: string; from: string | null; to: string | null }[];
    /** Set when this template could not be updated; everything else proceeded. */
    held_back?: string;
  }[];
  appliances: { updated: number; held_back: { name: string; reason: string }[] };
  elapsed_ms: number;
}

export interface WhyResult {
  path?: string;
  layer?: string;
  unit: string | null;
  private: boolean;
  /** Lines for people: why the layer is in. */
  chain: string[];
}

export interface RunPreparation {
  /** argv of the OCI runtime (or other) that the CLI executes with its own terminal. */
  argv: string[];
  /** Call `finishRun` with it afterwards. */
  runId: string;
  env: Record<string, string>;
}

/** What gc removes. */
export type GcKind =
  | 'generations'
  | 'units'
  | 'leftovers'
  | 'whiteouts'
  | 'containers'
  | 'images'
  | 'verdicts'
  | 'frozen'
  | 'imports'
  | 'journal';

export interface GcResult {
  dry_run: boolean;
  /** Generations of each template that stay. */
  keep: number;
  /** What went (dry run: would go), every kind once. Bytes are what the file system gets back. */
  removed: { kind: GcKind; count: number; bytes: number }[];
  count: number;
  bytes: number;
  /** The first thousand, by name. */
  items: { kind: GcKind; name: string }[];
  /** What could not be done, and why. */
  notes: string[];
  /** The longest time for which a command that commits had to wait for it. */
  longest_hold_ms: number;
  elapsed_ms: number;
}

export interface FsckProblem {
  /** What is damaged: `template web`, `unit main/hello 1`. */
  object: string;
  problem: string;
  /** What to do about it. */
  remedy: string;
  /** A warning does not make the state unsound. */
  severity: 'error' | 'warning';
  repaired: boolean;
}

export interface FsckResult {
  /** How many of each were looked at. */
  checked: {
    repositories: number;
    units: number;
    generations: number;
    appliances: number;
    mounts: number;
  };
  problems: FsckProblem[];
  /** Nothing is wrong, or all that was is repaired; warnings do not count. */
  clean: boolean;
  elapsed_ms: number;
}

/** Which scanner, and its limits; see ScannerConfig. */
export interface ScannerOptions {
  /** Default: clamav, or command when there is one. */
  with?: ScannerKind;
  socket?: string;
  database?: string;
  rules?: string[];
  command?: string;
  maxBytes?: number;
  timeoutMs?: number;
}

export interface FleetScanResult extends ScanResult {
  /** Private files that the quarantine marked. */
  marked: number;
  /** Sealed mounts that show infected content until they are unmounted. */
  still_shown: { name: string; dir: string }[];
}

export interface QuarantineEntry {
  digest: string;
  /** What the scanner called it. */
  name: string;
  scanner: string;
  since: string;
}

/** The policies that come with Strata (policy/secrets.ts). */
export const OFFERED_POLICIES = [
  'secrets-ssh',
  'secrets-passwords',
  'secrets-machine',
  'secrets-cloud',
  'secrets-tokens',
  'secrets-history',
  'secrets-env',
  'secrets-keys',
] as const;

/** A tree of another appliance, shown at `path`. */
export interface PolicyGraft {
  path: string;
  appliance: string;
  /** Where it is there. */
  from: string;
}

/** What the options of a command say about a policy. */
export interface PolicySource {
  /** Patterns. */
  exclude?: string[];
  /** `path` shows the content that `file` on this host has now. */
  substitutes?: { path: string; file: string }[];
  grafts?: PolicyGraft[];
  /** Policies by name. */
  policies?: string[];
  /** All that Strata offers for secrets. */
  secrets?: boolean;
}

export interface PolicyInfo {
  name: string;
  /** It comes with Strata. */
  offered: boolean;
  rules: number;
  substitutes: number;
  text: string;
}

/** The policy of an appliance, its ancestors' included. */
export interface PolicyState {
  name: string;
  /** `from`: the policy it came by; empty: a command's option. */
  rules: { pattern: string; from: string }[];
  /** Layers of substitutes and grafts. */
  layers: number;
}

export interface PolicyLog {
  /** The last denied path first. */
  denials: {
    path: string;
    rule: string;
    count: number;
    first: string;
    last: string;
    uid: number;
    pid: number;
  }[];
  /** Paths that were denied so fast one after the other that they were not written. */
  suppressed: number;
}

export interface Fleet {
  repoAdd(
    o: {
      name: string;
      source: string;
      kind?: RepositoryKind;
      allow?: string[];
      deny?: string[];
      keyFile?: string;
    },
    progress: Progress,
    /** `made_source`: the source directory was not there and was made. */
  ): Promise<RepositoryConfig & { units: number; made_source: boolean }>;
  repoList(): Promise<(RepositoryConfig & { units: number; local: number })[]>;
  repoSync(
    name: string,
    progress: Progress,
  ): Promise<{ name: string; units: number; added: number; removed: number }>;
  repoRemove(name: string): Promise<void>;
  repoIndex(name: string, progress: Progress): Promise<{ name: string; units: number }>;

  layerImport(
    o: { files: string[]; repo: string },
    progress: Progress,
  ): Promise<{ units: { repo: string; layer: string; version: string }[] }>;
  layerBuild(
    o: {
      dir: string;
      repo: string;
      name: string;
      version: string;
      depends?: string;
      preDepends?: string;
      conflicts?: string;
      provides?: string;
      replaces?: string;
      scripts?: string;
      infer?: boolean;
    },
    progress: Progress,
  ): Promise<{ repo: string; layer: string; version: string }>;
  /** Local units by default; `available` lists everything offered. */
  layerList(o: { repo?: string; available?: boolean; match?: string }): Promise<{
    layers: { repo: string; layer: string; version: string; local: boolean; description: string }[];
  }>;
  layerShow(o: { repo: string; layer: string; version?: string }): Promise<{
    repo: string;
    local: boolean;
    versions: string[];
    metadata: UnitMetadata;
    files?: number;
    bytes?: number;
  }>;
  layerVerify(
    o: { repo?: string; layer?: string },
    progress: Progress,
  ): Promise<{ checked: number; problems: { unit: string; path: string; problem: string }[] }>;
  layerRemove(o: { repo: string; layer: string; version: string }): Promise<void>;

  templateCreate(
    o: { name: string; layers: string[]; from: string[]; recommends?: boolean; configure?: boolean },
    progress: Progress,
  ): Promise<TemplateInfo & { elapsed_ms: number; timings: TemplateTimings }>;
  templateAdd(o: { name: string; layers: string[] }, progress: Progress): Promise<TemplateInfo>;
  templateRemove(o: { name: string; layers: string[] }, progress: Progress): Promise<TemplateInfo>;
  templateHold(o: { name: string; layer: string; held: boolean }): Promise<TemplateInfo>;
  templateShow(name: string): Promise<TemplateInfo>;
  templateList(): Promise<{
    templates: { name: string; generation: number; layers: number; appliances: number }[];
  }>;
  templateDelete(name: string): Promise<void>;
  templateFreeze(o: { name: string; from: string }, progress: Progress): Promise<TemplateInfo>;

  update(o: { templates?: string[]; dryRun?: boolean }, progress: Progress): Promise<UpdateResult>;
  rollback(o: { template: string; generation?: number }, progress: Progress): Promise<UpdateResult>;

  create(
    o: {
      name: string;
      template: string;
      mac?: string;
      count?: number;
      layers?: string[];
      /** From now on; then `expire` deletes them. */
      ttlSeconds?: number;
    } & QuotaOptions,
    progress: Progress,
  ): Promise<{ appliances: { name: string; mac: string; template: string }[]; elapsed_ms: number }>;
  /** Makes the appliance `name` from what `source` is at one instant, in milliseconds whatever it holds. `mode` (default async): see CloneMode.
   * It is there whatever is killed; after a power cut, if anything is that was synced later, or with `sync`. */
  clone(
    /** `path`: the directory of the source that is the clone's root; then all below it is copied. */
    o: { source: string; name: string; path?: string; mode?: CloneMode; ttlSeconds?: number } & PolicySource &
      QuotaOptions,
    progress: Progress,
  ): Promise<{
    name: string;
    mac: string;
    template: string;
    source: string;
    /** Frozen layers that it shows. */
    layers: number;
    elapsed_ms: number;
  }>;
  /**
   * Makes an appliance of an existing root file system: a directory, a tar archive, or a file with ext4, XFS or btrfs. `how`: by blocks of its own or shared ones
   * (default), by further names of the same files, by moving the directory. Killed anywhere, it is there wholly or not.
   */
  importDir(
    o: {
      source: string;
      name: string;
      how?: 'copy' | 'link' | 'move';
      template?: string;
      mac?: string;
    } & QuotaOptions,
    progress: Progress,
  ): Promise<{
    name: string;
    mac: string;
    template: string;
    source: 'directory' | 'tar' | 'image';
    entries: number;
    bytes: number;
    /** Directories on other file systems; they are empty in the appliance. */
    left_out: string[];
    elapsed_ms: number;
  }>;
  /** Limits how much the appliance may take; a mounted one obeys at once. */
  quotaSet(o: { name: string } & QuotaOptions): Promise<QuotaInfo>;
  quotaShow(name: string): Promise<QuotaInfo>;
  /** `sizes`: what each appliance takes, which is counted. */
  list(o?: { sizes?: boolean }): Promise<{ appliances: ApplianceInfo[] }>;
  show(name: string): Promise<ApplianceInfo>;
  /** `NAME@SNAPSHOT` is a snapshot. */
  delete(names: string[]): Promise<{ deleted: string[] }>;

  /** Keeps what an appliance is now under a name (default: the time). */
  snapshot(o: {
    name: string;
    snapshot?: string;
  }): Promise<{ name: string; snapshot: string; created_at: string; layers: number }>;
  /** Oldest first. */
  snapshots(name: string): Promise<{ snapshots: { name: string; created_at: string; layers: number }[] }>;
  /** Makes an appliance what it was at a snapshot. */
  restore(o: {
    name: string;
    snapshot: string;
  }): Promise<{ name: string; snapshot: string; created_at: string }>;
  /**
   * Brings what `name` changed since it and `into` were alike into `into`. Throws CONFLICT, with all conflicts, and does nothing when one is left without an answer.
   */
  merge(
    o: {
      name: string;
      into: string;
      /** Whose version is taken in conflicts: that of `into` (ours) or that of `name` (theirs). */
      prefer?: 'ours' | 'theirs';
      /** The same for paths, with all below; the longest path counts. */
      ours?: string[];
      theirs?: string[];
      /** Only tell. */
      dryRun?: boolean;
    },
    progress: Progress,
  ): Promise<{
    name: string;
    into: string;
    merged: boolean;
    /** What changes in \`into\`. */
    changes: { path: string; change: DiffEntry['change'] }[];
    conflicts: MergeConflict[];
    elapsed_ms: number;
  }>;
  /** Makes a clone its parent's parent. */
  promote(name: string): Promise<{ name: string; former_parent: string; parent: string | null }>;
  /** The families as one list in tree order; `name`: only the one in which this appliance is. */
  tree(o: { name?: string }): Promise<{ appliances: FamilyMember[] }>;
  /** Sets when an appliance ends, from now on; null: never. */
  ttl(o: { name: string; ttlSeconds: number | null }): Promise<{ name: string; expires: string | null }>;
  /** Deletes the appliances whose time is over, unmounted first; stratad does it by itself. */
  expire(o: { dryRun?: boolean }): Promise<{
    expired: string[];
    /** In use. */
    kept: { name: string; reason: string }[];
    /** When the next one ends. */
    next: string | null;
  }>;

  mount(o: {
    name: string;
    dir: string;
    door?: 'fuse' | 'sealed';
    readOnly?: boolean;
    /** The fuse door only; default: that of its other mounts, else shared. */
    cache?: CacheMode;
  }): Promise<{ name: string; dir: string }>;
  umount(o: { target: string; force?: boolean }): Promise<{ unmounted: string[] }>;
  prepareRun(o: {
    name: string;
    command: string[];
    network: 'host' | 'none';
    terminal: boolean;
    env?: Record<string, string>;
    cache?: CacheMode;
  }): Promise<RunPreparation>;
  finishRun(runId: string): Promise<void>;

  /** With `other`, what makes that of `name`; both may be `NAME@SNAPSHOT`, and a snapshot alone is compared with its appliance. */
  diff(o: { name: string; other?: string; path?: string }): Promise<Differences>;
  revert(o: { name: string; paths: string[] }): Promise<{ reverted: string[] }>;
  reset(o: { name: string; keep: string[] }): Promise<{ name: string; kept: string[] }>;
  why(o: { name: string; what: string }): Promise<WhyResult>;

  policyCreate(
    o: { name: string; from?: string } & Pick<PolicySource, 'exclude' | 'substitutes'>,
  ): Promise<PolicyInfo>;
  policyList(): Promise<{ policies: PolicyInfo[] }>;
  policyShow(name: string): Promise<PolicyInfo>;
  policyDelete(name: string): Promise<void>;
  /** Makes the policy of an appliance stricter, in use or not. */
  policyApply(o: { name: string } & PolicySource): Promise<PolicyState>;
  policyRules(name: string): Promise<PolicyState>;
  /** Marks what no clone may get, or takes the mark away. */
  policyMark(o: {
    name: string;
    paths: string[];
    marked: boolean;
  }): Promise<{ name: string; paths: string[] }>;
  policyLog(name: string): Promise<PolicyLog>;

  status(): Promise<{
    appliances: number;
    templates: number;
    mounts: number;
    data_plane: { pid: number | null; memory_bytes: number };
    root: string;
    notes: string[];
  }>;
  /** Removes what nothing uses any more, while everything runs; `keep` (default 5) generations of each template stay. */
  gc(o: { keep?: number; dryRun?: boolean }, progress: Progress): Promise<GcResult>;
  /** Checks everything that the files must keep true; `deep` also compares all content of units; `repair` mends what is safe to mend. */
  fsck(o: { deep?: boolean; repair?: boolean }, progress: Progress): Promise<FsckResult>;
  /** Judges every distinct content of the appliances (default: all) once; `quarantine` hides what is infected, everywhere. */
  scan(
    o: ScannerOptions & { names?: string[]; fresh?: boolean; quarantine?: boolean },
    progress: Progress,
  ): Promise<FleetScanResult>;
  /** An open for reading waits until the scanner has judged the content (off: no more). */
  scanOnOpen(o: ScannerOptions & { names: string[]; on: boolean }): Promise<{ names: string[]; on: boolean }>;
  /** What is in quarantine, and which appliances are checked at open. */
  scanState(): Promise<{ quarantine: QuarantineEntry[]; on_open: { name: string; scanner: string }[] }>;
  quarantineRelease(digest: string): Promise<{ released: string }>;
  /** Rebuilds catalog.sqlite from the files. */
  rebuildCatalog(): Promise<void>;
  close(): Promise<void>;
}

export interface FleetOptions {
  root: string;
  /** Starts or finds strata-fs when first needed. */
  dataPlane: () => Promise<DataPlane>;
  /** Runs work that nobody waits for, and lets people see it; default: without being seen. */
  background?: (target: string, work: (progress: Progress) => Promise<void>) => void;
}
