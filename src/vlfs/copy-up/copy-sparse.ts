/** Copies of file data: shared blocks where the file system can, else only what holds data; holes stay holes. */
import { setImmediate as breathe } from 'node:timers/promises';
import { copyFileRange, E, ficlone, ftruncate, lseek, SEEK_DATA, SEEK_HOLE } from '../../sys/index.ts';
import { systemFailure } from '../failure.ts';

const SLICE_BYTES = 8 << 20;

/** Fills an empty file with the first `size` bytes of another. `what`: for messages. */
export async function copySparse(source: number, copy: number, size: number, what: string): Promise<void> {
  const must = (result: number, doing: string): number => {
    if (result < 0) throw systemFailure(result, `${doing} ${what}`);
    return result;
  };
  if (size === 0 || ficlone(copy, source) >= 0) return;
  must(ftruncate(copy, size), 'write');
  for (let at = 0; at < size; ) {
    const start = lseek(source, at, SEEK_DATA);
    if (start === -E.NXIO) return;
    const end = Math.min(must(lseek(source, must(start, 'read'), SEEK_HOLE), 'read'), size);
    for (at = start; at < end; ) {
      const got = must(copyFileRange(source, at, copy, at, Math.min(SLICE_BYTES, end - at)), 'write');
      if (got === 0) return;
      at += got;
      if (got === SLICE_BYTES) await breathe();
    }
  }
}
