/** Jobs of the blocking pool as steps. */
import type { SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import { systemFailure } from '../failure.ts';
import type { Steps } from '../steps.ts';

/** Runs a job in the pool; throws when it fails. */
export function* inPool(work: (done: (errno: number) => void) => PoolWork): Steps<void> {
  let result = 0;
  const job = work((errno) => {
    result = errno;
  });
  yield slowJob('reply', job);
  if (result < 0) throw systemFailure(result, 'copy an open file for a clone');
}

type PoolWork = SlowJob extends infer Job
  ? Job extends { kind: 'fsync' | 'copy-data' | 'write-out' }
    ? Omit<Job, 'then'>
    : never
  : never;
