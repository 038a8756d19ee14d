/**
 * The standby: a strata-fs with everything loaded and its threads running, which waits for the end of the serving one and takes its place within
 * milliseconds. It ends when the shell that would start it again has ended, so that a standby always has one.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import type { DataPlanePaths } from './paths.ts';
import { type Place, readyToServe, type Self, takePlace } from './place.ts';
import { lives, type ProcessMark } from './process-life.ts';
import { ended } from './standby-keeper.ts';
import type { State } from './state.ts';
import type { Threads } from './threads.ts';

/** Niceness of a process that loads: whoever just took over is busy and comes first, but on a busy machine it must get ready too. */
const BEHIND = 5;
const POLL_MS = 10;

/**
 * Of all threads there are; those that come inherit it. Where the scheduler shares among sessions first (autogroups), a thread's own niceness counts only beside those of its session: so that of the
 * session, which is this process's own, is set too.
 */
function setNiceness(niceness: number): void {
  try {
    writeFileSync('/proc/self/autogroup', String(niceness));
  } catch {
    // A kernel without them.
  }
  for (const thread of readdirSync('/proc/self/task')) {
    try {
      setPriority(Number(thread), niceness);
    } catch {
      // It ended meanwhile.
    }
  }
}

/** A process that was to wait, and serves at once: the one before it in this session may have died while it loaded. */
export function comeForward(): void {
  setNiceness(0);
}

/** Lets this process load behind others while the server lives. Returns what ends that: to be called when all threads have loaded. */
export function loadBehind(server: ProcessMark): () => void {
  setNiceness(BEHIND);
  const timer = setInterval(() => {
    if (lives(server)) return;
    clearInterval(timer);
    setNiceness(0);
  }, POLL_MS);
  return () => {
    clearInterval(timer);
    setNiceness(0);
  };
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
