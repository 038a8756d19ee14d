/** The life of the strata-fs process: lock, threads, socket, signals, end. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { asStrataError, StrataError } from '../../base/index.ts';
import type { StackSpec } from '../../vlfs/contract.ts';
import { readQuarantine } from '../../vlfs/index.ts';
import type { DataPlaneStatus } from '../contract.ts';
import type { Holding } from './holding.ts';
import { openMountRecords } from './mount-records.ts';
import { createMountTable, type MountTable } from './mount-table.ts';
import { dataPlanePaths } from './paths.ts';
import { createStandbyKeeper } from './standby-keeper.ts';
import { createThreadGroups } from './thread-groups.ts';
import { startThreads, type ThreadOptions, type Threads } from './threads.ts';
import {
  createLineReader,
  encodeLine,
  NO_ANSWER,
  unpackRelayer,
  type WireExchange,
  type WireFreeze,
  type WireMount,
  type WirePrepareFreeze,
  type WireRelayer,
  type WireRequest,
} from './wire.ts';

/** How long a stack that nothing needs is kept: it may be on its way to a mount. */
const REST_MS = 60_000;

export interface DataPlaneOptions {
  root: string;
  /** Its threads, which may be loading still, and what they were started with. */
  home: Threads;
  threadOptions: ThreadOptions;
  /** The command line of a process that waits to take over; null: there is none. */
  standby: readonly string[] | null;
  /** Its hold on the state root. */
  holding: Holding;
  log(line: string): void;
}

export async function runDataPlane(options: DataPlaneOptions): Promise<void> {
  const paths = dataPlanePaths(options.root);
  const { holding, home, log } = options;
  // Files made through a mount get exactly the mode asked for.
  process.umask(0);
  let ending = false;
  let ended = false;
  let inQuarantine: string[] = readQuarantine(options.root);
  const { threadOptions } = options;
  threadOptions.quarantine = () => inQuarantine;
  threadOptions.onGone = (id, ledgerFd) => {
    mounts.gone(id, ledgerFd);
    log(`${id}: unmounted`);
    endIfDone();
  };
  const threads = createThreadGroups(options.root, home, () => {
    const further = startThreads({ ...threadOptions, count: 1 });
    further.startPool();
    return further;
  });
  // They may have been started long before.
  for (const thread of home.serving) void thread.send({ kind: 'quarantine', digests: inQuarantine });
  const records = openMountRecords(paths);
  const { former } = holding;
  const mounts: MountTable = createMountTable(threads, records, holding);
  const begun = performance.now();
  if (former !== null) await mounts.takeOver(former, log);
  holding.commit();
  if (mounts.size() > 0) {
    await mounts.goOn();
    log(`took over ${mounts.size()} file systems in ${Math.round(performance.now() - begun)} ms`);
  }
  records.sweep(mounts.stacks());
  home.startPool();

  let willSweep = false;
  /** Each clone and each update leaves a stack: a while after one came, those go that nothing needs any more. */
  function sweepLater(): void {
    if (willSweep) return;
    willSweep = true;
    setTimeout(() => {
      willSweep = false;
      if (records.sweep(mounts.stacks(), REST_MS)) sweepLater();
    }, REST_MS).unref();
  }

  const keeper = createStandbyKeeper({
    paths,
    command: options.standby,
    holding,
    home,
    isNeeded: () => mounts.size() > 0,
    log,
  });

  /** After a shutdown was asked for: ends when the last connection is gone. */
  function endIfDone(): void {
    if (!ending || ended || mounts.size() > 0) return;
    ended = true;
    log('ends');
    rmSync(paths.socket, { force: true });
    rmSync(paths.pid, { force: true });
    keeper.stop();
    void threads.stop().finally(() => {
      holding.end();
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

  async function readScanState(): Promise<void> {
    inQuarantine = readQuarantine(options.root);
    const command = { kind: 'quarantine', digests: inQuarantine } as const;
    await Promise.all(threads.all().map((thread) => thread.send(command)));
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
    stack: async (p: StackSpec) => {
      records.stacks.put(p);
      sweepLater();
    },
    mount: async ({ vlfs, ...rest }: WireMount) => {
      const stack = records.stacks.ofKey(vlfs.stack);
      ending = false;
      await mounts.mount({ ...rest, vlfs: { ...vlfs, stack } });
      // When it is there: whoever looked before has seen no mount.
      keeper.look();
    },
    unmount: (p: { mountpoint: string; force: boolean }) => mounts.unmount(p.mountpoint, p.force),
    relayer: async (p: WireRelayer) => mounts.relayer(unpackRelayer(p, records.stacks.ofKey)),
    follow: (p: { id: string }) => mounts.follow(p.id),
    letGo: (p: { id: string }) => mounts.letGo(p.id),
    hold: (p: { id: string; nodes: number[] }) => mounts.hold(p.id, p.nodes),
    prepareFreeze: async (p: WirePrepareFreeze) => {
      mounts.prepareFreeze(p);
      sweepLater();
    },
    freeze: ({ id, stack, dir, barrier }: WireFreeze) =>
      mounts.freeze({ id, stack: records.stacks.ofKey(stack), dir }, barrier),
    revert: (p: { id: string; paths: string[] }) => mounts.revert(p.id, p.paths),
    reset: (p: { id: string; keep: string[] }) => mounts.reset(p.id, p.keep),
    exchange: ({ id, stack, fresh }: WireExchange) =>
      mounts.exchange({ id, stack: records.stacks.ofKey(stack), fresh }),
    readScanState,
    find: async (p: { id: string; mountpoint?: string }) => ({ pid: process.pid, ...mounts.find(p) }),
    shutdown: (p: { force: boolean }) => shutdown(p.force),
    status,
  };

  async function answer(socket: Socket, line: string): Promise<void> {
    let seq = NO_ANSWER;
    try {
      const request = JSON.parse(line) as WireRequest;
      seq = request.seq;
      const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
      if (method === undefined)
        throw new StrataError('UNSUPPORTED', `strata-fs has no method ${request.method}`);
      const result = (await method(request.params as never)) ?? null;
      if (seq !== NO_ANSWER) socket.write(encodeLine({ seq, result }));
    } catch (thrown) {
      const error = asStrataError(thrown);
      if (error.code === 'INTERNAL') log(`a request failed: ${error.stack}`);
      if (seq !== NO_ANSWER) socket.write(encodeLine({ seq, error }));
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
  keeper.look();
  holding.endStrays();
  log(`serves ${options.root} as process ${process.pid} with ${threads.all().length} threads`);
}
