/** Small conveniences over files; writing is layer's writeFileDurably. */
import { readFileSync } from 'node:fs';
import { asStrataError } from '../base/index.ts';

/** The file's content, or null when there is none. */
export function readIfThere(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw asStrataError(error);
  }
}
