/**
 * A serving thread of strata-fs: one epoll over the FUSE descriptors of many mounts and two eventfds, for commands of the main thread and
 * for results of the blocking pool. After work it looks for more without sleeping for a bounded time; then it blocks in
 * epoll_wait, so idle mounts cost nothing. It never runs Node's event loop: nothing here may be asynchronous.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { StackHold } from '../../vlfs/index.ts';
import { createPoolClient } from '../pool/pool-client.ts';
import { createFuseBuffers } from '../server/buffers.ts';
import { askToForget } from './ask-to-forget.ts';
import { AWAKE_MS, createAwake } from './awake.ts';
import { changeMount, failureOf, relayerMount } from './change-names.ts';
import type {
  LoopCommand,
  LoopData,
  LoopFailure,
  LoopMessage,
  LoopReply,
  RelayerOutcome,
  ServedStatus,
} from './messages.ts';
import {
  createServedMount,
  describe,
  type ServeContext,
  type ServedMount,
  serveRequests,
  TURN_MS,
} from './served-mount.ts';
import type { OpenServedVlfs, ServedVlfs } from './served-vlfs.ts';

const COMMANDS = 0;
const RESULTS = 1;
const FIRST_TAG = 2;
/** One turn of long work: requests wait as long. */
const TASK_MS = 0.5;
/** Requests of one mount before the others get their turn. */
const BUDGET = 64;
/** Useful looks at one mount before the others get their turn. */
const LOOKS = 16;

const data = workerData as LoopData;
const { openVlfs, holdStack } = (await import(data.vlfsModule)) as {
  openVlfs: OpenServedVlfs;
  holdStack?: (spec: StackSpec) => StackHold;
};
const post = (reply: LoopReply): void => parentPort!.postMessage(reply);
const epoll = sys.epollCreate();
const byTag = new Map<number, ServedMount>();
const tags = new Map<ServedMount, number>();
const byId = new Map<string, ServedMount>();
const opened = new Map<string, { vlfs: ServedVlfs; stackKey: string; moved: number[] }>();
const awake = data.spinUs > 0 ? createAwake() : createAwake(null);
/** Long work, done a little at a time. */
const tasks: ((untilMs: number) => boolean)[] = [];
let nextTag = FIRST_TAG;
let stopping = false;

const ctx: ServeContext = {
  arrivedMs: 0,
  buffers: createFuseBuffers(),
  pool: createPoolClient(data.pool),
  log: (line) => post({ event: 'log', line }),
  later: (work) => void tasks.push(work),
  // A closed connection stays ready for ever, which would keep this thread awake until its last job ends.
  disconnected: (m) => void sys.epollRemove(epoll, m.fd),
  finished(m) {
    sys.close(m.fd);
    byTag.delete(tags.get(m) ?? -1);
    tags.delete(m);
    if (byId.get(m.id) === m) byId.delete(m.id);
    post({ event: 'gone', id: m.id });
  },
};

function served(id: string): ServedMount {
  const found = byId.get(id);
  if (found === undefined) throw new StrataError('NOT_FOUND', `${id} is not mounted`);
  return found;
}

function open(id: string, spec: VlfsSpec): void {
  if (byId.has(id) || opened.has(id))
    throw new StrataError('BUSY', `${id} is being unmounted`, { hint: 'try again' });
  const moved: number[] = [];
  const vlfs = openVlfs(spec, {
    ...(data.mostNodes === undefined ? {} : { mostNodes: data.mostNodes }),
    onAttributes: (node) => moved.push(node),
    onBackingClosed: (node) => byId.get(id)?.server.backing.closed(node),
    onFault: (operation, error) => ctx.log(`${id}: ${operation} failed: ${describe(error)}`),
  });
  opened.set(id, { vlfs, stackKey: spec.stack.key, moved });
}

/** The VLFS whose stack is being opened: one after the other, because the next ones mostly have the same. */
let opening: VlfsSpec | null = null;

/** Opens the stack between requests of the mounts that are served, and then the VLFS. */
function openBetween(id: string, spec: VlfsSpec, done: (failure: LoopFailure | null) => void): void {
  let hold: StackHold | undefined;
  ctx.later((untilMs) => {
    if (opening !== null && opening !== spec) return false;
    opening = spec;
    let failure: LoopFailure | null = null;
    try {
      hold ??= holdStack?.(spec.stack);
      if (hold?.step(untilMs) === false) return false;
      open(id, spec);
    } catch (error) {
      failure = failureOf(error);
    }
    opening = null;
    hold?.release();
    done(failure);
    return true;
  });
}

function serve(id: string, fd: number): void {
  const found = opened.get(id);
  if (found === undefined) throw new StrataError('NOT_FOUND', `${id} is not open`);
  opened.delete(id);
  const mount = createServedMount(ctx, { id, fd, ...found });
  const tag = nextTag++;
  byTag.set(tag, mount);
  tags.set(mount, tag);
  byId.set(id, mount);
  sys.epollAdd(epoll, fd, sys.EPOLLIN, tag);
}

function status(): ServedStatus[] {
  return [...byId.values()].map((m) => ({
    id: m.id,
    stackKey: m.stackKey,
    requests: m.requests,
    openFiles: m.vlfs.stats().openFiles,
    passthroughOpens: m.server.backing.passthroughOpens,
    features: m.server.features,
  }));
}

function relayer(seq: number, changes: (LoopCommand & { kind: 'relayer' })['changes']): void {
  const outcomes: RelayerOutcome[] = [];
  const one = (outcome: RelayerOutcome): void => {
    outcomes.push(outcome);
    if (outcomes.length === changes.length) post({ seq, value: outcomes });
  };
  if (changes.length === 0) post({ seq, value: outcomes });
  for (const change of changes) {
    const mount = byId.get(change.id);
    if (mount === undefined) {
      one({ id: change.id, failure: { code: 'NOT_FOUND', message: `${change.id} is not mounted` } });
      continue;
    }
    relayerMount(ctx, mount, change, (failure) => one({ id: change.id, failure }));
  }
}

function execute(seq: number, command: LoopCommand): void {
  const answer = (value: unknown, failure: ReturnType<typeof failureOf> | null): void =>
    post(failure === null ? { seq, value } : { seq, failure });
  switch (command.kind) {
    case 'open':
      openBetween(command.id, command.spec, (failure) => answer(undefined, failure));
      break;
    case 'serve':
      answer(serve(command.id, command.fd), null);
      break;
    case 'drop': {
      const found = opened.get(command.id);
      opened.delete(command.id);
      found?.vlfs.destroy();
      answer(undefined, null);
      break;
    }
    case 'relayer':
      relayer(seq, command.changes);
      break;
    case 'revert': {
      const mount = served(command.id);
      changeMount(ctx, mount, () => mount.vlfs.revert(command.paths), answer);
      break;
    }
    case 'reset': {
      const mount = served(command.id);
      changeMount(ctx, mount, () => mount.vlfs.reset(command.keep), answer);
      break;
    }
    case 'status':
      answer(status(), null);
      break;
    case 'stop':
      stopping = true;
      answer(undefined, null);
      break;
  }
}

function drainCommands(): void {
  sys.eventfdDrain(data.commandFd);
  for (
    let got = receiveMessageOnPort(data.commands);
    got !== undefined;
    got = receiveMessageOnPort(data.commands)
  ) {
    const { seq, command } = got.message as LoopMessage;
    try {
      execute(seq, command);
    } catch (error) {
      post({ seq, failure: failureOf(error) });
    }
  }
}

/** Serves everything that is ready; the mount that had requests last, or null. */
function serveReady(ready: number): ServedMount | null {
  let busy: ServedMount | null = null;
  const readyTags: number[] = [];
  for (let i = 0; i < ready; i++) readyTags.push(sys.readyTag(i));
  for (const tag of readyTags) {
    if (tag === COMMANDS) drainCommands();
    else if (tag === RESULTS) {
      sys.eventfdDrain(data.doneFd);
      ctx.pool.drain();
    } else {
      const mount = byTag.get(tag);
      const served = mount === undefined ? 0 : serveRequests(ctx, mount, BUDGET);
      if (served === 0) continue;
      busy = mount!;
      awake.served(served);
      askToForget(ctx, mount!);
    }
  }
  return busy;
}

/** A look that gave fewer requests before it ended in vain did not pay. */
const PAYS = 4;
/** After a look that did not pay the next ones are left out: for this many wake-ups at most, doubled each time. */
const LONGEST_REST = 1024;

/** A look that ends so much too late was interrupted by others who need the processor: the next ones are left out for eight times as long. */
const LOST_MS = 0.3;
let lostProcessor = false;

/**
 * Until 'stop': serve, look a little, sleep. A busy caller on another processor sends its next request within microseconds, and waking a sleeping
 * thread costs more than serving it. But a caller that works between its requests, or that needs this very processor, pays for our looking:
 * so looks that do not pay are followed by longer and longer rests from looking. Each reply is followed by one read anyhow.
 */
function run(): void {
  const spinMs = data.spinUs / 1000;
  /** Wake-ups until the next look; how many the last rest had; requests found by looking since the last vain end of it. */
  let resting = spinMs > 0 ? 0 : Number.POSITIVE_INFINITY;
  let rest = 1;
  let hits = 0;
  let busy: ServedMount | null = null;
  while (!stopping) {
    let found = 0;
    if (busy?.gone) busy = null;
    if (busy !== null && tasks.length === 0 && resting-- <= 0) {
      found = look(busy, spinMs);
      hits += found;
      if (found < LOOKS) {
        rest = !lostProcessor && hits >= PAYS ? 1 : Math.min(rest * (lostProcessor ? 8 : 2), LONGEST_REST);
        resting = rest;
        hits = 0;
      }
    }
    const timeout = found === LOOKS || tasks.length > 0 ? 0 : awake.held ? AWAKE_MS : -1;
    const ready = sys.epollWait(epoll, timeout);
    if (ready > 0) busy = serveReady(ready) ?? busy;
    else if (timeout !== 0) awake.release();
    const task = tasks.shift();
    if (task !== undefined && !task(performance.now() + TASK_MS)) tasks.push(task);
  }
}

/** Serves a mount while its requests come within `spinMs` of each other, LOOKS of them at most and for a turn's time. Returns how many came in time. */
function look(mount: ServedMount, spinMs: number): number {
  const end = performance.now() + TURN_MS;
  for (let i = 0; i < LOOKS; i++) {
    if (performance.now() >= end) return LOOKS;
    const until = performance.now() + spinMs;
    let served = serveRequests(ctx, mount, BUDGET);
    while (served === 0) {
      const now = performance.now();
      lostProcessor = now >= until + LOST_MS;
      if (mount.gone || now >= until) return i;
      served = serveRequests(ctx, mount, BUDGET);
    }
    awake.served(served);
    // What comes late was not waited for: we lost the processor meanwhile, perhaps to the very caller.
    lostProcessor = ctx.arrivedMs >= until + LOST_MS;
    if (performance.now() >= until) return i;
  }
  return LOOKS;
}

sys.epollAdd(epoll, data.commandFd, sys.EPOLLIN, COMMANDS);
sys.epollAdd(epoll, data.doneFd, sys.EPOLLIN, RESULTS);
try {
  run();
} catch (error) {
  post({ event: 'log', line: `a serving thread failed: ${describe(error)}` });
  throw error;
}
process.exit(0);
