/** Negative errnos as errors for people: the control operations (relayer, revert, reset, diff) throw, the data plane does not. */
import { getSystemErrorName } from 'node:util';
import { StrataError } from '../base/index.ts';
import { E } from '../sys/index.ts';

/** The error for a system call that returned `result` (negative) while doing something, e.g. 'write /etc/fstab'. */
export function systemFailure(result: number, doing: string): StrataError {
  if (result === -E.NOSPC || result === -E.DQUOT) {
    return new StrataError('NO_SPACE', `cannot ${doing}: no space left on the device`, {
      hint: 'free some space and repeat the command',
    });
  }
  if (result === -E.ROFS)
    return new StrataError('DENIED', `cannot ${doing}: the file system is mounted read-only`);
  if (result === -E.NOENT) return new StrataError('NOT_FOUND', `cannot ${doing}: no such file or directory`);
  return new StrataError('IO', `cannot ${doing}: ${nameOf(result)}`);
}

function nameOf(errno: number): string {
  try {
    return getSystemErrorName(errno);
  } catch {
    return `error ${-errno}`;
  }
}
