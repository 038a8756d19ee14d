/**
 * A thread of the blocking pool. It gets jobs from each serving thread by a MessagePort of its own, runs them (several long ones by turns), sends
 * the result back and rings that thread's eventfd.
 */
import { type MessagePort, parentPort } from 'node:worker_threads';
import { E, eventfdSignal } from '../../sys/index.ts';
import { type PoolJob, runPoolJob } from './jobs.ts';

export interface PoolRequest {
  jobNo: number;
  job: PoolJob;
}

export interface PoolResult {
  jobNo: number;
  result: number;
}

/** Sent by the main thread: one more serving thread. */
export interface PoolAttach {
  port: MessagePort;
  /** Rung after each result. */
  doneFd: number;
}

async function serve(port: MessagePort, doneFd: number, { jobNo, job }: PoolRequest): Promise<void> {
  let result: number;
  try {
    result = await runPoolJob(job);
  } catch {
    result = -E.IO;
  }
  port.postMessage({ jobNo, result } satisfies PoolResult);
  eventfdSignal(doneFd);
}

// Loaded: the next one may be.
parentPort?.postMessage(null);
parentPort?.on('message', ({ port, doneFd }: PoolAttach) => {
  port.on('message', (request: PoolRequest) => {
    void serve(port, doneFd, request);
  });
});
