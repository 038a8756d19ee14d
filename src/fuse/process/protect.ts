/**
 * What strata-fs asks of the system for itself: many open files, to be killed last when memory runs out, short turns on the processor, and no more than others where
 * quotas are.
 */
import { writeFileSync } from 'node:fs';
import { obeyQuotas, raiseOpenFiles, shortenTurns } from '../../sys/index.ts';

const OPEN_FILES = 1 << 20;
const ENOUGH_FILES = 65536;
/** Below every ordinary process: all mounts wait while there is no strata-fs. */
const OOM_SCORE = -900;

/** What could not be had is told to `log`. */
export function protect(log: (line: string) => void): void {
  // Others' programs wait for the serving threads, and beside them for whoever else has the processor.
  shortenTurns();
  const limit = raiseOpenFiles(OPEN_FILES);
  if (limit < ENOUGH_FILES) log(`open files are limited to ${limit}`);
  try {
    writeFileSync('/proc/self/oom_score_adj', String(OOM_SCORE));
  } catch {
    log('the out-of-memory score could not be lowered');
  }
  // What an appliance writes is its owner's: the quotas of the file system below count, as on that file system itself. Both of the above needed the capability.
  if (obeyQuotas() < 0) log('quotas of the file system below do not count');
}
