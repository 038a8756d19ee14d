/**
 * The central scan: every distinct content of a fleet is judged once, whoever holds it. Content is named by its SHA-256; a verdict
 * counts for one stamp (scanner, its version, its signatures and limits) and is stale for every other.
 */
import type { Digest } from '../base/index.ts';
import type { StackSpec } from '../vlfs/contract.ts';

export type ScannerKind = 'clamav' | 'yara' | 'command';

export interface ScannerConfig {
  kind: ScannerKind;
  /** clamav: clamd's socket. */
  socket: string;
  /** clamav: a directory with signatures of one's own, which clamd's version does not tell of; null: none. */
  database: string | null;
  /** yara: files with rules. */
  rules: string[];
  /** command: a line for /bin/sh; the content is its standard input and the file "$1". Exit status 0: clean, 1: infected, else an error. */
  command: string;
  /** Larger contents are not read. */
  maxBytes: number;
  /** For one content. */
  timeoutMs: number;
}

export type Outcome =
  | { kind: 'clean' }
  /** `name`: what the scanner calls it. */
  | { kind: 'infected'; name: string }
  /** It was not judged, and no verdict is kept. */
  | { kind: 'failed'; reason: string }
  /** It is beyond the limits, so it was not read. */
  | { kind: 'skipped'; reason: string };

/** What a scanner gets: an open file, and its bytes where the scanner wants them sent. */
export interface ScanInput {
  fd: number;
  /** The content in order, to be read to its end. */
  chunks(): AsyncGenerator<Uint8Array>;
}

export interface Scanner {
  readonly kind: ScannerKind;
  /** Equal stamps, equal verdicts. */
  readonly stamp: string;
  /** For people: `ClamAV 1.0.7`. */
  readonly version: string;
  /** It takes `chunks`; else it reads the file itself. */
  readonly takesBytes: boolean;
  /** Never throws. */
  scan(input: ScanInput): Promise<Outcome>;
}

export interface ScanAppliance {
  name: string;
  privateDir: string;
  whiteoutsDir: string;
  stack: number;
}

/** What a run of the scan works on; plain data, given to the thread that does it. */
export interface ScanJob {
  /** ROOT/scan. */
  dir: string;
  scanner: ScannerConfig;
  stacks: StackSpec[];
  appliances: ScanAppliance[];
  /** All appliances of the fleet: what was not seen is not there any more. */
  whole: boolean;
  /** Verdicts that are kept do not count. */
  fresh: boolean;
}

/** One place of a reported content. */
export interface ScanPlace {
  appliance: string;
  /** In the appliance. Where the content is hidden: its path in the layer. */
  path: string;
  /** `REPO/LAYER VERSION`, `config/TEMPLATE`, `frozen/ID` or `private`. */
  layer: string;
  /** The appliance shows it there now (without the quarantine). */
  shown: boolean;
}

export interface ScanFinding {
  digest: Digest;
  /** What the scanner calls it; of content in quarantine that it finds clean: what it was called then. */
  name: string;
  verdict: 'infected' | 'clean';
  bytes: number;
  quarantined: boolean;
  /** Up to the limit; `place_count` counts all. */
  places: ScanPlace[];
  place_count: number;
}

export interface ScanProblem {
  /** `REPO/LAYER VERSION`, `config/TEMPLATE`, `frozen/ID` or `private of NAME`. */
  holder: string;
  path: string;
  reason: string;
}

export interface InfectedContent {
  digest: Digest;
  name: string;
  bytes: number;
}

/** What a run gives: its result, and all that could go into quarantine. */
export interface ScanOutput {
  result: ScanResult;
  fresh: InfectedContent[];
}

export interface ScanResult {
  scanner: { kind: ScannerKind; version: string };
  appliances: number;
  /** Different shared layers that were looked at. */
  layers: number;
  /** Non-empty regular files that were looked at, each in its layer once. */
  files: number;
  /** Contents that the scanner judged in this run, and files whose verdict was known. */
  scanned: number;
  cached: number;
  /** Bytes read from files. */
  bytes_read: number;
  infected: ScanFinding[];
  infected_count: number;
  /** Could not be judged; the first hundred. */
  failed: ScanProblem[];
  failed_count: number;
  /** Beyond the limits; the first hundred. */
  skipped: ScanProblem[];
  skipped_count: number;
  elapsed_ms: number;
}

/** Content that no VLFS shows. */
export interface QuarantineRecord {
  format: 1;
  digest: Digest;
  /** What the scanner called it. */
  name: string;
  scanner: string;
  bytes: number;
  /** ISO 8601. */
  since: string;
}

/** Marks private and frozen files of contents that are in quarantine. */
export interface MarkJob {
  /** ROOT/scan. */
  dir: string;
  /** Private layers and frozen layers. */
  dirs: string[];
  /** -1: of unknown size. */
  contents: { digest: Digest; bytes: number }[];
}

export interface MarkResult {
  marked: number;
  /** Files that could not be marked, and why. */
  failed: string[];
}
