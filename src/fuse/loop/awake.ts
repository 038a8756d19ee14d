/**
 * Keeps idle processors from halting while requests come fast: who waits for a reply sleeps, and waking a processor that halted (in a virtual
 * machine: a way through the hypervisor) costs more than the whole request. The kernel's own means is /dev/cpu_dma_latency: as long as somebody
 * has it open with 0 in it, idle processors poll. It is held only while requests come at a high rate, and given up a moment after the
 * last one, so an idle mount costs nothing; the kernel takes it back when the process ends.
 */
import { availableParallelism } from 'node:os';
import * as sys from '../../sys/index.ts';

const DEVICE = '/dev/cpu_dma_latency';
/** On larger machines, many processors would poll for one that is waited for. */
const MOST_PROCESSORS = 4;
/** The rate is looked at after so many requests. */
const WINDOW = 64;
/** Requests that come further apart (in the mean of a window) are not worth it. */
const APART_MS = 0.1;
/** How long it is held after the last request. */
export const AWAKE_MS = 1;

export interface Awake {
  /** Counts requests. */
  served(count: number): void;
  /** It is held: before a longer sleep than AWAKE_MS, `release` must be called. */
  readonly held: boolean;
  release(): void;
}

/** `device` null: never held. `now`: milliseconds. */
export function createAwake(
  device: string | null = availableParallelism() <= MOST_PROCESSORS ? DEVICE : null,
  now: () => number = () => performance.now(),
): Awake {
  const none = new Uint8Array(4);
  let fd = -1;
  let count = 0;
  let began = 0;
  let possible = device !== null;

  function hold(): void {
    const opened = sys.openat(sys.AT_FDCWD, device!, sys.O_RDWR | sys.O_CLOEXEC);
    if (opened >= 0 && sys.write(opened, none, none.length) === none.length) fd = opened;
    else {
      possible = false;
      if (opened >= 0) sys.close(opened);
    }
  }

  function release(): void {
    count = 0;
    if (fd >= 0) sys.close(fd);
    fd = -1;
  }

  return {
    get held() {
      return fd >= 0;
    },
    served(more) {
      if (!possible) return;
      if (count === 0) began = now();
      count += more;
      if (count <= WINDOW) return;
      const fast = now() - began < count * APART_MS;
      count = 0;
      if (!fast) release();
      else if (fd < 0) hold();
    },
    release,
  };
}
