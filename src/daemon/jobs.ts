/**
 * Long work as the daemon sees it: every streaming method runs as a job with a number, its last progress and its
 * outcome; all progress also goes to the watchers of GET /events. Finished jobs are kept for a while, bounded.
 */
import { asStrataError, type Progress, type ProgressEvent } from '../base/index.ts';
import type { JobInfo, Method } from './contract.ts';

/** Finished jobs that are remembered. */
const KEPT = 64;

export type JobEvent =
  | { event: 'start'; job: number; method: Method; target: string }
  | { event: 'progress'; job: number; method: Method; target: string; progress: ProgressEvent }
  | { event: 'done'; job: number; method: Method; target: string; elapsed_ms: number }
  | { event: 'failed'; job: number; method: Method; target: string; elapsed_ms: number; message: string };

export interface Jobs {
  /** Runs `work` as a job. It goes on whether or not the one who asked still listens. `inBackground`: stratad does not wait for it when it stops. */
  run<R>(
    o: { method: Method; target: string; onProgress: Progress; inBackground?: boolean },
    work: (p: Progress) => Promise<R>,
  ): Promise<R>;
  list(): JobInfo[];
  running(): number;
  /** Resolves true when no job runs any more, false after `timeoutMs`. */
  idle(timeoutMs: number): Promise<boolean>;
  /** Calls `watcher` for every event until the returned function is called. */
  watch(watcher: (event: JobEvent) => void): () => void;
}

interface Job extends Omit<JobInfo, 'elapsed_ms'> {
  begun: number;
  ended: number | null;
}

export function createJobs(): Jobs {
  let lastId = 0;
  const jobs = new Map<number, Job>();
  const pending = new Set<Promise<unknown>>();
  const watchers = new Set<(event: JobEvent) => void>();

  const tell = (event: JobEvent) => {
    for (const watcher of watchers) watcher(event);
  };
  const forgetOld = () => {
    const finished = [...jobs.values()].filter((job) => job.ended !== null);
    for (const job of finished.slice(0, Math.max(0, finished.length - KEPT))) jobs.delete(job.id);
  };
  const elapsed = (job: Job) => Math.round((job.ended ?? performance.now()) - job.begun);

  const run: Jobs['run'] = async (options, work) => {
    const { method, target } = options;
    lastId += 1;
    const job: Job = {
      id: lastId,
      method,
      target,
      state: 'running',
      started_at: new Date().toISOString(),
      progress: null,
      error: null,
      begun: performance.now(),
      ended: null,
    };
    jobs.set(job.id, job);
    const about = { job: job.id, method, target };
    tell({ event: 'start', ...about });
    const running = work((progress) => {
      job.progress = progress;
      options.onProgress(progress);
      tell({ event: 'progress', ...about, progress });
    });
    if (!options.inBackground) pending.add(running);
    try {
      const result = await running;
      job.state = 'done';
      return result;
    } catch (thrown) {
      const error = asStrataError(thrown);
      job.state = 'failed';
      job.error = { code: error.code, message: error.message };
      throw error;
    } finally {
      pending.delete(running);
      job.ended = performance.now();
      const elapsed_ms = elapsed(job);
      if (job.error) tell({ event: 'failed', ...about, elapsed_ms, message: job.error.message });
      else tell({ event: 'done', ...about, elapsed_ms });
      forgetOld();
    }
  };

  return {
    run,
    list: () =>
      [...jobs.values()].map(({ begun: _begun, ended: _ended, ...job }) => ({
        ...job,
        elapsed_ms: elapsed(jobs.get(job.id)!),
      })),
    running: () => pending.size,
    idle: async (timeoutMs) => {
      const until = performance.now() + timeoutMs;
      while (pending.size > 0) {
        const left = until - performance.now();
        if (left <= 0) return false;
        const timer = Promise.withResolvers<void>();
        const handle = setTimeout(timer.resolve, left);
        await Promise.race([Promise.allSettled([...pending]), timer.promise]);
        clearTimeout(handle);
      }
      return true;
    },
    watch: (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}
