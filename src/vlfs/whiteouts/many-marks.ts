/**
 * A file that very many frozen layers hold (clones of clones that were never merged) is removed by as many marks. All but the last ones are written before, in steps between
 * the requests: they hide what lies below what shows, so nobody sees anything of it. A directory is not removed so: a mark takes the place of those below it, and what they
 * hid would show until the last one.
 */
import { type Caller, PENDING } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core } from '../core.ts';
import type { Reference } from '../stack/merged-directory.ts';
import { hide } from './whiteouts.ts';

/** Marks that an operation may write itself. */
const MANY = 32;

/** PENDING when the removal of a file would have to write too many marks, else 0. `refs`: what it hides, top first; `now` tells it anew. */
export function manyMarks(
  core: Core,
  caller: Caller,
  refs: readonly Reference[],
  now: () => readonly Reference[],
): number {
  if (refs.length <= MANY || now().length <= MANY) return 0;
  caller.job = slowJob('retry', {
    kind: 'steps',
    advance(untilMs) {
      do {
        const left = now();
        if (left.length <= MANY) return 0;
        const hidden = hide(core, left.slice(-MANY));
        if (hidden < 0) return hidden;
      } while (performance.now() < untilMs);
      return null;
    },
  });
  return PENDING;
}
