/**
 * Keeps strata-fs, the data-plane process, within reach: starts or finds it when it is first needed, notices its death, finds the
 * one that took over (its own parent starts that) or starts one, and has the mounts made again that nobody could take over. Callers hold one
 * DataPlane for good; every call goes to the process that lives at that moment, and what may be repeated is when that dies.
 */
import { asStrataError, StrataError } from '../base/index.ts';
import type { DataPlane } from '../fuse/contract.ts';
import type { Log } from './log.ts';

const POLL_MS = 50;
/** Deaths within this time are counted; after each the next start waits longer. */
const STORM_MS = 60_000;

export interface SupervisorOptions {
  log: Log;
  /** The running data plane, or null. */
  connect(): Promise<DataPlane | null>;
  /** Starts it. */
  start(): Promise<DataPlane>;
  /** Makes the recorded mounts again that a dead data plane left; returns the mountpoints. */
  recover(plane: DataPlane): Promise<string[]>;
  /** Whether a process lives; replaced in tests. */
  isAlive?: (pid: number) => boolean;
}

export interface Supervisor {
  /** Delegates every call to the living process. */
  plane: DataPlane;
  /** At start of the daemon: finds the running data plane, or restarts the one that mounts were left by. */
  adopt(hasMounts: boolean): Promise<void>;
  /** The process id as last known, or null when none runs. */
  pid(): number | null;
  /** The process is about to be ended on purpose: its death is not answered by a new one. */
  retire(): void;
  /** Stops watching; the process itself goes on. */
  close(): void;
}

export function superviseDataPlane(options: SupervisorOptions): Supervisor {
  const { log, isAlive = processLives } = options;
  let current: { plane: DataPlane; pid: number } | null = null;
  let opening: Promise<{ plane: DataPlane; pid: number }> | null = null;
  let deaths: number[] = [];
  let closed = false;

  const attach = async (plane: DataPlane, how: string) => {
    const { pid } = await plane.status();
    current = { plane, pid };
    log('info', `data plane ${how}`, { pid });
    return current;
  };
  const recover = async (plane: DataPlane) => {
    try {
      const mountpoints = await options.recover(plane);
      if (mountpoints.length > 0) log('info', 'mounts made again', { mountpoints });
    } catch (error) {
      log('error', 'mounts could not be made again', { error: asStrataError(error).message });
    }
  };
  const open = (): Promise<{ plane: DataPlane; pid: number }> => {
    if (current && isAlive(current.pid)) return Promise.resolve(current);
    opening ??= (async () => {
      current?.plane.close();
      current = null;
      const found = await options.connect();
      const opened = found ? await attach(found, 'found') : await attach(await options.start(), 'started');
      await recover(opened.plane);
      return opened;
    })().finally(() => {
      opening = null;
    });
    return opening;
  };

  const watch = setInterval(() => {
    if (closed || opening || !current || isAlive(current.pid)) return;
    log('error', 'data plane died; starting it again', { pid: current.pid });
    const now = Date.now();
    deaths = [...deaths.filter((at) => now - at < STORM_MS), now];
    const delayMs = deaths.length < 3 ? 0 : Math.min(30_000, 500 * 2 ** (deaths.length - 3));
    current.plane.close();
    current = null;
    setTimeout(() => {
      if (closed) return;
      open().catch((error) =>
        log('error', 'data plane did not start', { error: asStrataError(error).message }),
      );
    }, delayMs);
  }, POLL_MS);
  watch.unref();

  /** Once more when the process died meanwhile. `done`: an error of the second time that says that the first had been carried out. */
  const again = async <T>(call: (plane: DataPlane) => Promise<T>, done?: (error: StrataError) => boolean) => {
    const first = await open();
    try {
      return await call(first.plane);
    } catch (error) {
      if (!(error instanceof StrataError) || error.code !== 'DAEMON' || isAlive(first.pid)) throw error;
    }
    log('info', 'asks the data plane again', { died: first.pid });
    try {
      return await call((await open()).plane);
    } catch (error) {
      if (error instanceof StrataError && done?.(error) === true) return undefined as T;
      throw error;
    }
  };

  return {
    plane: {
      mount: (request) =>
        again(
          (plane) => plane.mount(request),
          (error) => error.code === 'EXISTS',
        ),
      unmount: (mountpoint, o) =>
        again(
          (plane) => plane.unmount(mountpoint, o),
          (error) => error.code === 'NOT_FOUND',
        ),
      relayer: (changes) => again((plane) => plane.relayer(changes)),
      prepareFreeze: async (change) => (await open()).plane.prepareFreeze(change),
      // Not again: it may have been done, and doing it twice would undo it.
      freeze: async (change) => (await open()).plane.freeze(change),
      follow: (id) => again((plane) => plane.follow(id)),
      // What the first time reverted already is not named by the second.
      revert: (id, paths) => again((plane) => plane.revert(id, paths)),
      reset: (id, keep) => again((plane) => plane.reset(id, keep)),
      exchange: (change) => again((plane) => plane.exchange(change)),
      readScanState: () => again((plane) => plane.readScanState()),
      status: () => again((plane) => plane.status()),
      find: (what) => again((plane) => plane.find(what)),
      close: () => {},
    },
    adopt: async (hasMounts) => {
      const found = await options.connect();
      if (found) await recover((await attach(found, 'found')).plane);
      else if (hasMounts) await open();
    },
    pid: () => (current && isAlive(current.pid) ? current.pid : null),
    retire: () => {
      clearInterval(watch);
    },
    close: () => {
      closed = true;
      clearInterval(watch);
      current?.plane.close();
      current = null;
    },
  };
}

function processLives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
