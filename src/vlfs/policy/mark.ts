/** Marking, for a caller whose event loop must go on. */
import { Worker } from 'node:worker_threads';
import { type ErrorCode, StrataError } from '../../base/index.ts';
import type { MarkJob } from './mark-paths.ts';

/** As markPaths, on a thread of its own. */
export async function markObjects(job: MarkJob): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const worker = new Worker(new URL('./mark-worker.ts', import.meta.url), {
      workerData: job,
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    worker.on('message', (failure: null | { code: ErrorCode; message: string; hint?: string }) => {
      if (failure === null) resolve();
      else reject(new StrataError(failure.code, failure.message, { hint: failure.hint }));
    });
    worker.on('error', reject);
    worker.on('exit', () => reject(new StrataError('INTERNAL', 'the thread that marks has ended')));
  });
}
