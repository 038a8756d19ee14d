/** Sorting in short steps, whatever the order of what comes: runs are sorted, then merged two by two. */
import type { Steps } from '../steps.ts';

/** Items of a run, and those that are merged between two steps. */
const RUN = 1024;

/** A sorted copy (the array itself when it is short, in place). */
export function* sortSteps<T>(items: T[], compare: (a: T, b: T) => number): Steps<T[]> {
  if (items.length <= RUN) return items.sort(compare);
  let runs: T[][] = [];
  for (let at = 0; at < items.length; at += RUN) {
    runs.push(items.slice(at, at + RUN).sort(compare));
    yield;
  }
  while (runs.length > 1) {
    const next: T[][] = [];
    for (let i = 0; i < runs.length; i += 2) {
      const [a, b] = [runs[i]!, runs[i + 1]];
      next.push(b === undefined ? a : yield* merge(a, b, compare));
    }
    runs = next;
  }
  return runs[0]!;
}

function* merge<T>(a: readonly T[], b: readonly T[], compare: (a: T, b: T) => number): Steps<T[]> {
  const merged: T[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const takesA = j >= b.length || (i < a.length && compare(a[i]!, b[j]!) <= 0);
    merged.push(takesA ? a[i++]! : b[j++]!);
    if (merged.length % RUN === 0) yield;
  }
  return merged;
}
