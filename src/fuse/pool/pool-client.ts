/**
 * The serving thread's side of the blocking pool: gives a job to the thread with the fewest of our jobs and calls back when it is done. An
 * owner (a mount) has at most half of the threads at a time; more of its jobs wait, so that the others' do not. The
 * last port is kept for notifies, which may wait for kernel locks that only an ordinary job's end releases. The first and the last thread are there from the
 * beginning; another one is asked for when all that are there have work.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { PoolJob } from './jobs.ts';
import type { PoolRequest, PoolResult } from './pool-main.ts';

export interface PoolClient {
  run(owner: object, job: PoolJob, done: (result: number) => void): void;
  /** Calls back for all that has ended; to be called when the done eventfd rings. */
  drain(): void;
}

interface Share {
  running: number;
  later: (() => void)[];
}

/** Scans of one owner at a time: they wait for a scanner, not in a thread. */
const SCANS = 8;

/** `start` asks for the thread of a port, whose jobs wait until it is there. */
export function createPoolClient(ports: MessagePort[], start: (port: number) => void): PoolClient {
  const waiting = new Map<number, { port: number; done: (result: number) => void }>();
  /** Jobs of an owner that are under way, and those that come after. */
  const shares = new Map<object, Share>();
  /** A scanner that hangs must not keep an owner's other jobs waiting. */
  const scans = new Map<object, Share>();
  const load = ports.map(() => 0);
  const notifier = ports.length - 1;
  const share = Math.max(1, notifier >> 1);
  let nextJob = 1;
  /** Ordinary threads that were asked for. */
  let there = 1;

  function choose(job: PoolJob): number {
    if (job.kind === 'notify' || notifier === 0) return notifier;
    let best = 0;
    for (let i = 1; i < there; i++) if (load[i]! < load[best]!) best = i;
    if (load[best] === 0 || there >= notifier) return best;
    start(there);
    return there++;
  }

  function post(job: PoolJob, done: (result: number) => void): void {
    const port = choose(job);
    const jobNo = nextJob++;
    waiting.set(jobNo, { port, done });
    load[port]!++;
    ports[port]!.postMessage(
      { jobNo, job } satisfies PoolRequest,
      job.kind === 'notify' ? [job.messages.buffer] : [],
    );
  }

  return {
    run(owner, job, done) {
      if (job.kind === 'notify') return post(job, done);
      const isScan = job.kind === 'scan';
      const sharesOf = isScan ? scans : shares;
      const most = isScan ? SCANS : share;
      let mine = sharesOf.get(owner);
      if (mine === undefined) {
        mine = { running: 0, later: [] };
        sharesOf.set(owner, mine);
      }
      const { later } = mine;
      const begin = (): void => {
        mine.running++;
        post(job, (result) => {
          mine.running--;
          later.shift()?.();
          if (mine.running === 0) sharesOf.delete(owner);
          done(result);
        });
      };
      if (mine.running < most) begin();
      else later.push(begin);
    },
    drain() {
      for (const port of ports) {
        for (let got = receiveMessageOnPort(port); got !== undefined; got = receiveMessageOnPort(port)) {
          const { jobNo, result } = got.message as PoolResult;
          const waiter = waiting.get(jobNo);
          if (waiter === undefined) continue;
          waiting.delete(jobNo);
          load[waiter.port]!--;
          waiter.done(result);
        }
      }
    },
  };
}
