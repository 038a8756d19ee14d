/**
 * A serving thread of strata-fs: one epoll over the FUSE descriptors of many mounts and two eventfds, for commands of the main thread and
 * for results of the blocking pool. After work it looks for more without sleeping for a bounded time; then it blocks in
 * epoll_wait, so idle mounts cost nothing. Nothing here may be asynchronous: Node's event loop turns only now and then, for what V8 and native code leave to it.
 */
import { flushCompileCache } from 'node:module';
import { setImmediate as eventLoop } from 'node:timers/promises';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { Preparation } from '../../vlfs/index.ts';
import { createPoolClient } from '../pool/pool-client.ts';
import { askToForget } from './ask-to-forget.ts';
import { AWAKE_MS, createAwake } from './awake.ts';
import { changeMount, dropContents, exchangeMount, failureOf, relayerMount } from './change-names.ts';
import { awaitFollowing, freezeMount } from './freeze-mount.ts';
import { holdSyncs, letGo } from './hold-syncs.ts';
import { createLongWork } from './long-work.ts';
import type { LoopCommand, LoopData, LoopMessage, LoopReply, RelayerOutcome } from './messages.ts';
import { describe, runBackground, type ServedMount, serveRequests, TURN_MS } from './served-mount.ts';
import type { OpenServedVlfs } from './served-vlfs.ts';
import { createThreadMounts } from './thread-mounts.ts';

const COMMANDS = 0;
const RESULTS = 1;
const FIRST_TAG = 2;
/** Requests of one mount before the others get their turn. */
const BUDGET = 64;
/** Useful looks at one mount before the others get their turn. */
const LOOKS = 16;
/**
 * The event loop turns so often while there is work, and once after it. What waits for it are unmapping and other ends of memory that was collected, and
 * tasks of V8: without it each mount leaves something behind, and collections of all objects take longer at a time.
 */
const EVENT_LOOP_MS = 100;

const data = workerData as LoopData;
const { openVlfs, prepareVlfs, setQuarantine } = (await import(data.vlfsModule)) as {
  openVlfs: OpenServedVlfs;
  prepareVlfs?: (spec: VlfsSpec) => Preparation;
  setQuarantine?: (digests: readonly string[]) => void;
};
setQuarantine?.(data.quarantine);
const post = (reply: LoopReply): void => parentPort!.postMessage(reply);
const epoll = sys.epollCreate();
/** By name. */
const stacks = new Map<string, StackSpec>();
/** Processes whose end is awaited: what each tag's answer is. */
const ends = new Map<number, () => void>();
const awake = data.spinUs > 0 ? createAwake() : createAwake(null);
const longWork = createLongWork();
let nextTag = FIRST_TAG;
let stopping = false;

const mounts = createThreadMounts({
  epoll,
  newTag: () => nextTag++,
  openVlfs,
  prepareVlfs,
  mostNodes: data.mostNodes,
  pool: createPoolClient(data.pool, (thread) => post({ event: 'pool', thread })),
  later: longWork.add,
  post,
});
const { ctx } = mounts;

function stackNamed(name: string): StackSpec {
  const stack = stacks.get(name);
  if (stack === undefined) throw new StrataError('INTERNAL', `the stack ${name} was not given`);
  return stack;
}

function awaitEnd(pidfd: number, ended: () => void): void {
  const tag = nextTag++;
  ends.set(tag, () => {
    ends.delete(tag);
    sys.epollRemove(epoll, pidfd);
    sys.close(pidfd);
    ended();
  });
  sys.epollAdd(epoll, pidfd, sys.EPOLLIN, tag);
}

function relayer(seq: number, changes: (LoopCommand & { kind: 'relayer' })['changes']): void {
  const outcomes: RelayerOutcome[] = [];
  const one = (outcome: RelayerOutcome): void => {
    outcomes.push(outcome);
    if (outcomes.length === changes.length) post({ seq, value: outcomes });
  };
  if (changes.length === 0) post({ seq, value: outcomes });
  for (const change of changes) {
    const mount = mounts.served.get(change.id);
    if (mount === undefined) {
      one({ id: change.id, failure: { code: 'NOT_FOUND', message: `${change.id} is not mounted` } });
      continue;
    }
    relayerMount(ctx, mount, { ...change, stack: stackNamed(change.stack) }, (failure) =>
      one({ id: change.id, failure }),
    );
  }
}

function dropAllContents(done: () => void): void {
  let left = mounts.served.size;
  if (left === 0) done();
  for (const mount of mounts.served.values()) dropContents(ctx, mount, () => --left === 0 && done());
}

function execute(seq: number, command: LoopCommand): void {
  const answer = (value: unknown, failure: ReturnType<typeof failureOf> | null): void =>
    post(failure === null ? { seq, value } : { seq, failure });
  switch (command.kind) {
    case 'stack':
      if (command.forget) stacks.clear();
      stacks.set(command.name, command.stack);
      break;
    case 'open':
      mounts.open(command.id, { ...command.spec, stack: stackNamed(command.stack) }, (failure) =>
        answer(mounts.opened.get(command.id)?.ledgerFd ?? -1, failure),
      );
      break;
    case 'connect':
      answer(mounts.connect(command.id, command.fd), null);
      break;
    case 'take-over':
      answer(mounts.takeOver(command.mounts, command.pidfd), null);
      break;
    case 'go-on':
      answer(mounts.goOn(command.ids), null);
      break;
    case 'serve':
      answer(mounts.serve(command.id, command.fd), null);
      break;
    case 'drop':
      answer(mounts.drop(command.id), null);
      break;
    case 'relayer':
      relayer(seq, command.changes);
      break;
    case 'hold':
      answer(holdSyncs(ctx, mounts.find(command.id), command.nodes), null);
      break;
    case 'let-go':
      answer(letGo(ctx, mounts.find(command.id)), null);
      break;
    case 'freeze':
      freezeMount(ctx, mounts.find(command.id), { ...command, stack: stackNamed(command.stack) }, answer);
      break;
    case 'follow':
      awaitFollowing(mounts.find(command.id), answer);
      break;
    case 'revert': {
      const mount = mounts.find(command.id);
      changeMount(ctx, mount, () => mount.vlfs.beginRevert(command.paths), answer);
      break;
    }
    case 'reset': {
      const mount = mounts.find(command.id);
      changeMount(ctx, mount, () => mount.vlfs.beginReset(command.keep), answer);
      break;
    }
    case 'exchange':
      exchangeMount(ctx, mounts.find(command.id), { ...command, stack: stackNamed(command.stack) }, answer);
      break;
    case 'quarantine':
      setQuarantine?.(command.digests);
      for (const { vlfs } of [...mounts.served.values(), ...mounts.opened.values()]) {
        vlfs.readScanOnOpen?.();
        vlfs.readQuota?.();
      }
      if (command.digests.length === 0) answer(undefined, null);
      else dropAllContents(() => answer(undefined, null));
      break;
    case 'status':
      answer(mounts.status(), null);
      break;
    case 'await-end':
      awaitEnd(command.pidfd, () => answer(undefined, null));
      break;
    case 'keep-compiled':
      flushCompileCache();
      answer(undefined, null);
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
    } else if (ends.has(tag)) ends.get(tag)!();
    else {
      const mount = mounts.byTag(tag);
      const served = mount === undefined ? 0 : serveRequests(ctx, mount, BUDGET);
      if (served === 0) continue;
      busy = mount!;
      awake.served(served);
      askToForget(ctx, mount!);
      runBackground(ctx, mount!);
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
async function run(): Promise<void> {
  const spinMs = data.spinUs / 1000;
  /** Wake-ups until the next look; how many the last rest had; requests found by looking since the last vain end of it. */
  let resting = spinMs > 0 ? 0 : Number.POSITIVE_INFINITY;
  let rest = 1;
  let hits = 0;
  let busy: ServedMount | null = null;
  let turned = performance.now();
  /** Something was done since the event loop turned. */
  let owesTurn = false;
  while (!stopping) {
    let found = 0;
    if (busy?.gone) busy = null;
    if (busy !== null && longWork.sleepMs() !== 0 && resting-- <= 0) {
      found = look(busy, spinMs);
      hits += found;
      if (found < LOOKS) {
        rest = !lostProcessor && hits >= PAYS ? 1 : Math.min(rest * (lostProcessor ? 8 : 2), LONGEST_REST);
        resting = rest;
        hits = 0;
      }
    }
    const sleepMs = found === LOOKS ? 0 : longWork.sleepMs();
    const timeout = sleepMs >= 0 ? sleepMs : awake.held ? AWAKE_MS : owesTurn ? EVENT_LOOP_MS : -1;
    const ready = sys.epollWait(epoll, timeout);
    const served = ready > 0 ? serveReady(ready) : null;
    if (served !== null) busy = served;
    else if (ready <= 0 && timeout !== 0) awake.release();
    longWork.turn(found > 0 || served !== null);
    owesTurn ||= ready > 0 || found > 0;
    if (!owesTurn || performance.now() - turned < EVENT_LOOP_MS) continue;
    await eventLoop();
    turned = performance.now();
    owesTurn = false;
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
  await run();
} catch (error) {
  post({ event: 'log', line: `a serving thread failed: ${describe(error)}` });
  throw error;
}
process.exit(0);
