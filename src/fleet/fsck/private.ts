/** The form of private layers and whiteout sets (docs/formats/private-layer.md), looked at by a thread of its own. */
import { basename, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { isThere, namesIn } from '../state/files.ts';
import type { FsckRun } from './run.ts';
import type { PrivateAnswer, PrivateJob } from './worker.ts';

export async function checkPrivateLayers(run: FsckRun, names: string[]): Promise<void> {
  const { appliances, frozen } = run.context.paths;
  const layers = namesIn(frozen).filter((name) => !name.startsWith('.'));
  if (names.length + layers.length === 0) return;
  await new Promise<void>((resolve, reject) => {
    const dirs = [
      ...names.map((name) => join(appliances, name)),
      ...layers.map((name) => join(frozen, name)),
    ];
    const job: PrivateJob = { dirs };
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: job,
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    worker.on('message', (answer: PrivateAnswer) => tell(run, answer));
    worker.on('error', reject);
    worker.on('exit', () => resolve());
  });
}

function tell(run: FsckRun, { dir, problems, more }: PrivateAnswer): void {
  // Deleted meanwhile.
  if (!isThere(dir)) return;
  const isFrozen = dir.startsWith(`${run.context.paths.frozen}/`);
  const object = `${isFrozen ? 'frozen layer' : 'appliance'} ${basename(dir)}`;
  const remedy = 'look at it; strata revert shows the shared original again';
  for (const { path, problem } of problems) {
    run.problems.push({ object, problem: `${path}: ${problem}`, remedy, severity: 'error', repaired: false });
  }
  if (more)
    run.problems.push({
      object,
      problem: 'there are more of these',
      remedy,
      severity: 'error',
      repaired: false,
    });
}
