/**
 * The mounts of a serving thread: a VLFS is opened, gets its connection and is served, by this process or in place of one that was killed; the thread's epoll tells
 * which connection is ready by its tag.
 */
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { createLedger, type HiddenEntries, type LedgerContent, type Preparation } from '../../vlfs/index.ts';
import { closeLedgerMemory, createLedgerMemory } from '../ledger-memory.ts';
import { createFuseBuffers } from '../server/buffers.ts';
import { stackName } from '../stack-name.ts';
import { expireEveryName, failureOf } from './change-names.ts';
import type { LoopFailure, LoopReply, ServedStatus, TakeOverOutcome } from './messages.ts';
import {
  createServedMount,
  describe,
  noteFeatures,
  requestsByKind,
  type ServeContext,
  type ServedMount,
} from './served-mount.ts';
import type { OpenServedVlfs } from './served-vlfs.ts';
import { askAgain, continueServer, type FormerMount, type FormerState, readFormer } from './take-over.ts';

/** A VLFS that is open and has no connection yet. */
export type Opened = Pick<ServedMount, 'vlfs' | 'stackKey' | 'moved' | 'closing' | 'ledger' | 'ledgerFd'>;

export interface ThreadMounts {
  readonly ctx: ServeContext;
  /** By id. */
  readonly served: ReadonlyMap<string, ServedMount>;
  readonly opened: ReadonlyMap<string, Opened>;
  /** Throws NOT_FOUND. */
  find(id: string): ServedMount;
  byTag(tag: number): ServedMount | undefined;
  /** Opens the stack and reads what the VLFS hides between requests of the mounts that are served, and then opens it. */
  open(id: string, spec: VlfsSpec, done: (failure: LoopFailure | null) => void): void;
  connect(id: string, fd: number): void;
  serve(id: string, fd: number): void;
  /** What was opened is not served. */
  drop(id: string): void;
  /** Opens what a killed process served, as it was; nothing is changed that it left. `goOn` serves it. */
  takeOver(mounts: FormerMount[], pidfd: number): TakeOverOutcome[];
  goOn(ids: string[]): void;
  status(): ServedStatus[];
}

export interface ThreadMountsOptions {
  epoll: number;
  /** A number that no other descriptor in the epoll has. */
  newTag(): number;
  openVlfs: OpenServedVlfs;
  prepareVlfs: ((spec: VlfsSpec) => Preparation) | undefined;
  mostNodes: number | undefined;
  pool: ServeContext['pool'];
  later: ServeContext['later'];
  post(reply: LoopReply): void;
}

export function createThreadMounts(options: ThreadMountsOptions): ThreadMounts {
  const { epoll, newTag, openVlfs, prepareVlfs, mostNodes, post } = options;
  const byTag = new Map<number, ServedMount>();
  const tags = new Map<ServedMount, number>();
  const served = new Map<string, ServedMount>();
  const opened = new Map<string, Opened>();
  /** Taken over, not yet served. */
  const waiting = new Map<string, { mount: ServedMount; former: LedgerContent }>();
  /** The VLFS whose stack is being opened: one after the other, because the next ones mostly have the same. */
  let opening: VlfsSpec | null = null;

  const ctx: ServeContext = {
    arrivedMs: 0,
    buffers: createFuseBuffers(),
    pool: options.pool,
    log: (line) => post({ event: 'log', line }),
    later: options.later,
    hold: (m) => void sys.epollRemove(epoll, m.fd),
    release: (m) => void sys.epollAdd(epoll, m.fd, sys.EPOLLIN, tags.get(m)!),
    // A closed connection stays ready for ever, which would keep this thread awake until its last job ends.
    disconnected: (m) => void sys.epollRemove(epoll, m.fd),
    finished(m) {
      sys.close(m.fd);
      byTag.delete(tags.get(m) ?? -1);
      tags.delete(m);
      if (served.get(m.id) === m) served.delete(m.id);
      m.ledger?.clear();
      closeLedgerMemory(m.ledgerFd);
      post({ event: 'gone', id: m.id, ledgerFd: m.ledgerFd });
    },
  };

  function refuseSecond(id: string): void {
    if (served.has(id) || opened.has(id))
      throw new StrataError('BUSY', `${id} is being unmounted`, { hint: 'try again' });
  }

  function openNow(
    id: string,
    spec: VlfsSpec,
    before: { former?: FormerState; hidden?: HiddenEntries | undefined },
  ): Opened {
    refuseSecond(id);
    const { former, hidden } = before;
    const moved: number[] = [];
    const closing: number[] = [];
    const store = createLedgerMemory();
    const ledger = store === null ? null : createLedger(store.memory);
    try {
      const vlfs = openVlfs(spec, {
        ...(mostNodes === undefined ? {} : { mostNodes }),
        onAttributes: (node) => moved.push(node),
        onClose: (fd) => closing.push(fd),
        onBackingClosed: (node) => served.get(id)?.server.backing.closed(node),
        onFault: (operation, error) => ctx.log(`${id}: ${operation} failed: ${describe(error)}`),
        ...(ledger === null ? {} : { ledger }),
        ...(former === undefined ? {} : { revive: former }),
        ...(hidden === undefined ? {} : { hidden }),
      });
      if (vlfs.everyName === undefined) ledger?.clear();
      const { stack, ...rest } = spec;
      ledger?.setSpec(JSON.stringify({ id, ...rest }));
      ledger?.setStack(stackName(stack.key));
      return { vlfs, stackKey: stack.key, moved, closing, ledger, ledgerFd: store?.fd ?? -1 };
    } catch (error) {
      closeLedgerMemory(store?.fd ?? -1);
      throw error;
    }
  }

  function start(mount: ServedMount): void {
    const tag = newTag();
    byTag.set(tag, mount);
    tags.set(mount, tag);
    served.set(mount.id, mount);
    sys.epollAdd(epoll, mount.fd, sys.EPOLLIN, tag);
  }

  function takeOverOne(given: FormerMount, pidfd: number): number {
    const former = readFormer(given, pidfd);
    if (former === null) throw new StrataError('BAD_FORMAT', 'its ledger cannot be read');
    const { content } = former;
    const found = openNow(given.id, given.spec, { former });
    const mount = createServedMount(ctx, { id: given.id, fd: given.fuseFd, ...found });
    if (continueServer(mount, content)) noteFeatures(mount);
    else found.ledger?.setFuse({ fd: given.fuseFd, fuseMinor: 0, features: 0 });
    const stale = content.changing || content.stack !== stackName(given.spec.stack.key);
    found.ledger?.setChanging(stale);
    waiting.set(given.id, { mount, former: { ...content, changing: stale } });
    return found.ledgerFd;
  }

  return {
    ctx,
    served,
    opened,
    find(id) {
      const found = served.get(id);
      if (found === undefined) throw new StrataError('NOT_FOUND', `${id} is not mounted`);
      return found;
    },
    byTag: (tag) => byTag.get(tag),
    open(id, spec, done) {
      let prepared: Preparation | undefined;
      ctx.later((untilMs) => {
        if (opening !== null && opening !== spec) return false;
        opening = spec;
        let failure: LoopFailure | null = null;
        try {
          refuseSecond(id);
          prepared ??= prepareVlfs?.(spec);
          const hidden = prepared?.step(untilMs);
          if (hidden === null) return false;
          opened.set(id, openNow(id, spec, { hidden }));
        } catch (error) {
          failure = failureOf(error);
        }
        opening = null;
        prepared?.release();
        done(failure);
        return true;
      });
    },
    connect: (id, fd) => opened.get(id)?.ledger?.setFuse({ fd, fuseMinor: 0, features: 0 }),
    serve(id, fd) {
      const found = opened.get(id);
      if (found === undefined) throw new StrataError('NOT_FOUND', `${id} is not open`);
      opened.delete(id);
      start(createServedMount(ctx, { id, fd, ...found }));
    },
    drop(id) {
      const found = opened.get(id);
      if (found === undefined) return;
      opened.delete(id);
      found.vlfs.destroy();
      closeLedgerMemory(found.ledgerFd);
    },
    takeOver: (mounts, pidfd) =>
      mounts.map((mount) => {
        try {
          return { id: mount.id, ledgerFd: takeOverOne(mount, pidfd), failure: null };
        } catch (error) {
          sys.close(mount.fuseFd);
          return { id: mount.id, ledgerFd: -1, failure: failureOf(error).message };
        }
      }),
    goOn(ids) {
      for (const id of ids) {
        const found = waiting.get(id);
        if (found === undefined) continue;
        waiting.delete(id);
        start(found.mount);
        askAgain(found.mount);
        if (found.former.changing) expireEveryName(ctx, found.mount);
      }
    },
    status: () =>
      [...served.values()].map((m) => ({
        id: m.id,
        stackKey: m.stackKey,
        requests: m.requests,
        kinds: requestsByKind(m),
        openFiles: m.vlfs.stats().openFiles,
        passthroughOpens: m.server.backing.passthroughOpens,
        features: m.server.features,
      })),
  };
}
