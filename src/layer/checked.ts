/** System call results of the control side: a negative errno becomes a StrataError that names the call and the path. */
import { getSystemErrorName } from 'node:util';
import { nameToText, StrataError } from '../base/index.ts';
import { E } from '../sys/index.ts';

/** `result` when it is >= 0. Throws NO_SPACE (ENOSPC, EDQUOT), else IO. `path` is latin1, for the message. */
export function checked(result: number, call: string, path: string): number {
  if (result >= 0) return result;
  throw systemError(result, call, path);
}

/** A negative errno as a StrataError. */
export function systemError(result: number, call: string, path: string): StrataError {
  const where = nameToText(path);
  if (result === -E.NOSPC || result === -E.DQUOT) {
    return new StrataError('NO_SPACE', `no space left on the device while writing ${where}`, {
      hint: 'free some space and repeat the command; nothing was changed',
      data: { path: where },
    });
  }
  return new StrataError('IO', `${call} ${where}: ${getSystemErrorName(result)}`, {
    data: { path: where, errno: -result },
  });
}
