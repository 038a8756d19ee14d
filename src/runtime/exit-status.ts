/** Exit statuses as a shell gives them: the command's own, 128 + signal, 127 not found, 126 not executable. */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { LOG_NAME } from './bundle.ts';

/** The status of an ended child process. */
export function exitStatus(code: number | null, signal: NodeJS.Signals | null): number {
  if (code !== null) return code;
  return 128 + (signal === null ? 0 : constants.signals[signal]);
}

/** What crun wrote about a command that it could not start; empty when it started. */
export function startLog(bundleDir: string): string {
  try {
    return readFileSync(join(bundleDir, LOG_NAME), 'utf8').trim();
  } catch {
    return '';
  }
}

/**
 * crun exits 1 when it cannot start a command at all; its log tells this from the command's own status 1. Gives `status` when the
 * log is empty.
 */
export function statusWithLog(status: number, bundleDir: string): number {
  const log = status === 0 ? '' : startLog(bundleDir);
  if (/executable file .* not found|(open|stat|find) .*: No such file or directory/.test(log)) return 127;
  if (/open executable|exec.*: (Permission denied|Exec format error)|not executable/i.test(log)) return 126;
  return log === '' ? status : 125;
}
