/** Steps of a VLFS that requests or the server carry on. When the VLFS closes, what they hold open is closed too. */
import type { SlowJob } from '../contract.ts';
import type { Core } from '../core.ts';
import { advance, type Steps } from '../steps.ts';

/** As `advance`; the steps are given up when the VLFS closes before their end. */
export function carryOn<T>(core: Core, steps: Steps<T>, untilMs: number): { result: T } | SlowJob | 'more' {
  core.unfinished.add(steps);
  let ended = true;
  try {
    const went = advance(steps, untilMs);
    ended = went !== 'more' && 'result' in went;
    return went;
  } finally {
    if (ended) core.unfinished.delete(steps);
  }
}

export function giveUpUnfinished(core: Core): void {
  for (const steps of core.unfinished) steps.return(undefined);
  core.unfinished.clear();
}
