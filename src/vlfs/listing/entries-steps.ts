/** The entries of a backing directory in steps: a private one may have millions, so nobody gathers them all. */
import { type DirectoryEntry, readSomeEntries } from '../../sys/index.ts';
import type { Steps } from '../steps.ts';

/** About 250 entries. */
const A_STEP_BYTES = 8192;

/** Gives the entries of an open directory to `use`, some at a time. 0 or a negative errno. The descriptor stays the caller's. */
export function* eachEntries(
  fd: number,
  use: (entries: DirectoryEntry[]) => Steps<void> | undefined,
): Steps<number> {
  for (;;) {
    const entries: DirectoryEntry[] = [];
    const more = readSomeEntries(fd, entries, A_STEP_BYTES);
    if (more <= 0) return more;
    const steps = use(entries);
    if (steps !== undefined) yield* steps;
    yield;
  }
}
