/**
 * The mounts of strata-fs: which VLFS is bound to which serving thread, and its mountpoints. A VLFS has one connection; further mountpoints
 * are bind mounts of the first that is left. All changes of one VLFS are made one after the other.
 */
import { realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { nameFromText, StrataError } from '../../base/index.ts';
import type { CacheMode, FreshPrivate, PrivateFile, StackSpec } from '../../vlfs/contract.ts';
import type { FoundMounts, MountInfo, MountRequest } from '../contract.ts';
import type { FreezeOutcome, WriteBarrier } from '../loop/freeze-mount.ts';
import type { RelayerOutcome, ServedStatus } from '../loop/messages.ts';
import type { Features } from '../server/init.ts';
import { stackName } from '../stack-name.ts';
import { bindMount, mountFuse, setReadAhead, unmount } from '../transport/device.ts';
import { strataMountpoints } from '../transport/mountinfo.ts';
import type { Former, Holding } from './holding.ts';
import type { MountRecords } from './mount-records.ts';
import { takeOverMounts } from './take-over-mounts.ts';
import type { ThreadGroups } from './thread-groups.ts';
import type { ServingThread } from './threads.ts';

/** How long a mount waits for the end of the connection before. */
const ENDING_MS = 2000;
const ENDING_POLL_MS = 2;
/** How long the status waits for a thread. */
const STATUS_MS = 500;

/** How long writers are held when the freeze does not come for which that was done. */
const HOLD_MS = 5000;

/** A VLFS that is served. */
export interface Served {
  thread: ServingThread;
  mountpoints: { path: string; readOnly: boolean }[];
  cache: CacheMode;
  stackKey: string;
}

export interface MountTable {
  mount(request: MountRequest): Promise<void>;
  unmount(mountpoint: string, force: boolean): Promise<void>;
  relayer(changes: { id: string; stack: StackSpec; privateFiles?: PrivateFile[] }[]): Promise<void>;
  /** Holds the writers of nodes once they are synced, for the freeze that comes next. Returns a mountpoint of the VLFS. */
  hold(id: string, nodes: number[]): Promise<string | null>;
  /** The stack of the freeze that comes next is recorded, and the thread has it. Nothing when the VLFS has no mountpoint. */
  prepareFreeze(change: { id: string; stack: StackSpec }): void;
  freeze(
    change: { id: string; stack: StackSpec; dir: string },
    barrier: WriteBarrier | null,
  ): Promise<FreezeOutcome>;
  /** Waits until the frozen layer of the last freeze is whole. */
  follow(id: string): Promise<void>;
  /** Ends a hold. True: what a mapping changed was written back meanwhile. */
  letGo(id: string): Promise<boolean>;
  revert(id: string, paths: string[]): Promise<string[]>;
  reset(id: string, keep: string[]): Promise<void>;
  exchange(change: { id: string; stack: StackSpec; fresh: FreshPrivate | null }): Promise<void>;
  status(): Promise<{
    mounts: MountInfo[];
    lingering: string[];
    features: Features | null;
    passthroughOpens: number;
  }>;
  find(what: { id: string; mountpoint?: string }): Omit<FoundMounts, 'pid'>;
  /** A serving thread says that the connection of a VLFS ended. */
  gone(id: string, ledgerFd: number): void;
  /** Opens what a killed strata-fs served, as it was; what cannot be opened is told to `log`. Then `goOn` serves it. */
  takeOver(former: Former, log: (line: string) => void): Promise<void>;
  goOn(): Promise<void>;
  /** The names of the stacks that are served: they stay stored. */
  stacks(): Set<string>;
  /** VLFSs whose connection lives, lazily unmounted ones too. */
  size(): number;
  /** Unmounts what is not busy (lazily all, with force). Returns the mountpoints that stay. */
  unmountAll(force: boolean): Promise<string[]>;
}

export function createMountTable(threads: ThreadGroups, records: MountRecords, holding: Holding): MountTable {
  const table = new Map<string, Served>();
  const queues = new Map<string, Promise<unknown>>();
  const lastStatus = new WeakMap<ServingThread, ServedStatus[]>();
  const holds = new Map<string, NodeJS.Timeout>();
  /** By VLFS, the stack that is recorded for its next freeze. */
  const prepared = new Map<string, { key: string; undo: (failed: ReadonlySet<string>) => void }>();

  /** Whoever held writers may not come to let them go. */
  function letGoLater(id: string): void {
    clearTimeout(holds.get(id));
    holds.set(
      id,
      setTimeout(() => void letGo(id).catch(() => {}), HOLD_MS),
    );
  }

  /** True: what a mapping changed was written back meanwhile. */
  async function letGo(id: string): Promise<boolean> {
    clearTimeout(holds.get(id));
    return (await table.get(id)?.thread.send<boolean>({ kind: 'let-go', id })) ?? false;
  }

  /** Runs `work` after all earlier work on this VLFS. */
  function inTurn<T>(id: string, work: () => Promise<T>): Promise<T> {
    const before = queues.get(id) ?? Promise.resolve();
    const mine = before.then(work, work);
    const settled = mine.catch(() => {});
    queues.set(id, settled);
    void settled.then(() => {
      if (queues.get(id) === settled) queues.delete(id);
    });
    return mine;
  }

  function served(id: string): Served {
    const found = table.get(id);
    if (found === undefined) throw notMounted(id);
    return found;
  }

  const mountpointsOf = (id: string): string[] => (table.get(id)?.mountpoints ?? []).map(({ path }) => path);

  function prepareFreeze(id: string, stack: StackSpec): void {
    prepared.set(id, { key: stack.key, undo: records.restack(new Map([[id, stack]]), mountpointsOf(id)) });
    served(id).thread.give(stack);
  }

  /** What a thread counts; as it was before, when the thread waits for a disk. */
  async function statusOf(thread: ServingThread): Promise<ServedStatus[]> {
    const answer = thread.send<ServedStatus[]>({ kind: 'status' }).then((now) => {
      lastStatus.set(thread, now);
      return now;
    });
    const late = new AbortController();
    const known = delay(STATUS_MS, lastStatus.get(thread) ?? [], { signal: late.signal }).catch(() => []);
    try {
      return await Promise.race([answer, known]);
    } finally {
      late.abort();
    }
  }

  function owner(mountpoint: string): string | undefined {
    for (const [id, { mountpoints }] of table) if (mountpoints.some((m) => m.path === mountpoint)) return id;
    return undefined;
  }

  async function mountFirst(request: MountRequest): Promise<void> {
    const { id, vlfs, mountpoint } = request;
    const cache = vlfs.cache ?? 'shared';
    const thread = await threads.join(vlfs);
    try {
      const { stack, ...spec } = vlfs;
      const ledgerFd = await thread.send<number>({ kind: 'open', id, spec, stack: thread.give(stack) });
      let fd: number;
      try {
        records.put(request);
        holding.add(ledgerFd);
        fd = mountFuse(nameFromText(mountpoint), request.readOnly, (opened) => {
          void thread.send({ kind: 'connect', id, fd: opened });
        });
        if (cache === 'exact') setReadAhead(nameFromText(mountpoint));
      } catch (error) {
        holding.remove(ledgerFd);
        records.remove(mountpoint);
        await thread.send({ kind: 'drop', id });
        throw error;
      }
      const mountpoints = [{ path: mountpoint, readOnly: request.readOnly }];
      table.set(id, { thread, mountpoints, cache, stackKey: stack.key });
      await thread.send({ kind: 'serve', id, fd });
    } catch (error) {
      threads.leave(thread);
      throw error;
    }
  }

  /** What serves a VLFS already. After the last unmount its connection ends, and the thread that serves it hears of that a moment later. */
  async function alive(id: string): Promise<Served | undefined> {
    const found = table.get(id);
    if (found === undefined) return undefined;
    const mounted = new Set(strataMountpoints());
    for (const { path } of found.mountpoints) if (!mounted.has(nameFromText(path))) records.remove(path);
    found.mountpoints = found.mountpoints.filter((m) => mounted.has(nameFromText(m.path)));
    const until = Date.now() + (found.mountpoints.length === 0 ? ENDING_MS : 0);
    while (table.get(id) === found && Date.now() < until) await delay(ENDING_POLL_MS);
    return table.get(id);
  }

  function mountAgain(found: Served, request: MountRequest): void {
    const { mountpoint, readOnly } = request;
    const first = found.mountpoints[0];
    if (first === undefined)
      throw new StrataError('BUSY', `${request.id} is still being unmounted`, {
        hint: 'end the programs that use it and try again',
      });
    records.put({ ...request, vlfs: { ...request.vlfs, cache: found.cache } });
    try {
      bindMount(nameFromText(first.path), nameFromText(mountpoint), readOnly);
    } catch (error) {
      records.remove(mountpoint);
      throw error;
    }
    found.mountpoints.push({ path: mountpoint, readOnly });
  }

  async function unmountOne(id: string, mountpoint: string, force: boolean): Promise<void> {
    const found = served(id);
    unmount(nameFromText(mountpoint), force);
    records.remove(mountpoint);
    found.mountpoints = found.mountpoints.filter((m) => m.path !== mountpoint);
  }

  function unmountAt(mountpoint: string, force: boolean): Promise<void> {
    const id = owner(mountpoint);
    if (id === undefined) throw new StrataError('NOT_FOUND', `nothing of Strata is mounted at ${mountpoint}`);
    return inTurn(id, () => unmountOne(id, mountpoint, force));
  }

  return {
    async mount(given) {
      const request = { ...given, mountpoint: resolveMountpoint(given.mountpoint) };
      if (owner(request.mountpoint) !== undefined)
        throw new StrataError(
          'EXISTS',
          `${request.mountpoint} is a mountpoint of ${owner(request.mountpoint)}`,
        );
      await inTurn(request.id, async () => {
        const found = await alive(request.id);
        if (found === undefined) await mountFirst(request);
        else mountAgain(found, request);
      });
    },
    async unmount(mountpoint, force) {
      await unmountAt(owner(mountpoint) === undefined ? ownPath(mountpoint) : mountpoint, force);
    },
    async relayer(changes) {
      const byThread = new Map<ServingThread, typeof changes>();
      for (const change of changes) {
        const { thread } = served(change.id);
        byThread.set(thread, [...(byThread.get(thread) ?? []), change]);
      }
      const undo = records.restack(new Map(changes.map(({ id, stack }) => [id, stack])));
      const answers = await Promise.all(
        [...byThread].map(([thread, mine]) =>
          thread.send<RelayerOutcome[]>({
            kind: 'relayer',
            changes: mine.map(({ stack, ...change }) => ({ ...change, stack: thread.give(stack) })),
          }),
        ),
      );
      const failed = new Map(
        answers.flat().flatMap((o) => (o.failure === null ? [] : [[o.id, o.failure] as const])),
      );
      if (failed.size > 0) undo(new Set(failed.keys()));
      for (const { id, stack } of changes) {
        const found = table.get(id);
        if (found !== undefined && !failed.has(id)) found.stackKey = stack.key;
      }
      const first = [...failed][0];
      if (first === undefined) return;
      throw new StrataError(first[1].code, `${first[0]}: ${first[1].message}`, {
        hint: first[1].hint,
        data: { failed: [...failed].map(([id, f]) => ({ id, code: f.code, message: f.message })) },
      });
    },
    hold: (id, nodes) =>
      inTurn(id, async () => {
        const { thread, mountpoints } = served(id);
        await thread.send({ kind: 'hold', id, nodes });
        letGoLater(id);
        return mountpoints[0]?.path ?? null;
      }),
    prepareFreeze({ id, stack }) {
      records.stacks.put(stack);
      // What changes the records now comes before the freeze.
      if (!queues.has(id) && mountpointsOf(id).length > 0) prepareFreeze(id, stack);
    },
    freeze: ({ id, stack, dir }, barrier) =>
      inTurn(id, async () => {
        clearTimeout(holds.get(id));
        if (mountpointsOf(id).length === 0) throw notMounted(id);
        const { thread } = served(id);
        if (prepared.get(id)?.key !== stack.key) prepareFreeze(id, stack);
        const { undo } = prepared.get(id)!;
        prepared.delete(id);
        let outcome: FreezeOutcome;
        try {
          const name = thread.give(stack);
          outcome = await thread.send<FreezeOutcome>({ kind: 'freeze', id, stack: name, dir, barrier });
        } catch (error) {
          undo(new Set([id]));
          throw error;
        }
        const found = table.get(id);
        if (outcome.changed.length > 0 || outcome.unseen) undo(new Set([id]));
        else if (found !== undefined) found.stackKey = stack.key;
        if (outcome.mapped.length > 0 || barrier?.nodes.length === 0) letGoLater(id);
        return outcome;
      }),
    follow: async (id) => served(id).thread.send<void>({ kind: 'follow', id }),
    letGo: (id) => inTurn(id, () => letGo(id)),
    revert: (id, paths) => inTurn(id, () => served(id).thread.send<string[]>({ kind: 'revert', id, paths })),
    reset: (id, keep) => inTurn(id, () => served(id).thread.send<void>({ kind: 'reset', id, keep })),
    exchange: ({ id, stack, fresh }) =>
      inTurn(id, async () => {
        const found = served(id);
        const { thread, mountpoints } = found;
        const paths = mountpoints.map(({ path }) => path);
        const undo = records.restack(new Map([[id, stack]]), paths);
        try {
          await thread.send<void>({ kind: 'exchange', id, stack: thread.give(stack), fresh });
          found.stackKey = stack.key;
        } catch (error) {
          undo(new Set([id]));
          throw error;
        }
      }),
    async status() {
      const all = (await Promise.all(threads.all().map(statusOf))).flat();
      const counts = new Map(all.map((one) => [one.id, one]));
      const mounts = [...table].flatMap(([id, { mountpoints, cache, stackKey }]) =>
        mountpoints.map(({ path, readOnly }) => {
          const { requests = 0, kinds = {}, openFiles = 0 } = counts.get(id) ?? {};
          return { cache, id, mountpoint: path, stackKey, readOnly, requests, kinds, openFiles };
        }),
      );
      const features = all.find((s) => s.features !== null)?.features ?? null;
      const lingering = [...table]
        .filter(([, { mountpoints }]) => mountpoints.length === 0)
        .map(([id]) => id);
      return {
        mounts,
        lingering,
        features,
        passthroughOpens: all.reduce((sum, s) => sum + s.passthroughOpens, 0),
      };
    },
    find({ id, mountpoint }) {
      const there = mountpoint === undefined ? undefined : owner(mountpoint);
      const ids = new Set([id, ...(there === undefined ? [] : [there])]);
      const found = [...ids].flatMap((one) => {
        const { mountpoints = [], cache = 'shared', stackKey = '' } = table.get(one) ?? {};
        return mountpoints
          .filter(({ path }) => one === id || path === mountpoint)
          .map(({ path }) => ({ id: one, mountpoint: path, stackKey, cache }));
      });
      return { mounts: found, isLingering: table.get(id)?.mountpoints.length === 0 };
    },
    gone(id, ledgerFd) {
      holding.remove(ledgerFd);
      const found = table.get(id);
      if (found === undefined) return;
      threads.leave(found.thread);
      table.delete(id);
      prepared.delete(id);
      // A connection that was aborted leaves dead mounts; one that was unmounted by hand leaves none.
      const left = new Set(found.mountpoints.length > 0 ? strataMountpoints() : []);
      for (const { path } of found.mountpoints) {
        if (left.has(nameFromText(path))) unmount(nameFromText(path), true);
        records.remove(path);
      }
    },
    takeOver: (former, log) => takeOverMounts({ threads, records, holding, table }, former, log),
    async goOn() {
      const ids = [...table.keys()];
      await Promise.all(threads.all().map((thread) => thread.send({ kind: 'go-on', ids })));
    },
    stacks: () => new Set([...table.values()].map(({ stackKey }) => stackName(stackKey))),
    size: () => table.size,
    async unmountAll(force) {
      const left: string[] = [];
      for (const { mountpoints } of [...table.values()]) {
        for (const { path } of [...mountpoints].reverse()) {
          try {
            await unmountAt(path, force);
          } catch {
            left.push(path);
          }
        }
      }
      return left;
    },
  };
}

function notMounted(id: string): StrataError {
  return new StrataError('NOT_FOUND', `${id} is not mounted`);
}

function resolveMountpoint(mountpoint: string): string {
  try {
    return realpathSync(mountpoint);
  } catch (error) {
    throw new StrataError('NOT_FOUND', `the mountpoint ${mountpoint} is not there`, { cause: error });
  }
}

/** As the kernel's mount table shows it, without a look at the mount itself, which may be dead. */
function ownPath(mountpoint: string): string {
  return join(resolveMountpoint(dirname(mountpoint)), basename(mountpoint));
}
