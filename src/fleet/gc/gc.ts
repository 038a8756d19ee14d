/**
 * Garbage collection: removes what nothing uses any more, while everything runs. Keeps true: the stack of every current generation, of every
 * mount and of every command at work stays; others wait at most for a few renames; a gc that is killed leaves a sound state, and the next
 * one (or the next opening) finishes its work. Layer units of `dir` repositories are never touched.
 */
import { join } from 'node:path';
import { type Progress, StrataError } from '../../base/index.ts';
import { pruneStore, verdictFile } from '../../scan/index.ts';
import { collectFrozen } from '../clone/trash.ts';
import type { FleetContext } from '../context.ts';
import type { GcKind, GcResult } from '../contract.ts';
import { collectBases } from '../import/base.ts';
import { isThere } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { collectContainers, collectImages, collectJournal, collectWhiteouts } from './derived.ts';
import { collectGenerations, collectUnits } from './generations.ts';
import { collectLeftovers, type HeldLocks, releaseFlocks } from './leftovers.ts';
import { collectReferences } from './references.ts';
import { dispose, type Garbage, type GcRun } from './trash.ts';

/** Generations of each template (and appliance with layers of its own) that stay. */
export const KEEP_GENERATIONS = 5;
/** Verdicts of a scanner and signatures that were not used for so long go. */
const UNUSED_VERDICTS_MS = 30 * 24 * 3_600_000;
/** Names in a result; the counts are of all. */
const NAMED = 1000;
const KINDS: GcKind[] = [
  'generations',
  'units',
  'leftovers',
  'whiteouts',
  'containers',
  'images',
  'verdicts',
  'frozen',
  'imports',
  'journal',
];

/** One gc at a time for each state root; a second one waits. */
const running = new WeakMap<FleetContext, Promise<unknown>>();

export function collectGarbage(
  context: FleetContext,
  options: { keep?: number | undefined; dryRun?: boolean | undefined },
  progress: Progress,
): Promise<GcResult> {
  const before = running.get(context) ?? Promise.resolve();
  const mine = before.then(() => collect(context, options, progress));
  running.set(
    context,
    mine.catch(() => {}),
  );
  return mine;
}

async function collect(
  context: FleetContext,
  options: { keep?: number | undefined; dryRun?: boolean | undefined },
  progress: Progress,
): Promise<GcResult> {
  const started = performance.now();
  const keep = options.keep ?? KEEP_GENERATIONS;
  if (!Number.isInteger(keep) || keep < 1) throw new StrataError('USAGE', '--keep must be at least 1');
  const { onStep } = context;
  const run: GcRun = {
    context,
    keep,
    dryRun: options.dryRun ?? false,
    found: [],
    aside: new Map(),
    notes: [],
    longestHoldMs: 0,
    onStep,
  };
  const held: HeldLocks = [];
  try {
    progress({ phase: 'gc', message: 'looking for what nothing uses' });
    await collectLeftovers(run, held);
    const references = await collectReferences(context, keep);
    if (references.unknown !== null) {
      run.notes.push(`generations and units stay, because ${references.unknown}; see strata fsck`);
    } else {
      await collectGenerations(run, references);
      await collectUnits(run, references);
    }
    await collectWhiteouts(run);
    await collectImages(run);
    await collectFrozen(run);
    await collectBases(run);
    await collectJournal(run);
    const verdicts = oldVerdicts(context, run.dryRun);
    const bytes = await collectContainers(run);
    const total = run.found.length;
    const verb = run.dryRun ? 'measuring' : 'deleting';
    const disposed = await dispose(run, (done) => progress({ phase: 'gc', message: verb, done, total }));
    for (const [garbage, size] of disposed) bytes.set(garbage, size);
    const removed = [...run.found.filter(({ kind }) => kind !== 'containers'), ...containersOf(bytes)];
    if (!run.dryRun) await refreshCatalog(context, run);
    return resultOf(run, removed, { bytes, verdicts }, started);
  } finally {
    releaseFlocks(held);
  }
}

function containersOf(bytes: Map<Garbage, number>): Garbage[] {
  return [...bytes.keys()].filter(({ kind }) => kind === 'containers');
}

/** Deleting trash in appliances/ has changed the time by which the catalog knows that it is fresh. */
async function refreshCatalog(context: FleetContext, run: GcRun): Promise<void> {
  const isTouched = [...run.aside.values()].some((path) => path.startsWith(`${context.paths.appliances}/`));
  if (isTouched) await context.locks.with([COMMIT], () => context.catalog.put([]));
}

/** Verdicts of scanners and signatures that nobody uses any more; how many went. */
function oldVerdicts(context: FleetContext, dryRun: boolean): number {
  const file = verdictFile(join(context.root, 'scan'));
  return isThere(file) ? pruneStore(file, UNUSED_VERDICTS_MS, dryRun) : 0;
}

function resultOf(
  run: GcRun,
  garbage: Garbage[],
  { bytes, verdicts }: { bytes: Map<Garbage, number>; verdicts: number },
  started: number,
): GcResult {
  const removed = KINDS.map((kind) => {
    const of = garbage.filter((one) => one.kind === kind);
    const count = kind === 'verdicts' ? verdicts : of.length;
    return { kind, count, bytes: of.reduce((sum, one) => sum + (bytes.get(one) ?? 0), 0) };
  });
  return {
    dry_run: run.dryRun,
    keep: run.keep,
    removed,
    count: garbage.length + verdicts,
    bytes: removed.reduce((sum, one) => sum + one.bytes, 0),
    items: garbage.slice(0, NAMED).map(({ kind, name }) => ({ kind, name })),
    notes: run.notes,
    longest_hold_ms: Math.round(run.longestHoldMs * 1000) / 1000,
    elapsed_ms: Math.round((performance.now() - started) * 10) / 10,
  };
}
