/**
 * A fresh private layer takes the place of an appliance's, which goes aside: renames that may be repeated until all of them are done. What is to be renamed is noted
 * in the work directory before it is decided, for a process that takes over in the midst.
 */
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { FreshPrivate, VlfsSpec } from '../contract.ts';
import { RELAYER_FILES, workDirOf } from '../private-layer/work-dir.ts';

const NOTE = `${RELAYER_FILES}-fresh.json`;

type Places = Pick<VlfsSpec, 'privateDir' | 'whiteoutsDir'>;

export function freshNote(workDir: string): string {
  return join(workDir, NOTE);
}

/** Safe to repeat: what has no fresh part any more is in place. */
export function placeFresh(
  { privateDir, whiteoutsDir }: Places,
  { from, to }: FreshPrivate,
  onStep: (step: string) => void = () => {},
): void {
  for (const [part, own] of [
    ['whiteouts', whiteoutsDir],
    ['private', privateDir],
  ] as const) {
    const fresh = join(from, part);
    if (!existsSync(fresh)) continue;
    onStep(`exchange: ${part} away`);
    if (existsSync(own)) renameSync(own, join(to, part));
    onStep(`exchange: ${part}`);
    renameSync(fresh, own);
  }
}

/** True when there is nothing left to place. */
export function isPlaced({ from }: FreshPrivate): boolean {
  return !existsSync(join(from, 'private'));
}

/** Before a VLFS is opened that a killed process served, which had decided an exchange. */
export function finishFresh(spec: Places): void {
  const note = freshNote(workDirOf(spec.privateDir));
  let fresh: FreshPrivate;
  try {
    fresh = JSON.parse(readFileSync(note, 'utf8'));
  } catch {
    // It is in place, or nothing was to be.
    return;
  }
  placeFresh(spec, fresh);
  rmSync(note, { force: true });
}
