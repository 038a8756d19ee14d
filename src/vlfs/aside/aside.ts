/**
 * What may take long in a huge private layer, or hang with the disk it stands on, done by another thread, so that the caller's event loop goes on. Threads are
 * made when all are busy, MOST of them; one that is free for a while ends. Jobs of one appliance come one after the other.
 */
import { Worker } from 'node:worker_threads';
import { type ErrorCode, StrataError } from '../../base/index.ts';
import type { Differences, FreshPrivate, StackSpec, VlfsSpec } from '../contract.ts';
import type { MergeInput, MergeOutcome } from '../merge/merge.ts';
import type { PathOwner, PrivateUsage } from '../offline.ts';
import type { Space } from '../private-layer/space.ts';
import type { Usage } from '../quota/usage-file.ts';

export type AsideJob =
  | { kind: 'diff'; spec: VlfsSpec; path: string }
  | { kind: 'diff-pair'; spec: VlfsSpec; other: VlfsSpec; path: string }
  | { kind: 'owner'; spec: VlfsSpec; path: string }
  | { kind: 'usage'; dir: string }
  | { kind: 'space'; dir: string }
  | { kind: 'probe'; dirs: string[] }
  | { kind: 'prune'; spec: VlfsSpec }
  | { kind: 'count'; spec: VlfsSpec }
  | { kind: 'revert'; spec: VlfsSpec; paths: string[] }
  | { kind: 'reset'; spec: VlfsSpec; keep: string[] }
  | { kind: 'exchange'; spec: VlfsSpec; stack: StackSpec; fresh: FreshPrivate | null }
  | { kind: 'merge'; input: MergeInput };

interface Answer {
  result?: unknown;
  failure?: { code: ErrorCode; message: string; hint?: string };
}

/** So many appliances may hang before others wait for them. */
const MOST = 16;
const IDLE_MS = 10_000;

interface Waiting {
  job: AsideJob;
  place: string;
  done(answer: Answer): void;
}

const free: { worker: Worker; ends: NodeJS.Timeout }[] = [];
const waiting: Waiting[] = [];
/** Private layers with a job under way. */
const busy = new Set<string>();
let threads = 0;

/** Changes of an appliance; as diffVlfs. */
export function diffAside(spec: VlfsSpec, path: string): Promise<Differences> {
  return run({ kind: 'diff', spec, path }) as Promise<Differences>;
}

/** As diffPair. */
export function diffPairAside(left: VlfsSpec, right: VlfsSpec, path: string): Promise<Differences> {
  return run({ kind: 'diff-pair', spec: left, other: right, path }) as Promise<Differences>;
}

/** As whoOwns. */
export function ownerAside(spec: VlfsSpec, path: string): Promise<PathOwner> {
  return run({ kind: 'owner', spec, path }) as Promise<PathOwner>;
}

/** As privateUsage. */
export function usageAside(dir: string): Promise<PrivateUsage> {
  return run({ kind: 'usage', dir }) as Promise<PrivateUsage>;
}

/** True once the directories could be read (or are not there); never, while their disk hangs. */
export function answersAside(dirs: string[]): Promise<boolean> {
  return run({ kind: 'probe', dirs }) as Promise<boolean>;
}

/** As spaceOf. */
export function spaceAside(dir: string): Promise<Space> {
  return run({ kind: 'space', dir }) as Promise<Space>;
}

/** As countUsage. */
export function countAside(spec: VlfsSpec): Promise<Usage> {
  return run({ kind: 'count', spec }) as Promise<Usage>;
}

/** As pruneWhiteouts. */
export function pruneAside(spec: VlfsSpec): Promise<number> {
  return run({ kind: 'prune', spec }) as Promise<number>;
}

/** As revertOffline. */
export function revertAside(spec: VlfsSpec, paths: string[]): Promise<string[]> {
  return run({ kind: 'revert', spec, paths }) as Promise<string[]>;
}

/** As resetOffline. */
export async function resetAside(spec: VlfsSpec, keep: string[]): Promise<void> {
  await run({ kind: 'reset', spec, keep });
}

/** As exchangeOffline. */
export async function exchangeAside(
  spec: VlfsSpec,
  stack: StackSpec,
  fresh: FreshPrivate | null,
): Promise<void> {
  await run({ kind: 'exchange', spec, stack, fresh });
}

/** As mergeVlfs. */
export function mergeAside(input: MergeInput): Promise<MergeOutcome> {
  return run({ kind: 'merge', input }) as Promise<MergeOutcome>;
}

/** The private layer or directory that a job works on. */
function placeOf(job: AsideJob): string {
  if ('spec' in job) return job.spec.privateDir;
  if (job.kind === 'merge') return (job.input.target ?? job.input.parent).privateDir;
  return 'dir' in job ? job.dir : job.dirs[0]!;
}

function run(job: AsideJob): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const place = placeOf(job);
    const done = ({ result, failure }: Answer): void => {
      if (failure === undefined) resolve(result);
      else reject(new StrataError(failure.code, failure.message, { hint: failure.hint }));
    };
    waiting.push({ job, place, done });
    start();
  });
}

/** Gives jobs to threads, as long as there are both. */
function start(): void {
  for (;;) {
    const next = waiting.findIndex(({ place }) => !busy.has(place));
    if (next < 0 || (free.length === 0 && threads >= MOST)) return;
    const [item] = waiting.splice(next, 1);
    execute(take(), item!);
  }
}

function take(): Worker {
  const known = free.pop();
  if (known !== undefined) {
    clearTimeout(known.ends);
    known.worker.ref();
    return known.worker;
  }
  threads++;
  return new Worker(new URL('./aside-main.ts', import.meta.url), {
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
}

function execute(worker: Worker, { job, place, done }: Waiting): void {
  busy.add(place);
  const end = (answer: Answer, isAlive: boolean): void => {
    worker.off('message', answered).off('error', failed).off('exit', exited);
    busy.delete(place);
    if (isAlive) rest(worker);
    else threads--;
    done(answer);
    start();
  };
  const died = (message: string): void => end({ failure: { code: 'INTERNAL', message } }, false);
  const answered = (answer: Answer): void => end(answer, true);
  const failed = (error: Error): void => died(error.message);
  const exited = (): void => died('a thread has ended');
  worker.on('message', answered).on('error', failed).on('exit', exited);
  worker.postMessage(job);
}

function rest(worker: Worker): void {
  worker.unref();
  const leave = (): void => {
    const at = free.findIndex((one) => one.worker === worker);
    if (at >= 0) free.splice(at, 1);
    threads--;
    void worker.terminate();
  };
  const ends = setTimeout(leave, IDLE_MS);
  ends.unref();
  free.push({ worker, ends });
}
