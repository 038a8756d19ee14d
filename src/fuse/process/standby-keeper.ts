/**
 * What a serving strata-fs keeps beside itself: the holder of its descriptors, and, while it serves mounts, a standby under a watching shell of its
 * own. Each is made again when it dies. With the shell of the serving process these are two shells, so whichever processes die, together or one after the
 * other, one is left that starts the next.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { pidfdOpen } from '../../sys/index.ts';
import type { Holding } from './holding.ts';
import type { DataPlanePaths } from './paths.ts';
import { lives, type ProcessMark } from './process-life.ts';
import { livingStandby } from './state.ts';
import type { Threads } from './threads.ts';
import { watched } from './watch.ts';

/** Until a standby is started: short uses need none, and one that was killed is started again by its own shell. */
const PATIENCE_MS = 1000;
const LONGEST_MS = 60_000;
/** Who dies again within this time is replaced after twice as long a time. */
const CALM_MS = 30_000;

export interface StandbyKeeper {
  /** A standby may be needed. */
  look(): void;
  stop(): void;
}

export interface StandbyKeeperOptions {
  paths: DataPlanePaths;
  /** The command line of a standby; null: none is kept. */
  command: readonly string[] | null;
  holding: Holding;
  /** Its threads wait for the ends of processes. */
  home: Threads;
  isNeeded(): boolean;
  log(line: string): void;
}

/** Resolves when that very process has ended. */
export async function ended(mark: ProcessMark, home: Threads): Promise<void> {
  const pidfd = pidfdOpen(mark.pid);
  if (pidfd < 0) return;
  // Closed by the thread. A number that was given to another process since is found out here.
  const end = home.serving[0]!.send({ kind: 'await-end', pidfd });
  if (lives(mark)) await end;
}

/** Waits between attempts, longer each time, until all was calm for a while. */
function createPatience(): () => Promise<void> {
  let waitMs = PATIENCE_MS;
  let last = Number.NEGATIVE_INFINITY;
  return async () => {
    const now = performance.now();
    waitMs = now - last < CALM_MS + waitMs ? Math.min(waitMs * 2, LONGEST_MS) : PATIENCE_MS;
    last = now;
    await delay(waitMs, undefined, { ref: false });
  };
}

export function createStandbyKeeper(o: StandbyKeeperOptions): StandbyKeeper {
  let stopped = false;
  let looking = false;

  async function keepStandby(command: readonly string[]): Promise<void> {
    const patience = createPatience();
    while (!stopped) {
      await patience();
      if (stopped || !o.isNeeded()) return;
      const standby = livingStandby(o.paths);
      if (standby !== null) await ended(standby.process, o.home);
      else start(command);
    }
  }

  function start(command: readonly string[]): void {
    const log = openSync(o.paths.log, 'a', 0o600);
    const [shell, args] = watched(o.paths.lock, o.paths.pid, command);
    const child = spawn(shell, args, { detached: true, stdio: ['ignore', log, log], cwd: '/' });
    closeSync(log);
    child.on('error', (error) => o.log(`no standby could be started: ${error.message}`));
    child.unref();
  }

  async function keepHolder(): Promise<void> {
    const patience = createPatience();
    let madeAt = Number.NEGATIVE_INFINITY;
    for (let holder = o.holding.holder(); ; holder = o.holding.holdAgain()) {
      if (holder !== null) await ended(holder, o.home);
      if (performance.now() - madeAt < PATIENCE_MS) await patience();
      if (stopped) return;
      o.log('nobody holds the descriptors; another holder is made');
      madeAt = performance.now();
    }
  }

  void keepHolder();
  return {
    look() {
      if (looking || stopped || o.command === null) return;
      looking = true;
      void keepStandby(o.command).finally(() => {
        looking = false;
      });
    },
    stop() {
      stopped = true;
    },
  };
}
