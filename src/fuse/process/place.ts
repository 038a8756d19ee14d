/**
 * Who serves a state root: one process, and one that waits with everything loaded to take its place (the standby). Whoever starts asks
 * here what it is to be, under a lock that is held for moments and never by a process that has a holder, which would keep it.
 */
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { DataPlanePaths } from './paths.ts';
import { lives, markOf, type ProcessMark } from './process-life.ts';
import { livingStandby, readState, type State, writeStandby, writeState } from './state.ts';

const LOCK_EX = 2;

/** This process, and the shell that starts it again. */
export interface Self {
  mark: ProcessMark;
  watch: ProcessMark | null;
}

/** `isWatched`: a child of the watching shell. */
export function whoIAm(isWatched: boolean): Self {
  const mark = markOf(process.pid);
  if (mark === null) throw new StrataError('INTERNAL', '/proc is not mounted');
  return { mark, watch: isWatched ? markOf(process.ppid) : null };
}

export type Place =
  /** It serves from now on; `former` is what it takes over from. */
  { role: 'server'; former: State | null } | { role: 'standby'; server: ProcessMark } | { role: 'none' };

function isSame(a: ProcessMark, b: ProcessMark): boolean {
  return a.pid === b.pid && a.started === b.started;
}

function locked<T>(paths: DataPlanePaths, create: boolean, work: () => T): T | null {
  let lock: number;
  try {
    lock = openSync(paths.lock, create ? 'a' : constants.O_RDWR, 0o600);
  } catch (error) {
    if (create) throw error;
    return null;
  }
  try {
    if (sys.flock(lock, LOCK_EX) < 0) throw new StrataError('IO', `cannot lock ${paths.lock}`);
    return work();
  } finally {
    closeSync(lock);
  }
}

/** `onlyStandby`: started to wait; it serves only what another one left by its death. */
export function takePlace(paths: DataPlanePaths, self: Self, onlyStandby: boolean): Place {
  const place = locked(paths, !onlyStandby, (): Place => {
    const former = readState(paths);
    const standby = livingStandby(paths);
    const isMine = standby !== null && isSame(standby.process, self.mark);
    if (former !== null && lives(former.server)) {
      if (self.watch === null || former.ended === true || (standby !== null && !isMine))
        return { role: 'none' };
      if (!isMine) writeStandby(paths, { process: self.mark, watch: self.watch, ready: false });
      return { role: 'standby', server: former.server };
    }
    if (onlyStandby && (former === null || former.ended === true)) return { role: 'none' };
    if (standby === null || isMine) writeStandby(paths, null);
    // What stands there leads to the socket of the dead one, which its holder keeps open.
    rmSync(paths.socket, { force: true });
    const { holder = null, index = -1 } = former ?? {};
    writeState(paths, { server: self.mark, holder, index, watch: self.watch });
    return { role: 'server', former };
  });
  return place ?? { role: 'none' };
}

/** This standby has everything loaded. */
export function readyToServe(paths: DataPlanePaths, self: Self): void {
  locked(paths, false, () => {
    const standby = livingStandby(paths);
    if (standby !== null && isSame(standby.process, self.mark))
      writeStandby(paths, { ...standby, ready: true });
  });
}
