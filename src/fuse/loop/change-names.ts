/**
 * Changes that make the kernel's cached names stale: relayer, revert, reset. Whoever walks a path after the answer sees only the new
 * state, and mounts that lie inside the VLFS stay (an epoch would detach them: vlfs/contract.ts, VlfsControl).
 *
 * Relayer: (1) entries are answered with validity 0, (2) between requests the names that will change are found, (3) another thread expires them, while requests go on being
 * answered from the old stack (they may hold the locks it waits for), (4) in one turn the stack is exchanged, (5) the names that were
 * answered last before (1) are expired once more: a revalidation may have put its answer in place after (3). From (4) on nobody gets an old name.
 * Listings that the kernel keeps of directories that change are dropped with the names.
 */
import { asStrataError, StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type {
  ChangeWork,
  FreshPrivate,
  PrivateFile,
  RelayerWork,
  SlowJob,
  StackSpec,
  StaleName,
} from '../../vlfs/contract.ts';
import type { PoolJob } from '../pool/jobs.ts';
import { stackName } from '../stack-name.ts';
import { incEpochMessage, invalContentMessages, invalEntryMessages } from '../transport/notify.ts';
import type { LoopFailure } from './messages.ts';
import {
  closeAside,
  expireAttributes,
  finishIfIdle,
  goOnWithRequests,
  holdRequests,
  type ServeContext,
  type ServedMount,
  TURN_MS,
} from './served-mount.ts';

export function failureOf(error: unknown): LoopFailure {
  const { code, message, hint } = asStrataError(error);
  return hint === undefined ? { code, message } : { code, message, hint };
}

/** Runs `change` when the changes before it on this mount have called `next`. */
export function inTurn(m: ServedMount, change: (next: () => void) => void): void {
  const start = (): void => {
    m.changing = true;
    change(() => {
      m.changing = false;
      m.waitingChanges.shift()?.();
    });
  };
  if (m.changing) m.waitingChanges.push(start);
  else start();
}

function dropAllNames(m: ServedMount): void {
  if (m.server.features?.incEpoch !== true) return;
  const message = incEpochMessage();
  sys.write(m.fd, message, message.length);
}

/** Names or listings of one job: writing the messages of all at once would keep requests waiting. */
const NAMES_A_JOB = 512;

/** Expires names and drops listings, or what the kernel has of files, from the pool, then continues; at once when there are none or the connection is gone. */
function expire(
  ctx: ServeContext,
  m: ServedMount,
  names: StaleName[],
  contents: number[],
  then: () => void,
  kind: 'files' | 'listings' = 'listings',
): void {
  const expireOnly = m.server.features?.expireOnly === true;
  const part = (from: number): void => {
    const ofNames = names.slice(from, from + NAMES_A_JOB);
    const ofContents = contents.slice(from, from + NAMES_A_JOB);
    if ((ofNames.length === 0 && ofContents.length === 0) || m.gone) {
      then();
      return;
    }
    const first = invalEntryMessages(ofNames, expireOnly);
    const second = invalContentMessages(ofContents, kind);
    const messages = new Uint8Array(first.length + second.length);
    messages.set(first);
    messages.set(second, first.length);
    m.underWay++;
    ctx.pool.run(m, { kind: 'notify', fuseFd: m.fd, messages }, () => {
      m.underWay--;
      part(from + NAMES_A_JOB);
      finishIfIdle(ctx, m);
    });
  };
  part(0);
}

/** Does steps between requests, until they are ready; `then` gets why they are not. `atOnce`: a first turn of them before any request. */
export function stepwise(
  ctx: ServeContext,
  m: ServedMount,
  work: Pick<RelayerWork, 'step'>,
  then: (failure: LoopFailure | null) => void,
  atOnce = false,
): void {
  m.underWay++;
  const end = (failure: LoopFailure | null): void => {
    m.underWay--;
    then(failure);
    finishIfIdle(ctx, m);
  };
  const go = (untilMs: number): boolean => {
    try {
      const went = work.step(untilMs);
      if (went === 'more') return false;
      if (went === 'ready') end(null);
      else runJob(went);
    } catch (error) {
      end(failureOf(error));
    }
    return true;
  };
  const runJob = (job: SlowJob): void => {
    const { done, ...plain } = job as SlowJob & { done?: (errno: number) => void };
    ctx.pool.run(m, plain as PoolJob, (result) => {
      done?.(Math.min(result, 0));
      start();
    });
  };
  const start = (): void => {
    if (!atOnce || !go(performance.now() + TURN_MS)) ctx.later(go);
  };
  start();
}

/** The kernel gives up what it has of the contents of all files, where it opens them without asking: some may not be read any more. */
export function dropContents(ctx: ServeContext, m: ServedMount, done: () => void): void {
  const files = m.server.features?.noOpen === true ? (m.vlfs.knownFiles?.() ?? []) : [];
  expire(ctx, m, [], files, done, 'files');
}

export interface RelayerRequest {
  stack: StackSpec;
  privateFiles?: PrivateFile[];
}

/** Exchanges the stack of a served VLFS; `done` gets null, or why nothing was changed. */
export function relayerMount(
  ctx: ServeContext,
  m: ServedMount,
  change: RelayerRequest,
  done: (failure: LoopFailure | null) => void,
): void {
  inTurn(m, (next) => {
    const finish = (failure: LoopFailure | null): void => {
      m.server.shortLived = false;
      m.ledger?.setStack(stackName(m.stackKey));
      m.ledger?.keepNames(false);
      m.ledger?.setChanging(false);
      done(failure);
      next();
    };
    try {
      if (m.vlfs.beginRelayer === undefined) return finish(relayerAtOnce(m, change));
      m.ledger?.setNextStack(stackName(change.stack.key));
      m.ledger?.setChanging(true);
      m.server.shortLived = true;
      const recent = m.server.recentNames();
      const work = m.vlfs.beginRelayer(change.stack, change.privateFiles);
      stepwise(ctx, m, work, (failure) => {
        if (failure !== null) return finish(failure);
        exchange(ctx, m, { work, recent, stackKey: change.stack.key, finish });
      });
    } catch (error) {
      finish(failureOf(error));
    }
  });
}

/** Of a VLFS that cannot tell names: all are dropped. */
function relayerAtOnce(m: ServedMount, change: RelayerRequest): null {
  dropAllNames(m);
  m.vlfs.relayer(change.stack, change.privateFiles);
  m.stackKey = change.stack.key;
  return null;
}

interface Exchange {
  work: RelayerWork;
  recent: StaleName[];
  stackKey: string;
  finish: (failure: LoopFailure | null) => void;
}

function exchange(ctx: ServeContext, m: ServedMount, { work, recent, stackKey, finish }: Exchange): void {
  const unchanged = work.unchanged();
  const listings = m.vlfs.takeListed?.(unchanged) ?? [];
  expire(ctx, m, work.names(), listings, () => {
    m.ledger?.keepNames(true);
    try {
      work.commit();
    } catch (error) {
      return finish(failureOf(error));
    }
    m.stackKey = stackKey;
    m.server.shortLived = false;
    // Who opened a directory before may have filled its listing again meanwhile.
    const again = [...new Set([...listings, ...(m.vlfs.takeListed?.(unchanged) ?? [])])];
    expire(ctx, m, recent, again, () => stepwise(ctx, m, work, () => finish(null)));
  });
}

/**
 * Runs revert or reset of a served VLFS in steps, then expires what it changed. Until the last step no request of this mount is carried out: its programs wait,
 * those of other mounts go on.
 */
export function changeMount<T>(
  ctx: ServeContext,
  m: ServedMount,
  begin: () => ChangeWork<T>,
  done: (value: T | undefined, failure: LoopFailure | null) => void,
): void {
  inTurn(m, (next) => {
    m.ledger?.setChanging(true);
    m.ledger?.keepNames(true);
    holdRequests(ctx, m);
    let work: ChangeWork<T> | null = null;
    const end = (value: T | undefined, failure: LoopFailure | null): void => {
      if (m.closing.length > 0) closeAside(ctx, m, null);
      if (m.moved.length > 0) expireAttributes(m);
      let names: StaleName[] = [];
      try {
        if (m.vlfs.takeStaleNames === undefined) dropAllNames(m);
        else names = m.vlfs.takeStaleNames();
      } catch (error) {
        failure ??= failureOf(error);
      }
      expire(ctx, m, names, m.vlfs.takeListed?.() ?? [], () => {
        m.ledger?.keepNames(false);
        m.ledger?.setChanging(false);
        done(value, failure);
        next();
      });
      goOnWithRequests(ctx, m);
    };
    ctx.later((untilMs) => {
      try {
        work ??= begin();
        const went = work.step(untilMs);
        if (went === 'more') return false;
        end(went.result, null);
      } catch (error) {
        end(undefined, failureOf(error));
      }
      return true;
    });
  });
}

/** Exchanges the stack with what belongs to it; its programs wait meanwhile. */
export function exchangeMount(
  ctx: ServeContext,
  m: ServedMount,
  { stack, fresh }: { stack: StackSpec; fresh: FreshPrivate | null },
  done: (value: undefined, failure: LoopFailure | null) => void,
): void {
  const begin = (): ChangeWork<void> => {
    if (m.vlfs.beginExchange === undefined)
      throw new StrataError('UNSUPPORTED', `${m.id} cannot be exchanged`);
    m.ledger?.setNextStack(stackName(stack.key));
    return m.vlfs.beginExchange(stack, fresh);
  };
  changeMount(ctx, m, begin, (_, failure) => {
    if (failure === null) m.stackKey = stack.key;
    m.ledger?.setStack(stackName(m.stackKey));
    done(undefined, failure);
  });
}

/** After a takeover from a process that was killed while it changed names: all that may be wrong are looked up again. */
export function expireEveryName(ctx: ServeContext, m: ServedMount): void {
  inTurn(m, (next) => {
    let names: StaleName[] = [];
    try {
      names = m.vlfs.everyName?.() ?? [];
    } catch (error) {
      ctx.log(`${m.id}: its names could not be listed: ${String(error)}`);
    }
    expire(ctx, m, names, m.vlfs.takeListed?.() ?? [], () => {
      m.ledger?.setChanging(false);
      next();
    });
  });
}
