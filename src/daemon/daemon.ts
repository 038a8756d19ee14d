/**
 * stratad's life: takes the lock of its state root, finds the data plane, opens the fleet (which recovers what a crash left),
 * listens, and on SIGTERM or a stop request finishes what runs and leaves. Mounts never depend on it: the data
 * plane goes on serving them. Its parts are given from outside, so that tests can run it over others.
 */
import { chmodSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError, noProgress, StrataError } from '../base/index.ts';
import type { Fleet, FleetOptions } from '../fleet/contract.ts';
import type { DataPlane } from '../fuse/contract.ts';
import { API_VERSION, buildId, type DaemonInfo, packageVersion } from './contract.ts';
import { acquireInstance } from './instance.ts';
import { createJobs } from './jobs.ts';
import { type Log, openLog } from './log.ts';
import { createMetrics } from './metrics.ts';
import { buildServer } from './server.ts';
import { unmountForStop } from './stop.ts';
import { superviseDataPlane } from './supervisor.ts';

/** How long a stop waits for running work; what is cut off then is rolled back or forward at the next start. */
const FINISH_MS = 60_000;

/** How long after its end an appliance may still be there. */
const EXPIRE_EVERY_MS = 5_000;

export interface DataPlaneParts {
  connect(root: string): Promise<DataPlane | null>;
  start(root: string): Promise<DataPlane>;
  recover(root: string, plane: DataPlane): Promise<string[]>;
  /** Ends the process; another one takes over what it serves at once. */
  restart(root: string): Promise<void>;
  /** Ends a data plane that serves nothing any more; `force` also takes its mounts away. */
  shutdown(root: string, options: { force: boolean }): Promise<void>;
}

export interface DaemonParts {
  openFleet(options: FleetOptions): Promise<Fleet>;
  dataPlane: DataPlaneParts;
}

export interface DaemonOptions {
  root: string;
  parts: DaemonParts;
  /** Repeat the log on stderr. */
  foreground?: boolean;
}

export interface RunningDaemon {
  info: DaemonInfo;
  /** Finishes running work, closes everything and gives up the lock. Once only; further calls wait for the first. */
  stop(): Promise<void>;
  /** Resolves when it has stopped, for whatever reason. */
  stopped: Promise<void>;
}

/** Starts stratad in this process. Throws BUSY when another one serves the root, DENIED when not root. */
export async function runDaemon(options: DaemonOptions): Promise<RunningDaemon> {
  const { root, parts } = options;
  if (process.getuid?.() !== 0) {
    throw new StrataError('DENIED', 'stratad must run as root', { hint: 'use sudo' });
  }
  const begun = performance.now();
  const instance = acquireInstance(root);
  const fileLog = openLog({ file: instance.paths.log });
  const log: Log = options.foreground
    ? (level, message, fields) => {
        fileLog(level, message, fields);
        process.stderr.write(`stratad: ${level}: ${message}${fields ? ` ${JSON.stringify(fields)}` : ''}\n`);
      }
    : fileLog;
  const identity = { pid: process.pid, version: packageVersion(), build: buildId(), api: API_VERSION, root };
  const info = () => ({ ...identity, uptime_ms: Math.round(performance.now() - begun) });
  log('info', 'stratad starts', identity);

  const supervisor = superviseDataPlane({
    log,
    connect: () => parts.dataPlane.connect(root),
    start: () => parts.dataPlane.start(root),
    recover: (plane) => parts.dataPlane.recover(root, plane),
  });
  const jobs = createJobs();
  const stopped = Promise.withResolvers<void>();
  let stopping: Promise<void> | null = null;
  let expiry: NodeJS.Timeout | undefined;
  try {
    await supervisor.adopt(hasMountRecords(root)).catch((error) => {
      // Appliances stay manageable while their file systems cannot be served.
      log('error', 'the data plane is not available', { error: asStrataError(error).message });
    });
    const fleet = await parts.openFleet({
      root,
      dataPlane: async () => supervisor.plane,
      background: (target, work) => {
        jobs
          .run({ method: 'clone', target, onProgress: noProgress, inBackground: true }, work)
          .catch((error) => {
            log('warn', 'work in the background failed', { target, error: asStrataError(error).message });
          });
      },
    });
    const stop = (): Promise<void> => {
      stopping ??= (async () => {
        log('info', 'stratad stops', { running: jobs.running() });
        clearInterval(expiry);
        const closing = app.close();
        if (!(await jobs.idle(FINISH_MS))) log('warn', 'stopped with work running', { jobs: jobs.running() });
        await Promise.race([closing, delay(2_000)]);
        await fleet.close();
        supervisor.close();
        log('info', 'stratad stopped');
        instance.release();
        stopped.resolve();
      })();
      return stopping;
    };
    const app = await buildServer({
      log,
      metrics: createMetrics(),
      context: {
        fleet,
        jobs,
        info,
        stop: async (request) => {
          if (request.keepMounts) await parts.dataPlane.restart(root);
          const result = request.keepMounts
            ? { unmounted: [], busy: [] }
            : await unmountForStop({
                fleet,
                plane: supervisor.pid() === null ? null : supervisor.plane,
                force: request.force ?? false,
                shutdown: (force) => {
                  supervisor.retire();
                  return parts.dataPlane.shutdown(root, { force });
                },
                log,
              });
          // The answer leaves first.
          setTimeout(() => void stop(), 20);
          return { pid: process.pid, ...result };
        },
      },
    });
    const umask = process.umask(0o177);
    try {
      await app.listen({ path: instance.paths.socket });
    } finally {
      process.umask(umask);
    }
    chmodSync(instance.paths.socket, 0o600);
    expiry = expireInTurn(fleet, log);
    log('info', 'stratad is ready', { ms: Math.round(performance.now() - begun) });
    return { info: info(), stop, stopped: stopped.promise };
  } catch (error) {
    log('error', 'stratad did not start', { error: asStrataError(error).message });
    supervisor.close();
    instance.release();
    throw error;
  }
}

/** Deletes the appliances whose time is over, every few seconds; a look at an index each. What is in use is looked at again. */
function expireInTurn(fleet: Fleet, log: Log): NodeJS.Timeout {
  let busy = false;
  const look = async (): Promise<void> => {
    if (busy) return;
    busy = true;
    try {
      const { expired } = await fleet.expire({});
      if (expired.length > 0) log('info', 'expired', { deleted: expired });
    } catch (error) {
      log('warn', 'expire', { error: asStrataError(error).message });
    } finally {
      busy = false;
    }
  };
  return setInterval(() => void look(), EXPIRE_EVERY_MS).unref();
}

function hasMountRecords(root: string): boolean {
  try {
    return readdirSync(join(root, 'run/mounts')).some((file) => file.endsWith('.json'));
  } catch {
    return false;
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
