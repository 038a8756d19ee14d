/** What a server of this experiment tells: numbers in a file, which it changes in place (Float64Array), so that being watched costs it nothing. */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';

export const STATS = { requests: 0, calls: 1, phase: 2, size: 4096 };
export const PHASE = { none: 0, ready: 1, stalled: 2 };

export interface ServerState {
  requests: number;
  calls: number;
  phase: number;
}

export function readStats(file: string): ServerState {
  const numbers = new Float64Array(3);
  const fd = openSync(file, 'r');
  readSync(fd, numbers);
  closeSync(fd);
  return { requests: numbers[0]!, calls: numbers[1]!, phase: numbers[2]! };
}

/** Processor time of all threads of a process, from the scheduler's own figures, in microseconds. */
export function cpuUs(pid: number): number {
  const tasks = `/proc/${pid}/task`;
  return readdirSync(tasks)
    .map((task) => Number(readFileSync(`${tasks}/${task}/schedstat`, 'latin1').split(' ')[0]) / 1000)
    .reduce((sum, us) => sum + us, 0);
}
