/**
 * What ROOT/run says of the processes of the data plane. strata-fs.state: who serves, who holds its descriptors; written by the serving
 * process alone, or, while none lives, by the one that becomes it. strata-fs.standby: who waits to take over; written under the lock. Processes are
 * named with their start times, so that what a dead one left is told from the truth.
 */
import { readFileSync, rmSync } from 'node:fs';
import type { DataPlanePaths } from './paths.ts';
import { lives, type ProcessMark } from './process-life.ts';
import { writeWhole } from './write-whole.ts';

export interface State {
  server: ProcessMark;
  holder: ProcessMark | null;
  /** The descriptor of the index of ledgers in the holder, or -1. */
  index: number;
  /** The shell that starts the server again, when there is one. */
  watch: ProcessMark | null;
  /** Nobody is to go on with it by itself: it ended in order, or was ended for good. */
  ended?: boolean;
}

export interface Standby {
  process: ProcessMark;
  watch: ProcessMark | null;
  /** Everything is loaded. */
  ready: boolean;
}

function readWhole<T>(file: string): T | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch {
    return null;
  }
}

export const readState = (paths: DataPlanePaths): State | null => readWhole<State>(paths.state);

export function writeState(paths: DataPlanePaths, state: State): void {
  writeWhole(paths.state, JSON.stringify(state));
}

/** The process that waits to take over, when it lives. */
export function livingStandby(paths: DataPlanePaths): Standby | null {
  const standby = readWhole<Standby>(paths.standby);
  return standby !== null && lives(standby.process) ? standby : null;
}

/** null: there is none any more. */
export function writeStandby(paths: DataPlanePaths, standby: Standby | null): void {
  if (standby === null) rmSync(paths.standby, { force: true });
  else writeWhole(paths.standby, JSON.stringify(standby));
}

/** The strata-fs of this root, when it lives. */
export function livingServer(paths: DataPlanePaths): ProcessMark | null {
  const state = readState(paths);
  return state !== null && lives(state.server) ? state.server : null;
}

/** The holder of this root, when it lives. */
export function livingHolder(paths: DataPlanePaths): ProcessMark | null {
  const holder = readState(paths)?.holder ?? null;
  return lives(holder) ? holder : null;
}

/** The shell that starts strata-fs again, when it lives. */
export function livingWatch(paths: DataPlanePaths): ProcessMark | null {
  const watch = readState(paths)?.watch ?? null;
  return lives(watch) ? watch : null;
}
