/** The journal, and mounts: records of strata-fs and of sealed doors against the kernel's list, and that each mount shows the stack of today. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError } from '../../base/index.ts';
import { mountRecords } from '../gc/references.ts';
import { sealedMounts } from '../sealed/door.ts';
import { hasSealedRecord } from '../sealed/records.ts';
import { namesIn } from '../state/files.ts';
import { readRecord, recordNames } from '../state/journal-records.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceStack, mountedStacks } from '../templates/follow.ts';
import { examine, type Finding, type FsckRun, report } from './run.ts';

/** Records of the journal exist only while a command commits, which the lock excludes. */
export async function checkJournal(run: FsckRun): Promise<void> {
  const dir = join(run.context.root, 'journal');
  await examine(run, () =>
    recordNames(dir).map((name): Finding => {
      const object = `journal/${name}`;
      try {
        const op: unknown = readRecord(join(dir, name))?.op;
        return {
          object,
          problem: `${typeof op === 'string' ? op : 'a command'} has committed but is not complete`,
          remedy: 'strata daemon restart completes it',
        };
      } catch (error) {
        return {
          object,
          problem: asStrataError(error).message,
          remedy: `move ${join(dir, name)} away, then: strata daemon restart`,
        };
      }
    }),
  );
}

/** Mountpoints of strata-fs in the kernel's list. */
function servedMountpoints(): Set<string> {
  const found = new Set<string>();
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [left, right] = line.split(' - ');
    if (right === undefined || !right.startsWith('fuse.strata ')) continue;
    const bytes = left!
      .split(' ')[4]!
      .replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    found.add(Buffer.from(bytes, 'latin1').toString('utf8'));
  }
  return found;
}

export async function checkMounts(run: FsckRun): Promise<void> {
  const { context } = run;
  run.checked.mounts = mountRecords(context.root).length + sealedMounts(context.paths).length;
  await examine(run, () => checkRecords(run));
  await checkStacks(run);
}

function checkRecords(run: FsckRun): Finding[] {
  const { context } = run;
  const findings: Finding[] = [];
  const served = servedMountpoints();
  for (const { id, mountpoint, stack } of mountRecords(context.root)) {
    // Scratch mounts come and go without the commit lock.
    if (id.startsWith('.')) continue;
    const object = `mount ${mountpoint}`;
    if (!served.has(mountpoint)) {
      findings.push({
        object,
        problem: `strata-fs remembers appliance ${id} there, but nothing is mounted`,
        remedy: `strata umount ${mountpoint}, then mount it again`,
      });
    }
    if (context.catalog.get(id) === null)
      findings.push({
        object,
        problem: `there is no appliance ${id}`,
        remedy: `strata umount ${mountpoint} --force`,
      });
    if (stack === null || !namesIn(join(context.root, 'run/stacks')).includes(stack))
      findings.push({
        object,
        problem: 'the record of its stack is missing, so it could not be made again after a crash',
        remedy: `strata umount ${mountpoint}, then mount it again`,
      });
  }
  for (const { name, dir } of sealedMounts(context.paths)) {
    if (hasSealedRecord(context, name)) continue;
    findings.push({
      object: `mount ${dir}`,
      problem: `the sealed mount of appliance ${name} has no record (sealed.json)`,
      remedy: `strata umount ${dir}, then mount it again`,
    });
  }
  return findings;
}

/** Asks strata-fs, so it waits: once without and, when something differs, once with the lock. */
async function checkStacks(run: FsckRun): Promise<void> {
  const first = await staleMounts(run);
  if (first.length === 0) return;
  const findings = await run.context.locks.with([COMMIT], () => staleMounts(run));
  await report(run, findings, () => []);
}

async function staleMounts(run: FsckRun): Promise<Finding[]> {
  const { context } = run;
  const findings: Finding[] = [];
  try {
    const plane = await context.runningDataPlane();
    if (!plane) return [];
    for (const [id, key] of await mountedStacks(plane)) {
      const row = context.catalog.get(id);
      if (row === null) continue;
      if (applianceStack(context, row).key === key) continue;
      findings.push({
        object: `appliance ${id}`,
        problem: 'its mount shows an older stack than the files say',
        remedy: 'strata update brings it up to date',
      });
    }
  } catch (error) {
    findings.push({
      object: 'strata-fs',
      problem: asStrataError(error).message,
      remedy: 'strata daemon restart',
    });
  }
  return findings;
}
