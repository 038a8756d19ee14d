/**
 * Long work of a serving thread, done a little at a time between requests. While requests come, each turn of it is followed by a rest twice as
 * long: a caller whose operation takes many round trips (a listing, a walk) would otherwise wait for a turn before each of them. When nobody asks
 * for anything it goes on without rest.
 */

/** One turn: a request that comes meanwhile waits as long. */
const TURN_MS = 0.5;
/** A rest is so many times as long as the turn before it. */
const REST = 2;
/** No request for so long: nobody waits. */
const QUIET_MS = 1;

/** Does a part of some work, until about `untilMs` (performance.now()). True when all of it is done. */
export type LongTask = (untilMs: number) => boolean;

export interface LongWork {
  add(task: LongTask): void;
  /** How long the thread may sleep before the next turn: whole milliseconds, or -1 when there is no work. */
  sleepMs(): number;
  /** Takes a turn when it is time. `served`: requests came since the last call. */
  turn(served: boolean): void;
}

/** `now` is replaced in tests. */
export function createLongWork(now: () => number = () => performance.now()): LongWork {
  const tasks: LongTask[] = [];
  let restEnds = Number.NEGATIVE_INFINITY;
  let lastRequest = Number.NEGATIVE_INFINITY;

  const rests = (time: number): boolean => time < restEnds && time - lastRequest < QUIET_MS;

  return {
    add: (task) => void tasks.push(task),
    sleepMs() {
      if (tasks.length === 0) return -1;
      return rests(now()) ? 1 : 0;
    },
    turn(served) {
      if (tasks.length === 0) return;
      const began = now();
      if (served) lastRequest = began;
      if (rests(began)) return;
      const task = tasks.shift()!;
      if (!task(began + TURN_MS)) tasks.push(task);
      const ended = now();
      restEnds = ended + (ended - began) * REST;
    },
  };
}
