/** Work for the blocking pool. A file server runs it and then repeats the request or replies with the result. */
import type { SlowJob } from '../contract.ts';

type Work = SlowJob extends infer Job ? (Job extends SlowJob ? Omit<Job, 'then'> : never) : never;

export function slowJob(after: SlowJob['then'], work: Work): SlowJob {
  // biome-ignore lint/suspicious/noThenProperty: the contract's name; a job is never awaited.
  return { ...work, then: after } as SlowJob;
}
