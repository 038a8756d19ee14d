/**
 * Long work in short steps, on a thread that serves others too: a generator that yields wherever it may be left for a while. It yields
 * a job when it must wait for the blocking pool. What is open at a yield is closed when the generator is given up (return()).
 */
import { fsync } from '../sys/index.ts';
import type { SlowJob } from './contract.ts';

export type Steps<T> = Generator<SlowJob | undefined, T, undefined>;

/** Does all steps at once, waiting for the disk here. */
export function finished<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (value === undefined) continue;
    if (value.kind !== 'fsync') throw new Error(`${value.kind} in a step`);
    value.done?.(Math.min(fsync(value.fd), 0));
  }
}

/** Does steps until `untilMs` (performance.now()). What `steps` returned, a job to run first, or 'more'. */
export function advance<T>(steps: Steps<T>, untilMs: number): { result: T } | SlowJob | 'more' {
  do {
    const { done, value } = steps.next();
    if (done) return { result: value };
    if (value !== undefined) return value;
  } while (performance.now() < untilMs);
  return 'more';
}
