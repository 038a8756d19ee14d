/** Operations of a VLFS to their end on a thread that may wait: the jobs that they ask for are done here. */
import { fdatasync, fsync } from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { copyInline } from '../copy-up/shared-content.ts';

/** Runs an operation of root's until it is done; its result. */
export function runHere(operation: (caller: Caller) => number): number {
  const caller: Caller = { uid: 0, gid: 0, pid: 0, umask: 0, job: null };
  for (;;) {
    const result = operation(caller);
    if (result !== PENDING) return result;
    const { job } = caller;
    caller.job = null;
    const done = runJob(job!);
    if (job!.then === 'reply' || done < 0) return done;
  }
}

function runJob(job: SlowJob): number {
  switch (job.kind) {
    case 'steps': {
      let result = job.advance(Number.POSITIVE_INFINITY);
      while (result === null) result = job.advance(Number.POSITIVE_INFINITY);
      return result;
    }
    case 'copy-data': {
      const copied = copyInline(job.fromFd, job.toFd, job.sizeBytes);
      job.done?.(copied);
      return copied;
    }
    case 'fsync': {
      const synced = job.dataOnly ? fdatasync(job.fd) : fsync(job.fd);
      job.done?.(synced);
      return synced;
    }
    default:
      throw new Error(`${job.kind} is no job of these operations`);
  }
}
