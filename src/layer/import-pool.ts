/**
 * Imports in worker threads: unpacking, hashing and the file system's waits do not stop the caller's event loop, and several packages are
 * converted at once. Each job is one import call (import-worker.ts); its errors keep their code. An idle pool keeps no process alive.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { ErrorCode, Progress, ProgressEvent } from '../base/index.ts';
import { asStrataError, StrataError } from '../base/index.ts';
import type { BuildOptions, ImportOptions, LayerUnit, TarOptions } from './contract.ts';

export interface ImportPool {
  importDeb(file: string, options: ImportOptions): Promise<LayerUnit>;
  importTar(file: string, options: TarOptions): Promise<LayerUnit>;
  buildUnit(dir: string, options: BuildOptions): Promise<LayerUnit>;
  /** Ends the workers; what they are doing is abandoned (a .tmp-* directory may stay until this process ends and the next import cleans it). */
  close(): Promise<void>;
}

export type JobKind = 'importDeb' | 'importTar' | 'buildUnit';

/** What goes to a worker. Progress does not cross: the worker sends events. */
export interface JobMessage {
  kind: JobKind;
  source: string;
  options: Omit<ImportOptions, 'progress'>;
}

/** What comes back: any number of events, then one of the others. */
export type ReplyMessage =
  | { event: ProgressEvent }
  | { unit: LayerUnit }
  | { error: { code: ErrorCode; message: string; hint?: string; data?: Record<string, unknown> } };

interface Job {
  message: JobMessage;
  progress: Progress | undefined;
  resolve(unit: LayerUnit): void;
  reject(error: Error): void;
}

/** Opens a pool; its workers start when there is work. Default: as many as there are processors, at most four. */
export function openImportPool(workers: number = Math.min(4, availableParallelism())): ImportPool {
  const waiting: Job[] = [];
  const idle: Worker[] = [];
  const running = new Map<Worker, Job>();
  let closed = false;

  function startWorker(): Worker {
    const worker = new Worker(new URL('./import-worker.ts', import.meta.url), {
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    worker.on('message', (reply: ReplyMessage) => receive(worker, reply));
    worker.on('error', (error) => drop(worker, asStrataError(error)));
    worker.on('exit', () => drop(worker, new StrataError('INTERNAL', 'the import thread has ended')));
    return worker;
  }

  function receive(worker: Worker, reply: ReplyMessage): void {
    const job = running.get(worker);
    if (job === undefined) return;
    if ('event' in reply) {
      job.progress?.(reply.event);
      return;
    }
    running.delete(worker);
    worker.unref();
    idle.push(worker);
    if ('unit' in reply) job.resolve(reply.unit);
    else job.reject(new StrataError(reply.error.code, reply.error.message, reply.error));
    next();
  }

  function drop(worker: Worker, error: Error): void {
    const at = idle.indexOf(worker);
    if (at >= 0) idle.splice(at, 1);
    const job = running.get(worker);
    running.delete(worker);
    job?.reject(error);
    next();
  }

  function next(): void {
    while (!closed && waiting.length > 0 && (idle.length > 0 || running.size < workers)) {
      const worker = idle.pop() ?? startWorker();
      const job = waiting.shift()!;
      running.set(worker, job);
      worker.ref();
      worker.postMessage(job.message);
    }
  }

  function run(kind: JobKind, source: string, options: ImportOptions): Promise<LayerUnit> {
    if (closed) return Promise.reject(new Error('the import pool is closed'));
    const { progress, ...rest } = options;
    return new Promise((resolve, reject) => {
      waiting.push({ message: { kind, source, options: rest }, progress, resolve, reject });
      next();
    });
  }

  return {
    importDeb: (file, options) => run('importDeb', file, options),
    importTar: (file, options) => run('importTar', file, options),
    buildUnit: (dir, options) => run('buildUnit', dir, options),
    async close() {
      closed = true;
      for (const job of waiting.splice(0)) job.reject(new Error('the import pool is closed'));
      await Promise.all([...idle, ...running.keys()].map((worker) => worker.terminate()));
    },
  };
}

let shared: ImportPool | null = null;

/** The pool of this process, opened at its first use and never closed; its idle workers keep no process alive. */
export function sharedImportPool(): ImportPool {
  shared ??= openImportPool();
  return shared;
}
