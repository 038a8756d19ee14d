/** Deletes what stands aside in a work directory, on a thread of its own when asked: an old private layer may hold a million files. */
import { Worker } from 'node:worker_threads';
import { nameFromText } from '../../base/index.ts';
import { AT_FDCWD } from '../../sys/index.ts';
import { removeTree } from '../private-layer/work-dir.ts';

/** Deletes a tree that nothing refers to any more. In the background it does not wait; what a crash leaves goes at the next opening. */
export function deleteAside(path: string, background: boolean): void {
  if (!background) {
    removeTree(AT_FDCWD, nameFromText(path));
    return;
  }
  new Worker(new URL('./delete-main.ts', import.meta.url), { workerData: path }).unref();
}
