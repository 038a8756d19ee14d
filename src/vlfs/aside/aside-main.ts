/** The thread of aside.ts: one job at a time, each answered by { result } or { failure }. */
import { parentPort } from 'node:worker_threads';
import { asStrataError, nameFromText } from '../../base/index.ts';
import { AT_FDCWD, close } from '../../sys/index.ts';
import { diffOne, diffPair } from '../compare/diff-pair.ts';
import { mergeVlfs } from '../merge/merge.ts';
import {
  exchangeOffline,
  privateUsage,
  pruneWhiteouts,
  resetOffline,
  revertOffline,
  whoOwns,
} from '../offline.ts';
import { spaceOf } from '../private-layer/space.ts';
import { countUsage } from '../quota/count-offline.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import type { AsideJob } from './aside.ts';

function run(job: AsideJob): unknown {
  switch (job.kind) {
    case 'diff':
      return diffOne(job.spec, job.path);
    case 'diff-pair':
      return diffPair(job.spec, job.other, job.path);
    case 'owner':
      return whoOwns(job.spec, job.path);
    case 'usage':
      return privateUsage(job.dir);
    case 'probe':
      for (const dir of job.dirs) close(openDirectory(AT_FDCWD, nameFromText(dir)));
      return true;
    case 'space':
      return spaceOf(job.dir);
    case 'count':
      return countUsage(job.spec);
    case 'prune':
      return pruneWhiteouts(job.spec);
    case 'revert':
      return revertOffline(job.spec, job.paths);
    case 'reset':
      return resetOffline(job.spec, job.keep);
    case 'exchange':
      return exchangeOffline(job.spec, job.stack, job.fresh);
    case 'merge':
      return mergeVlfs(job.input);
  }
}

parentPort!.on('message', async (job: AsideJob) => {
  try {
    parentPort!.postMessage({ result: await run(job) });
  } catch (error) {
    parentPort!.postMessage({ failure: asStrataError(error).toJSON() });
  }
});
