/** Records of the containers that run on appliances: ROOT/run/runs/ID.json. */
import { join } from 'node:path';
import type { FleetContext } from '../context.ts';
import { namesIn, readJsonIfThere } from '../state/files.ts';

export interface RunRecord {
  format: 1;
  runId: string;
  name: string;
  startedAt: number;
}

export function runRecordFile(context: FleetContext, runId: string): string {
  return join(context.paths.runs, `${runId}.json`);
}

export function runRecords(context: FleetContext): RunRecord[] {
  return namesIn(context.paths.runs)
    .filter((name) => name.endsWith('.json') && !name.startsWith('.'))
    .map((name) => readJsonIfThere(join(context.paths.runs, name)) as RunRecord | null)
    .filter((record) => record !== null);
}

/** Where containers of an appliance have their root. */
export function runMountpoint(context: FleetContext, name: string): string {
  return join(context.paths.mnt, name);
}

/** Whether a container runs on the appliance (or is about to). */
export function hasRun(context: FleetContext, name: string): boolean {
  return runRecords(context).some((record) => record.name === name);
}
