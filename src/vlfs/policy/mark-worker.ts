/** The thread of `mark-paths.ts`; answers null or an error. */
import { parentPort, workerData } from 'node:worker_threads';
import { asStrataError } from '../../base/index.ts';
import { type MarkJob, markPaths } from './mark-paths.ts';

try {
  markPaths(workerData as MarkJob);
  parentPort!.postMessage(null);
} catch (error) {
  parentPort!.postMessage(asStrataError(error).toJSON());
}
