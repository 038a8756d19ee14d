/**
 * Frozen layers that follow each other become one in the background, so that the line of clones behind an appliance stays short. One merge at a time,
 * by a thread of the lowest priority; it holds no lock while it works, so nobody waits for it. The result is found by what it was made of: all appliances
 * with the same line get the same layer, and it is built once. What a killed process leaves is deleted at the next opening.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { type ErrorCode, noProgress, type Progress, StrataError } from '../../base/index.ts';
import { settlingFile } from '../../vlfs/index.ts';
import { applianceLock } from '../appliances/appliances.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { CloneMode } from '../contract.ts';
import { isThere, namesIn, readJsonIfThere, replaceFile, syncFileSystemAside } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { inState } from '../state/paths.ts';
import { isUnfinished } from './finish-frozen.ts';
import { type FrozenId, frozenDir, leavesOf, MERGED_FILE, mergedFrom } from './frozen.ts';
import { alikeForPolicy, beginsWith, exchange, type Merged } from './merge-exchange.ts';
import type { MergeAnswer, MergeWork } from './merge-worker.ts';
import { discardStaged, dropUnusedFrozen } from './trash.ts';

interface Queue {
  /** The end of the last merge. */
  tail: Promise<void>;
  /** What is under way or waits, by appliance. */
  states: Map<string, MergeState>;
  /** Runs out when `states` is to be written down. */
  noted: NodeJS.Timeout | null;
  /** The thread at work. Who ends it waits until it has loaded: native code that is loaded in a thread that ends takes the process with it. */
  worker: Promise<Worker> | null;
  stopped: boolean;
}

/** `done` and `total` count layers; null: it waits for other merges. */
export type MergeState = { done: number; total: number } | null;

const NOTE_MS = 50;
const queues = new WeakMap<FleetContext, Queue>();

function queueOf(context: FleetContext): Queue {
  const queue: Queue = queues.get(context) ?? {
    tail: Promise.resolve(),
    states: new Map(),
    noted: null,
    worker: null,
    stopped: false,
  };
  queues.set(context, queue);
  return queue;
}

/** What is being merged of an appliance; undefined: nothing. */
export function mergeState(context: FleetContext, name: string): MergeState | undefined {
  return queues.get(context)?.states.get(name);
}

/** Ends what is under way; it is as if it had not begun. */
export async function stopMerges(context: FleetContext): Promise<void> {
  const queue = queueOf(context);
  queue.stopped = true;
  await (await queue.worker)?.terminate();
  await queue.tail;
}

/** After a clone: 'sync' waits for the merge, 'async' leaves it to the background. */
export async function mergeAfterClone(
  context: FleetContext,
  name: string,
  mode: CloneMode,
  progress: Progress,
): Promise<void> {
  if (mode === 'lazy' || (context.catalog.get(name)?.frozen.length ?? 0) < 2) return;
  if (mode === 'sync') await mergeLayers(context, name, progress);
  else context.background(name, (tell) => mergeLayers(context, name, tell));
}

/** After the opening: merges that were asked for and did not come to an end. */
export function resumeMerges(context: FleetContext): void {
  const names = waitingNames(context);
  for (const name of names)
    if (typeof name === 'string') context.background(name, (tell) => mergeLayers(context, name, tell));
}

/** A power cut may have left a part of the list: then those layers stay as they are. */
function waitingNames(context: FleetContext): unknown[] {
  try {
    const names = readJsonIfThere(waitingFile(context))?.['names'];
    return Array.isArray(names) ? names : [];
  } catch {
    return [];
  }
}

function waitingFile(context: FleetContext): string {
  return join(context.paths.frozen, '.merging');
}

/** What waits is noted after a moment, for all together: who is killed before leaves some layers more, and nothing else. */
function noteWaiting(context: FleetContext): void {
  const queue = queueOf(context);
  if (queue.noted !== null) return;
  queue.noted = setTimeout(() => {
    queue.noted = null;
    if (queue.stopped) return;
    const names = [...queue.states.keys()];
    try {
      if (names.length === 0) rmSync(waitingFile(context), { force: true });
      else replaceFile(waitingFile(context), JSON.stringify({ names }), { sync: false, syncParent: false });
    } catch {
      // A full disk: as above.
    }
  }, NOTE_MS);
  queue.noted.unref();
}

/** Merges the frozen layers of an appliance, after the merges that were asked for before. Throws when the disk refuses; then nothing has changed. */
export function mergeLayers(
  context: FleetContext,
  name: string,
  progress: Progress = noProgress,
): Promise<void> {
  const queue = queueOf(context);
  queue.states.set(name, null);
  noteWaiting(context);
  const tell: Progress = (event) => {
    queue.states.set(name, { done: event.done ?? 0, total: event.total ?? 0 });
    progress(event);
  };
  const work = queue.tail
    .then(() => merge(context, name, tell))
    .finally(() => {
      if (queue.stopped) return;
      queue.states.delete(name);
      noteWaiting(context);
    });
  queue.tail = work.catch(() => {});
  return work;
}

async function merge(context: FleetContext, name: string, progress: Progress): Promise<void> {
  if (queueOf(context).stopped) return;
  const candidates = await candidatesOf(context, name);
  if (candidates.length < 2) return;
  const trees = candidates.map((id) => join(frozenDir(context.paths, id), 'private'));
  const count = await runWorker(context, { count: trees }, () => {});
  if (count < 2 || queueOf(context).stopped) return;
  const of = candidates.slice(0, count);
  const merged = existing(context, of) ?? (await build(context, of, progress));
  await exchangeAll(context, merged, name);
  // Nobody took it. When that failed, the journal may still need it: then it goes at the next opening.
  const [staged] = merged.place;
  if (staged?.do === 'rename') discardStaged(context, basename(staged.from));
}

/** The newest layers that may become one. Under the appliance's lock, because a clone lists a layer before it is one. */
function candidatesOf(context: FleetContext, name: string): Promise<FrozenId[]> {
  return context.locks.with([applianceLock(name), COMMIT], () => {
    const row = context.catalog.get(name);
    if (row === null || row.frozen.length < 2) return [];
    const alike = row.frozen.slice(0, alikeForPolicy(context, row));
    // A kill left open files in it, which the appliance's next process takes out.
    const isSettled = (id: FrozenId): boolean =>
      !isThere(settlingFile(frozenDir(context.paths, id))) && !isUnfinished(context, id);
    return alike.every(isSettled) ? alike : [];
  });
}

/** Somebody with the same line has it already. */
function existing(context: FleetContext, of: readonly FrozenId[]): Merged | null {
  const { paths } = context;
  for (const id of namesIn(paths.frozen)) {
    if (id.startsWith('.')) continue;
    const found = mergedFrom(frozenDir(paths, id));
    if (found !== null && found.length === of.length && beginsWith(found, of)) return { id, of, place: [] };
  }
  return null;
}

/** Leaves the merged layer beside its place, on the disk. */
async function build(context: FleetContext, of: readonly FrozenId[], progress: Progress): Promise<Merged> {
  const { paths } = context;
  const id = operationId();
  const to = join(paths.frozen, `.tmp-${id}`);
  const total = of.length;
  progress({ phase: 'merge frozen layers', done: 0, total });
  mkdirSync(to, { mode: 0o700 });
  try {
    const layers = of.map((one) => ({ id: one, dir: frozenDir(paths, one) }));
    await runWorker(context, { merge: { layers, to } }, (done) => {
      context.onStep('merge-layer');
      progress({ phase: 'merge frozen layers', done, total });
    });
    const leaves = of.flatMap((one) => leavesOf(paths, one));
    writeFileSync(join(to, MERGED_FILE), `${JSON.stringify({ of, leaves })}\n`);
    context.onStep('merge-built');
    await syncFileSystemAside(to);
  } catch (error) {
    discardStaged(context, basename(to));
    throw error;
  }
  const place = { do: 'rename' as const, from: inState(paths, to), to: inState(paths, frozenDir(paths, id)) };
  return { id, of, place: [place] };
}

/** `first`: who asked for it. */
async function exchangeAll(context: FleetContext, merged: Merged, first: string): Promise<void> {
  const others = context.catalog
    .all()
    .filter(({ name, frozen }) => name !== first && beginsWith(frozen, merged.of))
    .map(({ name }) => name);
  for (const name of [first, ...others]) {
    if (queueOf(context).stopped) return;
    await exchange(context, name, merged);
  }
  context.onStep('merge-exchanged');
  await context.locks.with([COMMIT], () => dropUnusedFrozen(context));
}

function runWorker(context: FleetContext, job: MergeWork, onLayers: (done: number) => void): Promise<number> {
  const queue = queueOf(context);
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./merge-worker.ts', import.meta.url), {
      workerData: job,
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    const loaded = new Promise<Worker>((isLoaded) => {
      worker.once('message', () => isLoaded(worker)).once('exit', () => isLoaded(worker));
    });
    queue.worker = loaded;
    worker.on('message', (answer: MergeAnswer) => {
      if ('loaded' in answer) return;
      if ('layers' in answer) onLayers(answer.layers);
      else if ('result' in answer) resolve(answer.result);
      else reject(new StrataError(answer.failure.code as ErrorCode, answer.failure.message));
    });
    worker.on('error', reject);
    worker.on('exit', () => {
      // The next one may have begun already.
      if (queue.worker === loaded) queue.worker = null;
      reject(
        new StrataError('BUSY', 'the merge of frozen layers was ended', { hint: 'it begins again later' }),
      );
    });
  });
}
