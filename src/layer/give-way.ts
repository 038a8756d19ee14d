/** Long work on the main thread lets timers and sockets run every few milliseconds. */
import { setImmediate as nextTurn } from 'node:timers/promises';

const TURN_MS = 8;

/** Returns a function that waits for one turn of the event loop when the last one was more than 8 ms ago. Call it often: it is cheap. */
export function turnKeeper(): () => Promise<void> | undefined {
  let since = performance.now();
  return () => {
    if (performance.now() - since < TURN_MS) return undefined;
    return nextTurn().then(() => {
      since = performance.now();
    });
  };
}
