/** The central scan's files: the store of verdicts, which is only a cache, and the records of the quarantine, which are not. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { checkStore, dropStore, isDigest, quarantineRecord, verdictFile } from '../../scan/index.ts';
import { quarantineDir } from '../../vlfs/index.ts';
import type { FleetContext } from '../context.ts';
import { whileNoScan } from '../scan/scan.ts';
import { namesIn } from '../state/files.ts';
import { examine, type Finding, type FsckRun } from './run.ts';

export async function checkScan(run: FsckRun): Promise<void> {
  const { root } = run.context;
  await examine(run, () => checkQuarantine(root));
  const file = verdictFile(join(root, 'scan'));
  if (!run.deep || !existsSync(file)) return;
  await examine(run, () => checkVerdicts(run.context, file));
}

function checkQuarantine(root: string): Finding[] {
  const dir = quarantineDir(root);
  const findings: Finding[] = [];
  for (const name of namesIn(dir)) {
    if (name.startsWith('.tmp-')) continue;
    const object = `quarantine ${name.slice(0, 12)}`;
    if (!isDigest(name)) {
      const remedy = `move ${join(dir, name)} away`;
      findings.push({ object, problem: `${name} is no digest`, remedy, severity: 'warning' });
    } else if (quarantineRecord(root, name) === null) {
      findings.push({
        object,
        problem: 'its record cannot be read; the content stays hidden',
        remedy: 'strata scan --release it, then: strata scan --quarantine',
        severity: 'warning',
      });
    }
  }
  return findings;
}

function checkVerdicts(context: FleetContext, file: string): Finding[] {
  const problem = existsSync(file) ? checkStore(file) : null;
  if (problem === null) return [];
  return [
    {
      object: 'verdicts of scans',
      problem,
      remedy: 'strata fsck --deep --repair removes them; the next scan makes them anew',
      repair: () => whileNoScan(context, async () => dropStore(file)),
    },
  ];
}
