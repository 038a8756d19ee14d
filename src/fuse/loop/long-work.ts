/**
 * Long work of a serving thread, done a little at a time between requests. While requests come, each turn of it is followed by a rest twice as
 * long: a caller whose operation takes many round trips (a walk) would otherwise wait for a turn before each of them. Work that a request waits for (a listing
 * of a large directory) comes first, has shorter turns, and rests as long as they are, awake, and only while somebody asks without pause. When nobody asks for anything all of it goes on without rest.
 */

/** One turn: a request that comes meanwhile waits as long. */
const TURN_MS = 0.5;
const TURN_WHEN_WAITED_FOR_MS = 0.2;
/** A rest is so many times as long as the turn before it. */
const REST = 2;
const REST_WHEN_WAITED_FOR = 1;
/** Turns of work that is waited for, while there is other work: that must end, too, whoever lists without end. */
const MOST_IN_A_ROW = 20;
/** No request for so long: nobody waits. */
const QUIET_MS = 1;
/** No request for so long: nobody asks again as soon as he is answered. */
const PAUSE_MS = 0.1;

/** Does a part of some work, until about `untilMs` (performance.now()). True when all of it is done. */
export type LongTask = (untilMs: number) => boolean;

export interface LongWork {
  /** `waitedFor`: by a request. */
  add(task: LongTask, options?: { waitedFor?: boolean }): void;
  /** How long the thread may sleep before the next turn: whole milliseconds, or -1 when there is no work. */
  sleepMs(): number;
  /** Takes a turn when it is time. `served`: requests came since the last call. */
  turn(served: boolean): void;
}

/** `now` is replaced in tests. */
export function createLongWork(now: () => number = () => performance.now()): LongWork {
  const tasks: LongTask[] = [];
  const waitedFor: LongTask[] = [];
  let inARow = 0;
  let restEnds = Number.NEGATIVE_INFINITY;
  let lastRequest = Number.NEGATIVE_INFINITY;

  const isWaitedFor = (): boolean => waitedFor.length > 0 && (tasks.length === 0 || inARow < MOST_IN_A_ROW);

  const rests = (time: number): boolean =>
    time < restEnds && time - lastRequest < (isWaitedFor() ? PAUSE_MS : QUIET_MS);

  return {
    add: (task, options) => void (options?.waitedFor === true ? waitedFor : tasks).push(task),
    sleepMs() {
      if (tasks.length + waitedFor.length === 0) return -1;
      return waitedFor.length === 0 && rests(now()) ? 1 : 0;
    },
    turn(served) {
      if (tasks.length + waitedFor.length === 0) return;
      const began = now();
      if (served) lastRequest = began;
      if (rests(began)) return;
      const waits = isWaitedFor();
      inARow = waits ? inARow + 1 : 0;
      const queue = waits ? waitedFor : tasks;
      const task = queue.shift()!;
      if (!task(began + (waits ? TURN_WHEN_WAITED_FOR_MS : TURN_MS))) queue.push(task);
      const ended = now();
      restEnds = ended + (ended - began) * (waits ? REST_WHEN_WAITED_FOR : REST);
    },
  };
}
