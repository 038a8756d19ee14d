/**
 * `strata scan`: the fleet's side of the central scan. What appliances consist of is gathered here; the work is a thread's (src/scan). One run
 * at a time for each state root. Content in quarantine is first noted on the disk, then told to strata-fs, then private files are marked: from the
 * second step on a copy of it is marked as it is made, so none escapes the third.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { asStrataError, type Digest, noProgress, type Progress, StrataError } from '../../base/index.ts';
import {
  addQuarantine,
  beginMarking,
  endMarking,
  type InfectedContent,
  isDigest,
  isMarking,
  markAside,
  quarantineRecord,
  removeQuarantine,
  type ScanJob,
  type ScannerConfig,
  type ScanResult,
  scanAside,
} from '../../scan/index.ts';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { readQuarantine } from '../../vlfs/index.ts';
import { applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import type { FleetContext } from '../context.ts';
import type { Fleet, FleetScanResult, QuarantineEntry, ScannerOptions } from '../contract.ts';
import { viewSpec } from '../family/places.ts';
import { sealedMounts } from '../sealed/door.ts';
import { vlfsSpec } from '../templates/follow.ts';

type ScanOptions = Parameters<Fleet['scan']>[0];

export const DEFAULT_SOCKET = '/run/clamav/clamd.ctl';
const DEFAULT_MAX_BYTES = 2 ** 30;
const DEFAULT_TIMEOUT_MS = 120_000;

/** One run at a time; a second one waits, and finds the verdicts of the first. */
const running = new WeakMap<FleetContext, Promise<unknown>>();

function inTurn<T>(context: FleetContext, work: () => Promise<T>): Promise<T> {
  const mine = (running.get(context) ?? Promise.resolve()).then(work);
  running.set(
    context,
    mine.catch(() => {}),
  );
  return mine;
}

/** The scanner that options name; what they leave out has a default. Throws USAGE. */
export function scannerConfig(options: ScannerOptions): ScannerConfig {
  const kind = options.with ?? (options.command === undefined ? 'clamav' : 'command');
  if (kind === 'command' && !options.command?.trim())
    throw new StrataError('USAGE', 'the scanner "command" needs a command', { hint: 'add --command CMD' });
  if (kind !== 'command' && options.command !== undefined)
    throw new StrataError('USAGE', `--command does not go with --with ${kind}`);
  if (kind !== 'yara' && (options.rules?.length ?? 0) > 0)
    throw new StrataError('USAGE', `--rules are for --with yara`);
  return {
    kind,
    socket: options.socket ?? DEFAULT_SOCKET,
    database: options.database ?? null,
    rules: options.rules ?? [],
    command: options.command ?? '',
    maxBytes: options.maxBytes ?? DEFAULT_MAX_BYTES,
    timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
  };
}

export function scanFleet(
  context: FleetContext,
  options: ScanOptions,
  progress: Progress,
): Promise<FleetScanResult> {
  const scanner = scannerConfig(options);
  return inTurn(context, async () => {
    const job = { ...jobFor(context, options.names ?? []), scanner, fresh: options.fresh ?? false };
    const { result, fresh } = await scanAside(job, progress);
    if (options.quarantine !== true) return { ...result, marked: 0, still_shown: [] };
    return quarantine(context, result, fresh, progress);
  });
}

/** What the named appliances (default: all) and their snapshots consist of, as the files say at this moment. Damaged ones throw when they are named, else are left out. */
function jobFor(context: FleetContext, names: string[]): Omit<ScanJob, 'scanner' | 'fresh'> {
  const rows: CatalogRow[] =
    names.length === 0
      ? context.catalog.all()
      : [...new Set(names)].map((name) => applianceRow(context, name));
  const stacks: StackSpec[] = [];
  const places = new Map<string, number>();
  const appliances: ScanJob['appliances'] = [];
  const add = (name: string, { privateDir, whiteoutsDir, stack }: VlfsSpec): void => {
    const known = places.get(stack.key);
    if (known === undefined) {
      places.set(stack.key, stacks.length);
      stacks.push(stack);
    }
    appliances.push({ name, privateDir, whiteoutsDir, stack: known ?? stacks.length - 1 });
  };
  let damaged = 0;
  for (const row of rows) {
    try {
      add(row.name, vlfsSpec(context, row));
      for (const { name, frozen } of row.family.snapshots)
        add(`${row.name}@${name}`, viewSpec(context, row, frozen));
    } catch (error) {
      if (names.length > 0) throw error;
      damaged++;
    }
  }
  const whole = names.length === 0 && damaged === 0;
  return { dir: join(context.root, 'scan'), stacks, appliances, whole };
}

async function quarantine(
  context: FleetContext,
  result: ScanResult,
  fresh: readonly InfectedContent[],
  progress: Progress,
): Promise<FleetScanResult> {
  const { root } = context;
  const since = new Date().toISOString();
  if (fresh.length > 0) beginMarking(root);
  for (const { digest, name, bytes } of fresh) {
    addQuarantine(root, { format: 1, digest, name, scanner: result.scanner.version, bytes, since });
    context.onStep('quarantined');
    await breathe();
  }
  await tellDataPlane(context);
  context.onStep('quarantine told');
  const infected = result.infected.map((finding) => ({
    ...finding,
    quarantined: finding.quarantined || finding.verdict === 'infected',
  }));
  const marks = await markWhatIsNew(context, progress);
  const failed = marks.failed.map((reason) => ({ holder: 'quarantine', path: '', reason }));
  return {
    ...result,
    infected,
    failed: [...result.failed, ...failed],
    failed_count: result.failed_count + failed.length,
    marked: marks.marked,
    still_shown: stillShown(context, infected),
  };
}

/** strata-fs reads the directory of the quarantine anew; one that does not run does so at its start. */
export async function tellDataPlane(context: FleetContext): Promise<void> {
  const plane = await context.runningDataPlane();
  await plane?.readScanState();
}

/** At the start: what a killed stratad had put into quarantine is told and marked, beside everything else. */
export function resumeQuarantine(context: FleetContext, notes: string[]): void {
  if (!isMarking(context.root)) return;
  const resumed = inTurn(context, async () => {
    await tellDataPlane(context);
    await markWhatIsNew(context, noProgress);
  });
  resumed.catch((error: unknown) =>
    notes.push(`the quarantine could not be completed: ${asStrataError(error).message}`),
  );
}

/** Runs `work` while no scan does. */
export function whileNoScan<T>(context: FleetContext, work: () => Promise<T>): Promise<T> {
  return inTurn(context, work);
}

async function markWhatIsNew(
  context: FleetContext,
  progress: Progress,
): Promise<{ marked: number; failed: string[] }> {
  if (!isMarking(context.root)) return { marked: 0, failed: [] };
  const result = await markEverywhere(context, progress);
  // Mounts may have read again what was marked just now.
  if (result.marked > 0) await tellDataPlane(context);
  endMarking(context.root);
  return result;
}

/** Marks private and frozen files of all appliances and snapshots that have content in quarantine. */
async function markEverywhere(
  context: FleetContext,
  progress: Progress,
): Promise<{ marked: number; failed: string[] }> {
  const { root } = context;
  const contents = readQuarantine(root).map((digest) => ({
    digest,
    bytes: quarantineRecord(root, digest)?.bytes ?? -1,
  }));
  const { stacks, appliances } = jobFor(context, []);
  const dirs = new Set(appliances.map(({ privateDir }) => privateDir));
  for (const { levels } of stacks)
    for (const { kind, treeDir, indexFile } of levels)
      if (kind === 'frozen' && !existsSync(indexFile)) dirs.add(treeDir);
  return markAside({ dir: join(root, 'scan'), dirs: [...dirs], contents }, progress);
}

/** Sealed mounts have no process of Strata in their data path: they show what they showed until they are unmounted. */
function stillShown(
  context: FleetContext,
  infected: readonly { places: readonly { appliance: string; shown: boolean }[] }[],
): FleetScanResult['still_shown'] {
  const holders = new Set(
    infected.flatMap(({ places }) => places.filter(({ shown }) => shown).map(({ appliance }) => appliance)),
  );
  return sealedMounts(context.paths).filter(({ name }) => holders.has(name));
}

/** What is in quarantine. */
export function listQuarantine(context: FleetContext): QuarantineEntry[] {
  return readQuarantine(context.root)
    .sort()
    .map((digest) => {
      const record = quarantineRecord(context.root, digest);
      return {
        digest,
        name: record?.name ?? 'unknown',
        scanner: record?.scanner ?? 'unknown',
        since: record?.since ?? '',
      };
    });
}

/** Shows content again, everywhere. A digest may be shortened to 8 digits when that is clear. */
export async function releaseQuarantine(context: FleetContext, given: string): Promise<{ released: string }> {
  const digest = fullDigest(context.root, given);
  removeQuarantine(context.root, digest);
  await tellDataPlane(context);
  return { released: digest };
}

function fullDigest(root: string, given: string): Digest {
  const all = readQuarantine(root);
  const word = given.toLowerCase();
  const found = isDigest(word)
    ? all.filter((digest) => digest === word)
    : all.filter((d) => d.startsWith(word));
  if (found.length === 1 && word.length >= 8) return found[0]!;
  if (found.length > 1)
    throw new StrataError('USAGE', `${given} is the beginning of ${found.length} digests`);
  throw new StrataError('NOT_FOUND', `${given} is not in quarantine`, {
    hint: 'strata scan --list shows what is',
  });
}
