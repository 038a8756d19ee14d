/** The face of scan/: judging every distinct content of a fleet once, and what is in quarantine. */
import { Worker } from 'node:worker_threads';
import { ERROR_CODES, type Progress, StrataError } from '../base/index.ts';
import type { MarkJob, MarkResult, ScanJob, ScanOutput } from './contract.ts';
import type { ScanAnswer, ScanWork } from './scan-worker.ts';

export type * from './contract.ts';
export { heldMark } from './marks.ts';
export { judgeForOpen, onOpenSettings, readOnOpen, writeOnOpen } from './on-open.ts';
export {
  addQuarantine,
  beginMarking,
  endMarking,
  isDigest,
  isMarking,
  quarantineRecord,
  removeQuarantine,
} from './quarantine.ts';
export { verdictFile } from './run-scan.ts';
export { testScanner } from './scanners/index.ts';
export { checkStore, dropStore, pruneStore } from './store.ts';

/** Heap of the scan's thread, beside the buffers of what it reads. */
const HEAP_MIB = 512;

/** Runs a scan on a thread of its own. Throws what the scanner or the store refuse. */
export function scanAside(job: ScanJob, progress: Progress): Promise<ScanOutput> {
  return aside({ do: 'scan', job }, progress) as Promise<ScanOutput>;
}

/** Marks private files on a thread of its own. */
export function markAside(job: MarkJob, progress: Progress): Promise<MarkResult> {
  return aside({ do: 'mark', job }, progress) as Promise<MarkResult>;
}

function aside(work: ScanWork, progress: Progress): Promise<ScanOutput | MarkResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./scan-worker.ts', import.meta.url), {
      workerData: work,
      execArgv: ['--disable-warning=ExperimentalWarning'],
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
    });
    worker.on('message', (answer: ScanAnswer) => {
      if ('progress' in answer) progress(answer.progress);
      else if ('result' in answer) resolve(answer.result);
      else {
        const { code, message, hint, data } = answer.error;
        reject(new StrataError(code in ERROR_CODES ? code : 'INTERNAL', message, { hint, data }));
      }
    });
    worker.on('error', reject);
    worker.on('exit', () => reject(new StrataError('INTERNAL', 'the thread of the scan ended early')));
  });
}
