/**
 * How gc takes things away: under the commit lock they are moved aside (or already stand aside) in short steps, outside of it they are
 * measured and deleted by a thread. Keeps true: nobody waits for a deletion, and what is moved aside has a name that the next opening or
 * the next gc deletes, so a gc that was killed half-way is finished by the next one.
 */
import { randomBytes } from 'node:crypto';
import { renameSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { asStrataError } from '../../base/index.ts';
import type { FleetContext } from '../context.ts';
import type { GcKind } from '../contract.ts';
import { isMissing } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import type { GcJob, GcJobAnswer } from './worker.ts';

/** One thing that nobody uses. */
export interface Garbage {
  kind: GcKind;
  /** For people: `template web, generation 3`. */
  name: string;
  path: string;
  /** Directory that receives it before it is deleted; null when its name shows already that it is no more in use. */
  trashDir: string | null;
}

export interface GcRun {
  context: FleetContext;
  keep: number;
  dryRun: boolean;
  found: Garbage[];
  /** Where those stand now that were taken away. */
  aside: Map<Garbage, string>;
  notes: string[];
  longestHoldMs: number;
  /** Called at every boundary between two changes on disk. */
  onStep(name: string): void;
}

/** Things moved aside in one hold of the commit lock. */
const BATCH = 16;
/** Milliseconds without a turn of the event loop. */
const BREATH_MS = 2;

/** Returns a function to be awaited in loops: lets the event loop run when it has not for a while. */
export function breather(): () => Promise<void> | undefined {
  let since = performance.now();
  return () => {
    if (performance.now() - since < BREATH_MS) return undefined;
    return turn().then(() => {
      since = performance.now();
    });
  };
}

/** Runs synchronous work under the commit lock (and others, which come first) and remembers how long it took. */
export function hold<T>(run: GcRun, locks: string[], work: () => T): Promise<T> {
  return run.context.locks.with([...locks, COMMIT], () => {
    const began = performance.now();
    try {
      return work();
    } finally {
      run.longestHoldMs = Math.max(run.longestHoldMs, performance.now() - began);
    }
  });
}

/**
 * Moves candidates aside, a few at a time, each only if it is still unused: `unused` is asked under the
 * lock, once for each few. Afterwards their names are gone for good
 * (synced). In a dry run they are only noted.
 */
export async function takeAway(
  run: GcRun,
  candidates: Garbage[],
  unused: () => (garbage: Garbage) => boolean,
  taken: (batch: Garbage[]) => void = () => {},
): Promise<void> {
  const parents = new Set<string>();
  for (let at = 0; at < candidates.length; at += BATCH) {
    const batch = candidates.slice(at, at + BATCH);
    await hold(run, [], () => {
      const isUnused = unused();
      const gone = batch.filter((garbage) => isUnused(garbage) && moveAside(run, garbage));
      run.found.push(...gone);
      for (const { path } of gone) parents.add(dirname(path));
      if (!run.dryRun) taken(gone);
    });
    await turn();
  }
  if (run.dryRun) return;
  for (const parent of parents) await syncAside(parent);
  run.onStep('gc-synced');
}

export function moveAside(run: GcRun, garbage: Garbage): boolean {
  const { path, trashDir } = garbage;
  if (run.dryRun) return true;
  if (trashDir === null) {
    run.aside.set(garbage, path);
    return true;
  }
  const aside = join(trashDir, `.trash-${process.pid}-${randomBytes(6).toString('hex')}`);
  try {
    renameSync(path, aside);
  } catch (error) {
    if (!isMissing(error)) run.notes.push(`${garbage.name} stays: ${asStrataError(error).message}`);
    return false;
  }
  run.aside.set(garbage, aside);
  run.onStep('gc-aside');
  return true;
}

/** fsync of a directory without holding up the event loop. */
async function syncAside(dir: string): Promise<void> {
  try {
    const handle = await open(dir, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** Measures (dry run) or deletes everything found, in a thread. Returns the bytes of each. */
export async function dispose(run: GcRun, onDone: (done: number) => void): Promise<Map<Garbage, number>> {
  const byPath = new Map(run.found.map((garbage) => [run.aside.get(garbage) ?? garbage.path, garbage]));
  const bytes = new Map<Garbage, number>();
  if (byPath.size === 0) return bytes;
  await new Promise<void>((resolve, reject) => {
    const job: GcJob = { paths: [...byPath.keys()], remove: !run.dryRun };
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: job,
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    worker.on('message', (answer: GcJobAnswer) => {
      const garbage = byPath.get(answer.path)!;
      bytes.set(garbage, answer.bytes);
      if (answer.failure !== null && !run.dryRun)
        run.notes.push(`${garbage.name} could not be deleted wholly (${answer.failure})`);
      run.onStep('gc-deleted');
      onDone(bytes.size);
    });
    worker.on('error', reject);
    worker.on('exit', () => resolve());
  });
  return bytes;
}
