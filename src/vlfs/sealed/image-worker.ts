/** A thread that makes one image, so that the caller's event loop goes on; answers null or an error. */
import { parentPort, workerData } from 'node:worker_threads';
import { asStrataError } from '../../base/index.ts';
import type { ImageJob } from './contract.ts';
import { makeImage } from './make-image.ts';

try {
  makeImage(workerData as ImageJob);
  parentPort!.postMessage(null);
} catch (error) {
  parentPort!.postMessage(asStrataError(error).toJSON());
}
