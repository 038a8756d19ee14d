/** The thread of a scan: at the lowest priority, with a bounded heap, so that neither appliances nor the control plane wait for it. */
import { constants, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { asStrataError, type ProgressEvent } from '../base/index.ts';
import type { MarkJob, MarkResult, ScanJob, ScanOutput } from './contract.ts';
import { markPrivate } from './mark-private.ts';
import { runScan } from './run-scan.ts';

export type ScanWork = { do: 'scan'; job: ScanJob } | { do: 'mark'; job: MarkJob };

export type ScanAnswer =
  | { progress: ProgressEvent }
  | { result: ScanOutput | MarkResult }
  | { error: ReturnType<ReturnType<typeof asStrataError>['toJSON']> };

try {
  // On Linux this is the calling thread, and the programs that it starts.
  setPriority(0, constants.priority.PRIORITY_LOW);
} catch {
  // Then it runs as everybody.
}
const post = (answer: ScanAnswer): void => parentPort!.postMessage(answer);
const work = workerData as ScanWork;
try {
  const result =
    work.do === 'scan'
      ? await runScan(work.job, (progress) => post({ progress }))
      : await markPrivate(work.job, (progress) => post({ progress }));
  post({ result });
} catch (error) {
  post({ error: asStrataError(error).toJSON() });
}
