/** The thread of delete-aside.ts: workerData is the path. */
import { workerData } from 'node:worker_threads';
import { deleteAside } from './delete-aside.ts';

deleteAside(workerData as string, false);
