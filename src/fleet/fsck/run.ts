/**
 * How fsck looks: every object is checked without a lock first; what seems wrong is looked at again under the commit lock, where no command is
 * between before and after, and only what is still wrong is reported. Checks read only; a finding may know how to mend itself.
 */
import type { FleetContext } from '../context.ts';
import type { FsckProblem, FsckResult } from '../contract.ts';
import { breather } from '../gc/trash.ts';
import { COMMIT } from '../state/locks.ts';

export interface Finding {
  object: string;
  problem: string;
  remedy: string;
  /** Default: error. */
  severity?: FsckProblem['severity'];
  /** Mends it; takes the locks that it needs. Only for what is safe: nothing that somebody wrote is lost. */
  repair?: () => void | Promise<void>;
}

export interface FsckRun {
  context: FleetContext;
  deep: boolean;
  repair: boolean;
  checked: FsckResult['checked'];
  problems: FsckProblem[];
  /** Gives way to the event loop every few milliseconds. */
  breathe: () => Promise<void> | undefined;
}

export function newRun(context: FleetContext, options: { deep: boolean; repair: boolean }): FsckRun {
  return {
    context,
    ...options,
    checked: { repositories: 0, units: 0, generations: 0, appliances: 0, mounts: 0 },
    problems: [],
    breathe: breather(),
  };
}

/** Checks one object. `check` is fast and does not wait, since it may run under the commit lock. */
export async function examine(run: FsckRun, check: () => Finding[]): Promise<void> {
  await run.breathe();
  if (check().length === 0) return;
  const findings = await run.context.locks.with([COMMIT], check);
  await report(run, findings, check);
}

/** Reports findings that need no second look, and mends them when that is wanted. */
export async function report(run: FsckRun, findings: Finding[], again: () => Finding[]): Promise<void> {
  const mended: FsckProblem[] = [];
  for (const { repair, severity = 'error', object, problem, remedy } of findings) {
    const entry: FsckProblem = { object, problem, remedy, severity, repaired: false };
    run.problems.push(entry);
    if (!run.repair || repair === undefined) continue;
    await repair();
    mended.push(entry);
  }
  if (mended.length === 0) return;
  const left = new Set(again().map(({ object, problem }) => `${object}\0${problem}`));
  for (const entry of mended) entry.repaired = !left.has(`${entry.object}\0${entry.problem}`);
}
