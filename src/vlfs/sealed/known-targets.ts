/**
 * Which redirects a private layer had before the kernel wrote to it: a file `sealed-targets` beside private/, paths in the layers ended by NUL. Redirects that
 * are not in it were made by the kernel over an image, which did not show what whiteouts had hidden before.
 */
import { readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { asStrataError } from '../../base/index.ts';
import { writeFileDurably } from '../../layer/index.ts';

function file(privateDir: string): string {
  return join(dirname(privateDir), 'sealed-targets');
}

/** The targets of the last `rememberTargets`. */
export function knownTargets(privateDir: string): Set<string> {
  try {
    return new Set(readFileSync(file(privateDir), 'latin1').split('\0').filter(Boolean));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Set();
    throw asStrataError(error);
  }
}

/** Durable when it returns. */
export function rememberTargets(privateDir: string, targets: readonly string[]): void {
  if (targets.length === 0) rmSync(file(privateDir), { force: true });
  else writeFileDurably(file(privateDir), Buffer.from(targets.map((path) => `${path}\0`).join(''), 'latin1'));
}
