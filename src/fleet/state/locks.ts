/**
 * Locks by name inside one process: a command holds the locks of the objects it changes for as long as it works, and the lock
 * 'commit' only for the short moment of its commit. Taken in one order everywhere
 * (repositories, templates, appliances, commit), also by commands that take more while they hold some, so they cannot deadlock.
 */
import { inPinScope } from '../gc/pins.ts';

export interface Locks {
  /** Runs `work` while all `names` are held. Waiters are served in order. */
  with<T>(names: string[], work: () => T | Promise<T>): Promise<T>;
}

export const COMMIT = 'commit';

const RANKS = ['repository:', 'template:', 'appliance:', COMMIT];

function order(name: string): string {
  return `${RANKS.findIndex((rank) => name.startsWith(rank))} ${name}`;
}

export function createLocks(): Locks {
  const tails = new Map<string, Promise<void>>();

  async function acquire(name: string): Promise<() => void> {
    const before = tails.get(name) ?? Promise.resolve();
    let release!: () => void;
    const mine = new Promise<void>((done) => {
      release = done;
    });
    const tail = before.then(() => mine);
    tails.set(name, tail);
    await before;
    return () => {
      release();
      if (tails.get(name) === tail) tails.delete(name);
    };
  }

  return {
    async with(names, work) {
      const releases: (() => void)[] = [];
      try {
        const sorted = [...new Set(names)].sort((a, b) => (order(a) < order(b) ? -1 : 1));
        for (const name of sorted) releases.push(await acquire(name));
        return await inPinScope(work);
      } finally {
        for (const release of releases.reverse()) release();
      }
    },
  };
}
