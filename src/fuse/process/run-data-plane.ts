/** The life of the strata-fs process: lock, threads, socket, signals, end. */
import { chmodSync, closeSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { asStrataError, StrataError } from '../../base/index.ts';
import { flock, raiseOpenFiles } from '../../sys/index.ts';
import type { DataPlaneStatus, MountRequest } from '../contract.ts';
import { createLog } from './log.ts';
import { openMountRecords } from './mount-records.ts';
import { createMountTable, type MountTable } from './mount-table.ts';
import { dataPlanePaths } from './paths.ts';
import { createThreadGroups } from './thread-groups.ts';
import { startThreads, type ThreadOptions } from './threads.ts';
import { createLineReader, encodeLine, unpackRelayer, type WireRelayer, type WireRequest } from './wire.ts';

export interface DataPlaneOptions {
  root: string;
  /** Module that exports openVlfs. */
  vlfsModule: string;
  /** Microseconds that a serving thread looks for the next request before it sleeps; see bench/fuse-roundtrip.ts. */
  spinUs?: number | undefined;
  /** Objects that the VLFSs of a serving thread may know, for tests. */
  mostNodes?: number | undefined;
}

const DEFAULT_SPIN_US = 50;
const OPEN_FILES = 1 << 20;
/** Below every ordinary process: losing strata-fs loses all mounts. */
const OOM_SCORE = -900;
const LOCK_EX_NB = 6;

export async function runDataPlane(options: DataPlaneOptions): Promise<void> {
  const paths = dataPlanePaths(options.root);
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  chmodSync(paths.runDir, 0o700);
  const lock = openSync(paths.lock, 'a', 0o600);
  if (flock(lock, LOCK_EX_NB) < 0) throw new StrataError('BUSY', `another strata-fs serves ${options.root}`);
  process.title = 'strata-fs';
  // Files made through a mount get exactly the mode asked for.
  process.umask(0);
  const log = createLog(paths.log);
  protect(log);

  const threadOptions: ThreadOptions = {
    vlfsModule: options.vlfsModule,
    spinUs: options.spinUs ?? DEFAULT_SPIN_US,
    mostNodes: options.mostNodes,
    onGone: (id) => {
      mounts.gone(id);
      log(`${id}: unmounted`);
      endIfDone();
    },
    onLog: log,
    onDeath: (what) => {
      log(`${what} died; strata-fs ends, stratad starts it again`);
      process.kill(process.pid, 'SIGKILL');
    },
  };
  const threads = createThreadGroups(options.root, startThreads(threadOptions), () =>
    startThreads({ ...threadOptions, count: 1 }),
  );
  const records = openMountRecords(paths);
  records.sweep();
  const mounts: MountTable = createMountTable(threads, records);
  let ending = false;
  let ended = false;

  /** After a shutdown was asked for: ends when the last connection is gone. */
  function endIfDone(): void {
    if (!ending || ended || mounts.size() > 0) return;
    ended = true;
    log('ends');
    rmSync(paths.socket, { force: true });
    rmSync(paths.pid, { force: true });
    void threads.stop().finally(() => {
      closeSync(lock);
      process.exit(0);
    });
  }

  async function shutdown(force: boolean): Promise<string[]> {
    const left = await mounts.unmountAll(force);
    records.sweep();
    ending = left.length === 0;
    setImmediate(endIfDone);
    return left;
  }

  async function status(): Promise<DataPlaneStatus> {
    const { mounts: list, lingering, features, passthroughOpens } = await mounts.status();
    return {
      pid: process.pid,
      uptimeMs: Math.round(process.uptime() * 1000),
      mounts: list,
      lingering,
      memoryBytes: process.memoryUsage.rss(),
      kernel: {
        fuseMinor: features?.fuseMinor ?? 0,
        passthrough: features?.passthrough ?? false,
        incEpoch: features?.incEpoch ?? false,
      },
      passthroughOpens,
    };
  }

  const methods: Record<string, (params: never) => Promise<unknown>> = {
    mount: (p: MountRequest) => {
      ending = false;
      return mounts.mount(p);
    },
    unmount: (p: { mountpoint: string; force: boolean }) => mounts.unmount(p.mountpoint, p.force),
    relayer: (p: WireRelayer) => mounts.relayer(unpackRelayer(p)),
    revert: (p: { id: string; paths: string[] }) => mounts.revert(p.id, p.paths),
    reset: (p: { id: string; keep: string[] }) => mounts.reset(p.id, p.keep),
    shutdown: (p: { force: boolean }) => shutdown(p.force),
    status,
  };

  async function answer(socket: Socket, line: string): Promise<void> {
    let seq = 0;
    try {
      const request = JSON.parse(line) as WireRequest;
      seq = request.seq;
      const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
      if (method === undefined)
        throw new StrataError('UNSUPPORTED', `strata-fs has no method ${request.method}`);
      const result = (await method(request.params as never)) ?? null;
      socket.write(encodeLine({ seq, result }));
    } catch (thrown) {
      const error = asStrataError(thrown);
      if (error.code === 'INTERNAL') log(`a request failed: ${error.stack}`);
      socket.write(encodeLine({ seq, error }));
    }
  }

  const server = createServer((socket) => {
    const read = createLineReader((line) => void answer(socket, line));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk) => {
      try {
        read(chunk);
      } catch {
        socket.destroy();
      }
    });
  });

  rmSync(paths.socket, { force: true });
  const mask = process.umask(0o177);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(paths.socket, resolve);
  });
  process.umask(mask);
  writeFileSync(`${paths.pid}.tmp`, `${process.pid}\n`, { mode: 0o600 });
  renameSync(`${paths.pid}.tmp`, paths.pid);
  // Ended by hand or by the init system: what is busy goes on being served.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void shutdown(false));
  process.on('SIGHUP', () => {});
  log(`serves ${options.root} as process ${process.pid} with ${threads.all().length} threads`);
}

function protect(log: (line: string) => void): void {
  const limit = raiseOpenFiles(OPEN_FILES);
  if (limit < 65536) log(`open files are limited to ${limit}`);
  try {
    writeFileSync('/proc/self/oom_score_adj', String(OOM_SCORE));
  } catch {
    log('the out-of-memory score could not be lowered');
  }
}
