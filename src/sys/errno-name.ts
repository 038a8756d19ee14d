/** Errno numbers as text for people. */
import { getSystemErrorMessage, getSystemErrorName } from 'node:util';

/** `EBUSY, resource busy or locked` for 16 or -16. */
export function errnoName(errno: number): string {
  const negative = -Math.abs(errno);
  try {
    return `${getSystemErrorName(negative)}, ${getSystemErrorMessage(negative)}`;
  } catch {
    return `error ${Math.abs(errno)}`;
  }
}
