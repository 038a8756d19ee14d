/**
 * The standby: a strata-fs with everything loaded and its threads running, which waits for the end of the serving one and takes its place within
 * milliseconds. It ends when the shell that would start it again has ended, so that a standby always has one.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { DataPlanePaths } from './paths.ts';
import { type Place, readyToServe, type Self, takePlace } from './place.ts';
import { lives, type ProcessMark } from './process-life.ts';
import { ended } from './standby-keeper.ts';
import type { State } from './state.ts';
import type { Threads } from './threads.ts';

/** Loading takes processors from those who just took over and are busy. */
const GENTLE_MS = 500;
const GENTLE_POLL_MS = 25;

/** Until it is a good moment to load, or until the server is dead and it cannot be too soon. */
export async function beforeLoading(server: ProcessMark): Promise<void> {
  for (let waited = 0; waited < GENTLE_MS && lives(server); waited += GENTLE_POLL_MS)
    await delay(GENTLE_POLL_MS);
}

/** Resolves with what the dead server left when it is this process's turn, or null when it is to end. */
export async function waitForTurn(
  paths: DataPlanePaths,
  self: Self,
  home: Threads,
  server: ProcessMark,
): Promise<State | null> {
  readyToServe(paths, self);
  const orphaned = self.watch === null ? new Promise<void>(() => {}) : ended(self.watch, home);
  const end = orphaned.then(() => 'orphaned' as const);
  let place: Place = { role: 'standby', server };
  while (place.role === 'standby') {
    if ((await Promise.race([ended(place.server, home), end])) === 'orphaned') return null;
    place = takePlace(paths, self, true);
  }
  return place.role === 'server' ? place.former : null;
}
