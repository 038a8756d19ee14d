/**
 * One VLFS with its connection, as a serving thread holds it: reads requests, writes replies, and keeps requests that wait for slow
 * work aside. Never blocks. The descriptor stays open while any job or notify of this mount is under way, so that no message can go to
 * another file that got its number.
 */
import * as sys from '../../sys/index.ts';
import { PENDING, type SlowJob } from '../../vlfs/contract.ts';
import type { Ledger } from '../../vlfs/index.ts';
import { FUSE_OPCODE } from '../abi/constants.ts';
import { IN_HEADER, OUT_HEADER } from '../abi/layout.ts';
import type { PoolJob } from '../pool/jobs.ts';
import type { PoolClient } from '../pool/pool-client.ts';
import type { FuseBuffers } from '../server/buffers.ts';
import { featureBits } from '../server/init.ts';
import type { FuseServer } from '../server/server.ts';
import { createFuseServer } from '../server/server.ts';
import { createBackingDevice } from '../transport/device.ts';
import { invalInodeMessage } from '../transport/notify.ts';
import { type Hold, isHeld, noteOpener } from './hold-syncs.ts';
import { isJournaled, RESENT } from './journaled.ts';
import type { LoopFailure } from './messages.ts';
import type { ServedVlfs } from './served-vlfs.ts';
import { goOnWithRoom, newRoom, queueIsEmpty, type Room, waitsForRoom } from './wait-for-room.ts';

/** What one mount may take of the thread before the others get their turn, however costly its requests are. */
export const TURN_MS = 1;

/** Above all opcodes. */
const OPCODES_END = 64;

export interface ServedMount {
  readonly id: string;
  readonly vlfs: ServedVlfs;
  readonly server: FuseServer;
  readonly fd: number;
  stackKey: string;
  /** What a later process needs, and its descriptor. */
  readonly ledger: Ledger | null;
  readonly ledgerFd: number;
  requests: number;
  /** The same by opcode. */
  readonly kinds: Uint32Array;
  /** Jobs and notifies under way. */
  underWay: number;
  /** Its VLFS is being changed: requests stay in the kernel, and jobs that ended wait. */
  held: boolean;
  readonly afterHold: (() => void)[];
  /** The kernel closed the connection. */
  gone: boolean;
  /** The kernel is being asked to forget nodes; when it may be asked again. */
  forgetting: boolean;
  forgetAfter: number;
  /** The kernel was asked for unanswered requests again; they come before all others. */
  awaitsResent: boolean;
  /** Commands that change names run one after the other. */
  changing: boolean;
  readonly waitingChanges: (() => void)[];
  /** Syncs are held for a freeze, or null. */
  hold: Hold | null;
  /** Go on when all copies that follow a freeze are made. */
  readonly following: (() => void)[];
  /** Why they were not; null: they were. */
  followFailure: LoopFailure | null;
  readonly room: Room;
  /** Requests that wait for a job, by the job. */
  readonly waiting: Map<SlowJob, Buffer[]>;
  /** Nodes whose attributes the VLFS changed behind the kernel's back; filled by it during a request. */
  readonly moved: number[];
  /** Descriptors whose closing frees much space; filled by the VLFS during a request. */
  readonly closing: number[];
}

export interface ServeContext {
  /** When the first request of the last turn that had one was read, by performance.now(). */
  arrivedMs: number;
  buffers: FuseBuffers;
  pool: PoolClient;
  log(line: string): void;
  /** Calls `work` between requests, with the time at which it should stop, until it returns true. */
  later(work: (untilMs: number) => boolean, options?: { waitedFor?: boolean }): void;
  /** Requests of this mount are left in the kernel, until `release`. */
  hold(mount: ServedMount): void;
  release(mount: ServedMount): void;
  /** Called when the kernel closed the connection: nothing more is read from it. */
  disconnected(mount: ServedMount): void;
  /** Called when a mount that is gone has nothing under way any more. */
  finished(mount: ServedMount): void;
}

export function createServedMount(
  ctx: ServeContext,
  o: Pick<ServedMount, 'id' | 'vlfs' | 'fd' | 'stackKey' | 'moved' | 'closing' | 'ledger' | 'ledgerFd'>,
): ServedMount {
  return {
    ...o,
    server: createFuseServer({
      ops: o.vlfs,
      buffers: ctx.buffers,
      backingDevice: createBackingDevice(o.fd),
      ledger: o.ledger,
      onException: (opcode, error) => ctx.log(`${o.id}: ${opcode} failed: ${describe(error)}`),
    }),
    requests: 0,
    kinds: new Uint32Array(OPCODES_END),
    underWay: 0,
    held: false,
    afterHold: [],
    gone: false,
    forgetting: false,
    forgetAfter: 0,
    awaitsResent: false,
    changing: false,
    waitingChanges: [],
    hold: null,
    following: [],
    followFailure: null,
    room: newRoom(),
    waiting: new Map(),
  };
}

export function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** Handles requests, up to `budget` of them and for about a turn's time. Returns how many there were. */
export function serveRequests(ctx: ServeContext, m: ServedMount, budget: number): number {
  const { requestAddress, request } = ctx.buffers;
  const end = performance.now() + TURN_MS;
  for (let served = 0; served < budget; ) {
    if (m.gone || m.held || (served > 0 && performance.now() >= end)) return served;
    const length = sys.readAddress(m.fd, requestAddress, request.length);
    if (length > 0) {
      if (served === 0) ctx.arrivedMs = performance.now();
      served++;
      m.requests++;
      handle(ctx, m, length);
      continue;
    }
    if (length === -sys.E.AGAIN) {
      queueIsEmpty(ctx, m);
      return served;
    }
    // ENOENT: the request was interrupted before it was read.
    if (length === -sys.E.INTR || length === -sys.E.NOENT) continue;
    if (length !== -sys.E.NODEV) ctx.log(`${m.id}: the connection ended: ${sys.errnoName(length)}`);
    m.gone = true;
    ctx.disconnected(m);
    finishIfIdle(ctx, m);
    return served;
  }
  return budget;
}

/** How many requests of each kind there were, without the kinds that did not come. */
export function requestsByKind({ kinds }: ServedMount): Record<string, number> {
  const counted = Object.entries(FUSE_OPCODE).filter(([, opcode]) => kinds[opcode]! > 0);
  return Object.fromEntries(counted.map(([kind, opcode]) => [kind, kinds[opcode]!]));
}

/** Until `goOnWithRequests` nothing is done for this mount's programs. */
export function holdRequests(ctx: ServeContext, m: ServedMount): void {
  m.held = true;
  m.underWay++;
  if (!m.gone) ctx.hold(m);
}

export function goOnWithRequests(ctx: ServeContext, m: ServedMount): void {
  m.held = false;
  if (!m.gone) ctx.release(m);
  for (const ended of m.afterHold.splice(0)) ended();
  m.underWay--;
  finishIfIdle(ctx, m);
}

/** The request in the buffer: answers it, or puts it aside. */
export function handle(ctx: ServeContext, m: ServedMount, length: number): void {
  const { ledger } = m;
  const opcode = ctx.buffers.requestView.getUint32(IN_HEADER.opcode, true);
  if (opcode < OPCODES_END) m.kinds[opcode]!++;
  if (m.awaitsResent) endResent(ctx, m, opcode);
  if (isHeld(ctx, m, opcode, length)) return;
  if (ledger !== null && isJournaled(opcode)) {
    handleOnce(ctx, m, length, ledger);
    return;
  }
  const result = m.server.handle(length);
  noteOpener(ctx, m, opcode, result);
  const waits = waitsForRoom(ctx, m, { opcode, length, result });
  finish(ctx, m, length, waits ? 0 : result);
  if (opcode === FUSE_OPCODE.INIT) noteFeatures(m);
}

/** What the kernel gives before repeated requests. */
const AHEAD: readonly number[] = [FUSE_OPCODE.FORGET, FUSE_OPCODE.BATCH_FORGET, FUSE_OPCODE.INTERRUPT];

/** The first other request that is no repeated one: the repeated ones have come. */
function endResent(ctx: ServeContext, m: ServedMount, opcode: number): void {
  if (AHEAD.includes(opcode)) return;
  if ((ctx.buffers.requestView.getUint32(IN_HEADER.unique + 4, true) & RESENT) !== 0) return;
  m.awaitsResent = false;
  m.vlfs.resentAnswered?.();
}

function finish(ctx: ServeContext, m: ServedMount, length: number, result: number): void {
  // Before the reply: who gets it must not see old attributes. This notify takes no lock of the kernel's.
  if (m.moved.length > 0) expireAttributes(m);
  if (m.closing.length > 0) closeAside(ctx, m, null);
  if (result === PENDING) defer(ctx, m, length);
  else if (result > 0) reply(ctx, m, result);
}

/** A request that may not be done twice: what is done of it is noted before the kernel hears of it. */
function handleOnce(ctx: ServeContext, m: ServedMount, length: number, { journal }: Ledger): void {
  const { requestView: view, reply: out, replyView } = ctx.buffers;
  const low = view.getUint32(IN_HEADER.unique, true);
  const high = view.getUint32(IN_HEADER.unique + 4, true);
  if (journal.begin(low, (high & ~RESENT) >>> 0) && journal.resumed !== null) {
    const { reply: answer } = journal.resumed;
    out.set(answer);
    replyView.setUint32(OUT_HEADER.unique + 4, high, true);
    sys.write(m.fd, out, answer.length);
    journal.end();
    return;
  }
  const result = m.server.handle(length);
  const opcode = view.getUint32(IN_HEADER.opcode, true);
  noteOpener(ctx, m, opcode, result);
  if (waitsForRoom(ctx, m, { opcode, length, result })) {
    journal.postpone();
    finish(ctx, m, length, 0);
    return;
  }
  if (result === PENDING) journal.postpone();
  else if (result > 0) journal.answered(out, result);
  if (m.closing.length > 0 && result > 0) {
    const area = journal.setAside();
    if (area > 0) {
      if (m.moved.length > 0) expireAttributes(m);
      const bytes = Buffer.from(out.subarray(0, result));
      closeAside(ctx, m, () => {
        sys.write(m.fd, bytes, bytes.length);
        journal.settle(area);
      });
      journal.end();
      return;
    }
  }
  finish(ctx, m, length, result);
  if (result !== PENDING) journal.end();
}

/** Closes what frees much space in the pool, and continues: who deleted a large file finds its space free when it is told so. */
export function closeAside(ctx: ServeContext, m: ServedMount, then: (() => void) | null): void {
  m.underWay++;
  m.room.closing++;
  ctx.pool.run(m, { kind: 'close', fds: m.closing.splice(0) }, () => {
    m.underWay--;
    m.room.closing--;
    then?.();
    goOnWithRoom(ctx, m);
    finishIfIdle(ctx, m);
  });
}

/** What INIT agreed on holds for the whole connection. */
export function noteFeatures(m: ServedMount): void {
  const { ledger } = m;
  const { features } = m.server;
  if (ledger === null || features === null) return;
  if (!features.resend) ledger.clear();
  ledger.setFuse({ fd: m.fd, fuseMinor: features.fuseMinor, features: featureBits(features) });
}

/** Tells the kernel which attributes changed behind its back. */
export function expireAttributes(m: ServedMount): void {
  for (const node of m.moved) {
    const message = invalInodeMessage(node, false);
    sys.write(m.fd, message, message.length);
  }
  m.moved.length = 0;
}

function reply(ctx: ServeContext, m: ServedMount, length: number): void {
  const errno = sys.writeAddress(m.fd, ctx.buffers.replyAddress, length);
  if (errno >= 0) return;
  // ENOENT: the caller is gone (killed, or the connection aborted); it must not keep what the reply gave it.
  m.server.revokeLast();
  if (errno !== -sys.E.NOENT && errno !== -sys.E.NODEV && errno !== -sys.E.NOTCONN)
    ctx.log(`${m.id}: a reply was refused: ${sys.errnoName(errno)}`);
}

function defer(ctx: ServeContext, m: ServedMount, length: number): void {
  const job = m.server.takeJob();
  const bytes = Buffer.from(ctx.buffers.request.subarray(0, length));
  const others = m.waiting.get(job);
  if (others !== undefined) {
    others.push(bytes);
    return;
  }
  m.waiting.set(job, [bytes]);
  m.underWay++;
  run(ctx, m, job, (result) => jobEnded(ctx, m, job, result));
}

/** Runs a job between requests, or in the pool. */
function run(ctx: ServeContext, m: ServedMount, job: SlowJob, ended: (result: number) => void): void {
  if (job.kind === 'follow') {
    m.following.push(() => ended(0));
    return;
  }
  if (job.kind === 'steps') {
    const goOn = (untilMs: number): boolean => {
      const result = m.held ? null : advance(ctx, m, job, untilMs);
      if (result === null) return false;
      ended(result);
      return true;
    };
    ctx.later(goOn, { waitedFor: true });
    return;
  }
  const { done: _done, ...plain } = job as PoolJob & { done?: unknown };
  ctx.pool.run(m, plain as PoolJob, ended);
}

function advance(
  ctx: ServeContext,
  m: ServedMount,
  job: SlowJob & { kind: 'steps' },
  untilMs: number,
): number | null {
  try {
    return job.advance(untilMs);
  } catch (error) {
    ctx.log(`${m.id}: a request failed: ${describe(error)}`);
    return -sys.E.IO;
  }
}

/** Runs what the VLFS wants done in the background; requests that come to wait for it join. */
export function runBackground(ctx: ServeContext, m: ServedMount): void {
  const job = m.gone ? null : (m.vlfs.takeBackgroundJob?.() ?? null);
  if (job === null) return;
  m.waiting.set(job, []);
  m.underWay++;
  const ended = (result: number): void => {
    jobEnded(ctx, m, job, result);
    runBackground(ctx, m);
  };
  run(ctx, m, job, ended);
}

/** Wakes all requests that waited for a job: a failed job is their answer, a successful one answers or is followed by a second try. */
function jobEnded(ctx: ServeContext, m: ServedMount, job: SlowJob, result: number): void {
  if (m.held) {
    m.afterHold.push(() => jobEnded(ctx, m, job, result));
    return;
  }
  const requests = m.waiting.get(job) ?? [];
  m.waiting.delete(job);
  m.underWay--;
  try {
    if ('done' in job) job.done?.(Math.min(result, 0));
  } catch (error) {
    ctx.log(`${m.id}: ${job.kind} could not be completed: ${describe(error)}`);
    result = -sys.E.IO;
  }
  for (const bytes of requests) {
    bytes.copy(ctx.buffers.request);
    if (job.then === 'retry' && result >= 0) handle(ctx, m, bytes.length);
    else reply(ctx, m, m.server.answerJob(result));
  }
  finishIfIdle(ctx, m);
}

/** Ends a mount whose connection is gone once nothing of it is under way. */
export function finishIfIdle(ctx: ServeContext, m: ServedMount): void {
  if (!m.gone || m.underWay > 0) return;
  m.underWay = -1;
  try {
    m.server.destroy();
  } catch (error) {
    ctx.log(`${m.id}: could not be closed: ${describe(error)}`);
  }
  ctx.finished(m);
}
