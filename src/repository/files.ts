/** Small conveniences over files; writing is layer's writeFileDurably. */
import { asStrataError } from '../base/index.ts';
import { readPlainFile } from '../layer/index.ts';

/** A database of tens of thousands of units takes tens of megabytes. */
const LARGEST_BYTES = 1 << 30;

/** The file's content, or null when there is none. */
export function readIfThere(path: string): Buffer | null {
  try {
    return readPlainFile(path, LARGEST_BYTES);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw asStrataError(error);
  }
}
