/** Makes one image file: opens the stack, merges it, writes the image beside its place and renames it. In the worker thread, and in tests. */
import { writeErofs } from '../../formats/index.ts';
import { writeFileDurably } from '../../layer/index.ts';
import { closeStack, openStack } from '../stack/stack.ts';
import { loadAllHidden } from '../whiteouts/whiteout-sets.ts';
import type { ImageJob } from './contract.ts';
import { mergedInodes } from './merged-inodes.ts';

/** Throws what opening a stack throws, LIMIT for trees that an image cannot hold, NO_SPACE and IO. */
export function makeImage(job: ImageJob): void {
  const stack = openStack(job.stack);
  try {
    const hidden = loadAllHidden(job.whiteoutsDir, stack);
    const root = mergedInodes(stack, hidden, new Set(job.targets), job.layers.prefixes);
    const image = writeErofs(root, { uuid: Buffer.from(job.uuid, 'hex'), volumeName: 'strata' });
    writeFileDurably(job.file, image, 0o600);
  } finally {
    closeStack(stack);
  }
}
