/** Paths of commands. */
import { nameFromPrinted, StrataError } from '../base/index.ts';
import { checkName } from './operations/lookup.ts';

/** The components of a path below the root of the VLFS (UTF-8 text). Throws BAD_NAME for '..' and the like. */
export function splitPath(path: string): string[] {
  const parts = nameFromPrinted(path)
    .split('/')
    .filter((part) => part !== '' && part !== '.');
  for (const part of parts) {
    if (checkName(part) < 0)
      throw new StrataError('BAD_NAME', `${JSON.stringify(path)} is not a path in the file system`);
  }
  return parts;
}
