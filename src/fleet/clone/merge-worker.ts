/**
 * The thread in which frozen layers are counted and merged, at the lowest priority: { count } first says how many of them are worth it, { merge } does
 * it. Answers { loaded }, { layers } (progress), then { result } or { failure }.
 */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { asStrataError, nameFromText } from '../../base/index.ts';
import { AT_FDCWD, close, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat } from '../../sys/index.ts';
import { walkEntries } from '../../vlfs/index.ts';
import { type MergeJob, mergeFrozen } from './merge-frozen.ts';

export type MergeWork = { count: string[] } | { merge: MergeJob };
export type MergeAnswer =
  | { loaded: true }
  | { layers: number }
  | { result: number }
  | { failure: { code: string; message: string } };

/**
 * A layer is merged with the newer ones when it has at most so many times their entries. So every entry is linked anew a bounded number of times however many
 * clones follow each other, and of N entries there are never more than about log N layers.
 */
const RATIO = 4;
/** Layers of so few entries are always worth it. */
const FEW = 1000;
const LOWEST = 19;
const DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

/** How many of the layers, from the newest on, should become one. */
function worthMerging(dirs: readonly string[]): number {
  let total = 0;
  for (const [i, dir] of dirs.entries()) {
    const most = i === 0 ? Number.POSITIVE_INFINITY : Math.max(FEW, RATIO * total);
    const entries = countIn(dir, most);
    if (entries > most) return i;
    total += entries;
  }
  return dirs.length;
}

/** Entries of a tree; one more than `most` when there are more. What cannot be read counts for nothing. */
function countIn(dir: string, most: number): number {
  const root = openat(AT_FDCWD, nameFromText(dir), DIRECTORY);
  if (root < 0) return 0;
  let found = 0;
  try {
    for (const _ of walkEntries(root)) if (++found > most) break;
  } catch {
    // The merge will say why.
  } finally {
    close(root);
  }
  return found;
}

async function work(job: MergeWork): Promise<number> {
  if ('count' in job) return worthMerging(job.count);
  await mergeFrozen(job.merge, (layers) => parentPort!.postMessage({ layers } satisfies MergeAnswer));
  return job.merge.layers.length;
}

parentPort!.postMessage({ loaded: true } satisfies MergeAnswer);
try {
  // On Linux this is the thread's own priority.
  setPriority(LOWEST);
} catch {
  // Then it has the priority of the others.
}
try {
  parentPort!.postMessage({ result: await work(workerData as MergeWork) } satisfies MergeAnswer);
} catch (thrown) {
  const { code, message } = asStrataError(thrown);
  parentPort!.postMessage({ failure: { code, message } } satisfies MergeAnswer);
}
