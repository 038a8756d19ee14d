/** Which process a number means: its start time tells it from a later one with the same number. */
import { readFileSync } from 'node:fs';

export interface ProcessMark {
  pid: number;
  /** Clock ticks since boot, field 22 of /proc/PID/stat. */
  started: string;
}

/** The process with this number, or null when there is none or it has died already. */
export function markOf(pid: number): ProcessMark | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const started = fields[19];
    return fields[0] === 'Z' || fields[0] === 'X' || started === undefined ? null : { pid, started };
  } catch {
    return null;
  }
}

/** Whether that very process lives. */
export function lives(mark: ProcessMark | null): boolean {
  return mark !== null && markOf(mark.pid)?.started === mark.started;
}

/** Kills that very process; one that is gone is no error. */
export function kill(mark: ProcessMark | null): void {
  if (mark === null || !lives(mark)) return;
  try {
    process.kill(mark.pid, 'SIGKILL');
  } catch {
    // It ended meanwhile.
  }
}
