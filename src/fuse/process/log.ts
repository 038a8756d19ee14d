/** The log of strata-fs: one line an event, bounded: a full file becomes FILE.1 and a new one begins. */
import { appendFileSync, renameSync, statSync } from 'node:fs';

const MAX_BYTES = 4 << 20;

export function createLog(file: string): (line: string) => void {
  return (line) => {
    try {
      appendFileSync(file, `${new Date().toISOString()} ${line}\n`, { mode: 0o600 });
      if (statSync(file).size > MAX_BYTES) renameSync(file, `${file}.1`);
    } catch {
      // A log that cannot be written must not stop the file system.
    }
  };
}
