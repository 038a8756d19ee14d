/** What an appliance takes, counted at once, by looking only: on its own thread, and also while it is mounted (then what changes meanwhile may be missed). */
import type { VlfsSpec } from '../contract.ts';
import { closeCore, openCore } from '../open-core.ts';
import { takeCount } from './count.ts';
import { newQuota } from './quota.ts';
import type { Usage } from './usage-file.ts';

export function countUsage(spec: VlfsSpec): Usage {
  const core = openCore(spec, { inspect: true });
  try {
    const quota = newQuota(core, { bytes: null, inodes: null }, null, -1);
    core.quota = quota;
    const job = takeCount(core);
    if (job?.kind === 'steps') while (job.advance(Number.POSITIVE_INFINITY) === null);
    return { bytes: quota.bytes, inodes: quota.inodes, state: 'exact' };
  } finally {
    closeCore(core);
  }
}
