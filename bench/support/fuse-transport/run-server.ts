/** Mounts with a server process each time, for bench/fuse-transport.ts. This process keeps the descriptors, as the holder of strata-fs does, and never looks into a mount. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { mountFuse } from '../../../src/fuse/transport/device.ts';
import * as sys from '../../../src/sys/index.ts';
import { PHASE, readStats, STATS } from './stats.ts';

export const TRANSPORTS = ['descriptor', 'ring'] as const;
export type Transport = (typeof TRANSPORTS)[number];

const PARAMETER = '/sys/module/fuse/parameters/enable_uring';
const START_MS = 10_000;
const END_MS = 2_000;

/** Lets connections be served by rings until the returned function is called, or this process ends. Throws where the kernel cannot. */
export function allowRings(): () => void {
  if (!existsSync(PARAMETER)) throw new Error(`no FUSE over io_uring here (Linux 6.14): no ${PARAMETER}`);
  const former = readFileSync(PARAMETER, 'latin1');
  const restore = (): void => writeFileSync(PARAMETER, former);
  process.once('exit', restore);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1));
  writeFileSync(PARAMETER, 'Y');
  return restore;
}

export interface ServerOptions {
  work: string;
  transport: Transport;
  spinUs: number;
  mounts?: number;
  /** Entries of a queue. */
  depth?: number;
  /** The only processor it may use. */
  processor?: number;
}

export interface Served {
  mountpoints: string[];
  stats: string;
  /** Another process serves the connections when the first one was killed; returns when it says that it is ready. */
  takeOver(): Promise<void>;
  readonly server: ChildProcess;
}

/** A command that may use one processor only, or all. */
export function onProcessor(processor: number | undefined, command: string[]): [string, string[]] {
  const all = processor === undefined ? command : ['taskset', '-c', String(processor), ...command];
  return [all[0]!, all.slice(1)];
}

/** Runs `use` with a server; whatever happens, nothing of it is left. */
export async function withServer<T>(options: ServerOptions, use: (served: Served) => Promise<T>): Promise<T> {
  const { work, transport, spinUs, mounts = 1, depth = 1, processor } = options;
  const stats = join(work, 'stats');
  const mountpoints = Array.from({ length: mounts }, (_, i) => join(work, `mnt-${i}`));
  const fds: number[] = [];
  let server: ChildProcess | null = null;

  async function start(...more: string[]): Promise<void> {
    writeFileSync(stats, Buffer.alloc(STATS.size));
    const program = join(import.meta.dirname, 'server.ts');
    const numbers = [spinUs, mounts, depth].map(String);
    const command = [process.execPath, program, transport, ...numbers, stats, ...more];
    server = spawn(...onProcessor(processor, command), { stdio: ['ignore', 'inherit', 'inherit', ...fds] });
    for (const end = Date.now() + START_MS; readStats(stats).phase !== PHASE.ready; await delay(5)) {
      if (server.exitCode !== null || server.signalCode !== null || Date.now() > end)
        throw new Error(`the server of the transport '${transport}' did not start`);
    }
  }

  // A connection that is in use is ended, whatever is under way.
  const unmount = (): void => {
    for (const mountpoint of mountpoints) {
      if (sys.umount(mountpoint) < 0) sys.umount(mountpoint, sys.MNT_FORCE | sys.MNT_DETACH);
    }
  };
  const abandon = (): void => {
    unmount();
    server?.kill('SIGKILL');
  };
  // Before what was registered earlier: the caller's directory is removed when nothing is mounted in it.
  process.prependOnceListener('exit', abandon);

  try {
    for (const mountpoint of mountpoints) {
      mkdirSync(mountpoint, { recursive: true });
      mountFuse(mountpoint, false, (fd) => fds.push(fd));
    }
    await start();
    return await use({
      mountpoints,
      stats,
      takeOver: () => start('resume'),
      get server() {
        return server!;
      },
    });
  } finally {
    unmount();
    process.removeListener('exit', abandon);
    for (const fd of fds) sys.close(fd);
    await ended(server);
  }
}

/** Waits until a process has ended; ends it when it does not do so by itself. */
async function ended(child: ChildProcess | null): Promise<void> {
  for (
    const end = Date.now() + END_MS;
    child !== null && child.exitCode === null && child.signalCode === null;
  ) {
    if (Date.now() > end) child.kill('SIGKILL');
    await delay(5);
  }
}
