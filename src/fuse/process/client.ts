/** stratad's side of the data plane: the DataPlane contract over the socket of strata-fs, its start, and recovery after its death. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { nameFromText, StrataError } from '../../base/index.ts';
import type { StackSpec } from '../../vlfs/contract.ts';
import type { DataPlane, DataPlaneStatus, FoundMounts } from '../contract.ts';
import type { FreezeOutcome } from '../loop/freeze-mount.ts';
import { unmount } from '../transport/device.ts';
import { strataMountpoints } from '../transport/mountinfo.ts';
import { freezeWithWriters } from './hold-writers.ts';
import { openMountRecords } from './mount-records.ts';
import { type DataPlanePaths, dataPlanePaths } from './paths.ts';
import { kill } from './process-life.ts';
import {
  livingHolder,
  livingServer,
  livingStandby,
  livingWatch,
  readState,
  writeStandby,
  writeState,
} from './state.ts';
import { watched } from './watch.ts';
import {
  createLineReader,
  encodeLine,
  errorFromWire,
  NO_ANSWER,
  packMount,
  packRelayer,
  type WireExchange,
  type WireFreeze,
  type WirePrepareFreeze,
  type WireReply,
} from './wire.ts';

const START_TIMEOUT_MS = 60_000;
const START_POLL_MS = 10;
/** Until a new standby has everything loaded; without it an exchange takes longer. */
const RENEWAL_TIMEOUT_MS = 5_000;

/** The data plane with what only its owner asks of it. */
export interface OwnedDataPlane extends DataPlane {
  /** Unmounts what is not busy (lazily everything, with force) and ends strata-fs when nothing is left. Returns what stays mounted. */
  shutdown(options: { force: boolean }): Promise<string[]>;
}

function openSocket(path: string): Promise<Socket | null> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(null);
      else reject(new StrataError('DAEMON', `cannot reach strata-fs: ${error.message}`, { cause: error }));
    });
  });
}

/** The running data plane of this root, or null when none runs. Does not keep the process alive by itself. */
export async function connectDataPlane(root: string): Promise<OwnedDataPlane | null> {
  // The holder keeps the socket of a dead one open.
  if (livingServer(dataPlanePaths(root)) === null) return null;
  const socket = await openSocket(dataPlanePaths(root).socket);
  if (socket === null) return null;
  const waiting = new Map<number, { resolve(value: never): void; reject(error: Error): void }>();
  let seq = 1;
  let ended = false;

  const gone = (): void => {
    ended = true;
    for (const { reject } of waiting.values())
      reject(
        new StrataError('DAEMON', 'strata-fs died', { hint: 'repeat the command; it is started again' }),
      );
    waiting.clear();
  };
  const onLine = (line: string): void => {
    const reply = JSON.parse(line) as WireReply;
    const waiter = waiting.get(reply.seq);
    waiting.delete(reply.seq);
    if (waiting.size === 0) socket.unref();
    if ('error' in reply) waiter?.reject(errorFromWire(reply.error));
    else waiter?.resolve(reply.result as never);
  };
  const read = createLineReader(onLine);
  socket.on('data', (chunk: Buffer) => {
    try {
      read(chunk);
    } catch {
      socket.destroy();
    }
  });
  socket.on('error', () => {});
  socket.on('close', gone);
  socket.unref();

  function call<T>(method: string, params: unknown): Promise<T> {
    return new Promise((resolve, reject) => {
      if (ended) return reject(new StrataError('DAEMON', 'strata-fs is not running'));
      const mine = seq++;
      waiting.set(mine, { resolve, reject });
      socket!.ref();
      socket!.write(encodeLine({ seq: mine, method, params }));
    });
  }

  /** A call that names stacks: those that strata-fs does not know are sent, and it is made again. */
  async function callWithStacks<T>(method: string, params: unknown, stacks: StackSpec[]): Promise<T> {
    const unsent = new Map(stacks.map((stack) => [stack.key, stack]));
    for (;;) {
      try {
        return await call<T>(method, params);
      } catch (error) {
        const key = error instanceof StrataError ? error.data?.['unknownStack'] : undefined;
        const stack = typeof key === 'string' ? unsent.get(key) : undefined;
        if (stack === undefined) throw error;
        unsent.delete(stack.key);
        await call<void>('stack', stack);
      }
    }
  }

  return {
    mount: (request) => callWithStacks('mount', packMount(request), [request.vlfs.stack]),
    unmount: (mountpoint, { force }) => call<void>('unmount', { mountpoint, force }),
    relayer: (changes) =>
      callWithStacks(
        'relayer',
        packRelayer(changes),
        changes.map(({ stack }) => stack),
      ),
    // No strata-fs knows a stack with a new layer.
    prepareFreeze: async ({ id, stack }) => {
      const params: WirePrepareFreeze = { id, stack };
      if (!ended) socket.write(encodeLine({ seq: NO_ANSWER, method: 'prepareFreeze', params }));
    },
    freeze: ({ id, stack, dir }) =>
      freezeWithWriters({
        id,
        async mountpoint() {
          const { mounts } = await call<FoundMounts>('find', { id });
          return mounts.find((one) => one.id === id)?.mountpoint ?? null;
        },
        hold: (nodes) => call<string | null>('hold', { id, nodes }),
        letGo: () => call<boolean>('letGo', { id }),
        freeze: (barrier) => {
          const params: WireFreeze = { id, stack: stack.key, dir, barrier };
          return callWithStacks<FreezeOutcome>('freeze', params, [stack]);
        },
      }),
    follow: (id) => call<void>('follow', { id }),
    revert: (id, paths) => call<string[]>('revert', { id, paths }),
    reset: (id, keep) => call<void>('reset', { id, keep }),
    exchange: ({ id, stack, fresh }) => {
      const params: WireExchange = { id, stack: stack.key, fresh };
      return callWithStacks<void>('exchange', params, [stack]);
    },
    readScanState: () => call<void>('readScanState', {}),
    status: () => call<DataPlaneStatus>('status', {}),
    find: (what) => call<FoundMounts>('find', what),
    shutdown: (options) => call<string[]>('shutdown', options),
    close: () => {
      socket.destroy();
      gone();
    },
  };
}

export interface StartOptions {
  /** Further arguments of data-plane-main.ts, for tests. */
  args?: string[];
}

/**
 * The data plane of this root: the running one, the one that is being started again after its death, or a new process, detached, that outlives
 * this one, under a shell that starts it again when it dies.
 */
export async function startDataPlane(root: string, options: StartOptions = {}): Promise<OwnedDataPlane> {
  const paths = dataPlanePaths(root);
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  const until = Date.now() + START_TIMEOUT_MS;
  let started: { ended: string | null } | null = null;
  while (Date.now() < until) {
    const plane = await connectDataPlane(root);
    if (plane !== null) return plane;
    const underWay = livingServer(paths) !== null || livingWatch(paths) !== null || takesOver(paths);
    if (!underWay) {
      if (started === null) started = spawnDataPlane(root, options);
      else if (started.ended !== null) break;
    }
    await new Promise((resolve) => setTimeout(resolve, START_POLL_MS));
  }
  const why = started?.ended ?? null;
  throw new StrataError('DAEMON', `strata-fs did not start${why === null ? '' : ` (${why})`}`, {
    hint: `its log is ${paths.log}`,
  });
}

function spawnDataPlane(root: string, options: StartOptions): { ended: string | null } {
  const paths = dataPlanePaths(root);
  const log = openSync(paths.log, 'a', 0o600);
  // While it is there, the shell goes on.
  closeSync(openSync(paths.lock, 'a', 0o600));
  const main = new URL('../data-plane-main.ts', import.meta.url).pathname;
  // A collection of young objects is short: waiting for threads that help takes longer where processors are few or busy.
  const flags = ['--disable-warning=ExperimentalWarning', '--no-parallel-scavenge'];
  const own = [process.execPath, ...flags, main, '--root', root, '--watched', ...(options.args ?? [])];
  const [command, args] = watched(paths.lock, paths.pid, own);
  const child = spawn(command, args, {
    detached: true,
    // Without it each of its threads compiles the program again, and keeps the compiler in memory.
    env: { NODE_COMPILE_CACHE: paths.compileCache, ...process.env },
    stdio: ['ignore', log, log],
    cwd: '/',
  });
  closeSync(log);
  const state: { ended: string | null } = { ended: null };
  child.once('error', (error) => {
    state.ended = error.message;
  });
  child.once('exit', (code, signal) => {
    state.ended = signal ?? `status ${code}`;
  });
  child.unref();
  return state;
}

/** Whether a standby is there that goes on with what a dead strata-fs served. */
function takesOver(paths: DataPlanePaths): boolean {
  return readState(paths)?.ended !== true && livingStandby(paths) !== null;
}

/**
 * Exchanges strata-fs by one of the program that is installed now, which takes over: first the one that waits to, so that the
 * new one has everything loaded when the serving one is ended.
 */
export async function restartDataPlane(root: string): Promise<void> {
  const paths = dataPlanePaths(root);
  const server = livingServer(paths);
  const former = livingStandby(paths)?.process ?? null;
  if (former !== null) {
    kill(former);
    const until = Date.now() + RENEWAL_TIMEOUT_MS;
    for (let next = livingStandby(paths); Date.now() < until; next = livingStandby(paths)) {
      if (next?.ready === true) break;
      await new Promise((resolve) => setTimeout(resolve, START_POLL_MS));
    }
  }
  kill(server);
}

/**
 * Ends strata-fs at once without unmounting, with all that would go on in its place and, unless its mounts are to be taken over by one that is started
 * later (`keepMounts`), the process that holds its descriptors. For an exchange by another build, and for tests.
 */
export function killDataPlane(root: string, options: { keepMounts: boolean }): void {
  const paths = dataPlanePaths(root);
  const end = (): void => {
    const state = readState(paths);
    if (state !== null) writeState(paths, { ...state, ended: true });
  };
  end();
  kill(livingWatch(paths));
  const standby = livingStandby(paths);
  if (standby !== null) {
    kill(standby.watch);
    kill(standby.process);
    writeStandby(paths, null);
  }
  kill(livingServer(paths));
  // It may have written its state meanwhile.
  end();
  if (!options.keepMounts) kill(livingHolder(paths));
}

/**
 * After the death of strata-fs: takes its dead mounts away (lazily: who holds them keeps a dead file system until it closes) and makes
 * them again from the records. Returns the mountpoints that are back; the others are in strata-fs's log and stay unmounted.
 */
export async function recoverMounts(root: string, plane: DataPlane): Promise<string[]> {
  const paths = dataPlanePaths(root);
  const records = openMountRecords(paths);
  const alive = new Set((await plane.status()).mounts.map((m) => m.mountpoint));
  const wanted = records.list().filter((request) => !alive.has(request.mountpoint));
  const dead = strataMountpoints();
  // The newest first: a mount may lie inside another.
  for (const path of [...dead].reverse())
    if (wanted.some((request) => nameFromText(request.mountpoint) === path)) unmount(path, true);
  const back: string[] = [];
  for (const request of wanted) {
    try {
      await plane.mount(request);
      back.push(request.mountpoint);
    } catch (error) {
      note(paths.log, `${request.mountpoint} could not be mounted again: ${(error as Error).message}`);
    }
  }
  return back;
}

function note(log: string, line: string): void {
  const fd = openSync(log, 'a', 0o600);
  writeSync(fd, `${new Date().toISOString()} ${line}\n`);
  closeSync(fd);
}

/** The process id in ROOT/run/strata-fs.pid, or null. */
export function dataPlanePid(root: string): number | null {
  try {
    const pid = Number(readFileSync(dataPlanePaths(root).pid, 'utf8'));
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  } catch {
    return null;
  }
}
