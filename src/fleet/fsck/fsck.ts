/**
 * Checks everything that the files of a state root must keep true, while everything runs. Reads only, unless `repair`: then it mends what can be
 * made from the rest (indexes, the catalog, links of machines) and removes what nobody refers to and nobody wrote.
 */
import type { Progress } from '../../base/index.ts';
import type { FleetContext } from '../context.ts';
import type { FsckResult } from '../contract.ts';
import { checkAppliances } from './appliances.ts';
import { checkTemplates } from './definitions.ts';
import { checkJournal, checkMounts } from './mounts.ts';
import { newRun } from './run.ts';
import { checkScan } from './scan.ts';
import { checkRepositories } from './units.ts';

export async function checkFleet(
  context: FleetContext,
  options: { deep?: boolean | undefined; repair?: boolean | undefined },
  progress: Progress,
): Promise<FsckResult> {
  const started = performance.now();
  const run = newRun(context, { deep: options.deep ?? false, repair: options.repair ?? false });
  const parts = [
    ['journal', checkJournal],
    ['layer units', checkRepositories],
    ['templates', checkTemplates],
    ['appliances', checkAppliances],
    ['mounts', checkMounts],
    ['scans', checkScan],
  ] as const;
  for (const [at, [what, check]] of parts.entries()) {
    progress({ phase: 'fsck', message: `checking ${what}`, done: at, total: parts.length });
    await check(run);
  }
  const { checked, problems } = run;
  const clean = problems.every(({ severity, repaired }) => severity === 'warning' || repaired);
  return { checked, problems, clean, elapsed_ms: Math.round((performance.now() - started) * 10) / 10 };
}
