/**
 * Which threads serve which VLFS. A serving thread waits for the file system below it (opens, creates, directories), and with it all its
 * mounts. So VLFSs share threads only when they stand on the same file systems: those that stand where the state root does share the threads that
 * are always there; others get threads and a blocking pool of their own, which end with the last of them. A disk that is slow or hangs
 * stops nobody else.
 */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { ServingThread, Threads } from './threads.ts';

export interface ThreadGroups {
  /** The thread for one more VLFS; to be given back with `leave`. Waits for the file systems of the VLFS. */
  join(spec: VlfsSpec): Promise<ServingThread>;
  leave(thread: ServingThread): void;
  all(): ServingThread[];
  /** Ends all threads; mounts must be gone. */
  stop(): Promise<void>;
}

/** Groups beside the one of the state root; file systems beyond that share them. */
const MOST_GROUPS = 8;

/** `home`: the threads that are always there. `start` makes the threads of a further group. */
export function createThreadGroups(root: string, home: Threads, start: () => Threads): ThreadGroups {
  const others = new Map<string, Threads>();
  const groupOf = new Map<ServingThread, string | null>();
  const loadOf = (threads: Threads): number => threads.serving.reduce((sum, t) => sum + t.load, 0);

  function groupFor(devices: string, ofRoot: string): { threads: Threads; key: string | null } {
    if (devices === ofRoot) return { threads: home, key: null };
    const known = others.get(devices);
    if (known !== undefined) return { threads: known, key: devices };
    if (others.size >= MOST_GROUPS) {
      const [key, threads] = [...others].reduce((least, one) =>
        loadOf(one[1]) < loadOf(least[1]) ? one : least,
      );
      return { threads, key };
    }
    const threads = start();
    others.set(devices, threads);
    return { threads, key: devices };
  }

  return {
    async join(spec) {
      const [devices, ofRoot] = await Promise.all([devicesOf(placesOf(spec)), devicesOf([root])]);
      const { threads, key } = groupFor(devices, ofRoot);
      const thread = threads.serving.reduce((least, t) => (t.load < least.load ? t : least));
      thread.load++;
      groupOf.set(thread, key);
      return thread;
    },
    leave(thread) {
      thread.load--;
      const key = groupOf.get(thread) ?? null;
      const threads = key === null ? undefined : others.get(key);
      if (key === null || threads === undefined || loadOf(threads) > 0) return;
      others.delete(key);
      for (const one of threads.serving) groupOf.delete(one);
      void threads.stop();
    },
    all: () => [home, ...others.values()].flatMap((threads) => threads.serving),
    async stop() {
      await Promise.all([home, ...others.values()].map((threads) => threads.stop()));
    },
  };
}

const repositories = new WeakMap<StackSpec, string[]>();

/** Where a VLFS's files are: its private layer, and the repositories of its levels. */
function placesOf({ privateDir, stack }: VlfsSpec): string[] {
  let dirs = repositories.get(stack);
  if (dirs === undefined) {
    dirs = [...new Set(stack.levels.map(({ treeDir }) => dirname(dirname(treeDir))))];
    repositories.set(stack, dirs);
  }
  return [privateDir, ...dirs];
}

/** The device numbers of the file systems that hold these paths; what does not exist counts as its directory. */
async function devicesOf(paths: string[]): Promise<string> {
  const devices = new Set(await Promise.all(paths.map(deviceOf)));
  return [...devices].sort((a, b) => a - b).join(' ');
}

async function deviceOf(path: string): Promise<number> {
  try {
    return (await stat(path)).dev;
  } catch {
    const parent = dirname(path);
    return parent === path ? 0 : deviceOf(parent);
  }
}
