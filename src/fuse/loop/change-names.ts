/**
 * Changes that make the kernel's cached names stale: relayer, revert, reset. Whoever walks a path after the answer sees only the new
 * state, and mounts that lie inside the VLFS stay (an epoch would detach them: vlfs/contract.ts, VlfsControl).
 *
 * Relayer: (1) entries are answered with validity 0, (2) another thread expires the names that will change, while requests go on being
 * answered from the old stack (they may hold the locks it waits for), (3) in one turn the stack is exchanged, (4) the names that were
 * answered last before (1) are expired once more: a revalidation may have put its answer in place after (2). From (3) on nobody gets an old name.
 * Listings that the kernel keeps are dropped with the names.
 */
import { asStrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { PrivateFile, StackSpec, StaleName } from '../../vlfs/contract.ts';
import { incEpochMessage, invalEntryMessages, invalListingMessages } from '../transport/notify.ts';
import type { LoopFailure } from './messages.ts';
import { finishIfIdle, type ServeContext, type ServedMount } from './served-mount.ts';

export function failureOf(error: unknown): LoopFailure {
  const { code, message, hint } = asStrataError(error);
  return hint === undefined ? { code, message } : { code, message, hint };
}

/** Runs `change` when the changes before it on this mount have called `next`. */
function inTurn(m: ServedMount, change: (next: () => void) => void): void {
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

/** Expires names and drops listings from the pool, then continues; at once when there are none or the connection is gone. */
function expire(
  ctx: ServeContext,
  m: ServedMount,
  names: StaleName[],
  listings: number[],
  then: () => void,
): void {
  if ((names.length === 0 && listings.length === 0) || m.gone) {
    then();
    return;
  }
  m.underWay++;
  const expireOnly = m.server.features?.expireOnly === true;
  const ofNames = invalEntryMessages(names, expireOnly);
  const ofListings = invalListingMessages(listings);
  const messages = new Uint8Array(ofNames.length + ofListings.length);
  messages.set(ofNames);
  messages.set(ofListings, ofNames.length);
  ctx.pool.run(m, { kind: 'notify', fuseFd: m.fd, messages }, () => {
    m.underWay--;
    then();
    finishIfIdle(ctx, m);
  });
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
      done(failure);
      next();
    };
    const { vlfs } = m;
    let names: StaleName[] | null = null;
    try {
      names = vlfs.staleNames?.(change.stack, change.privateFiles) ?? null;
    } catch (error) {
      return finish(failureOf(error));
    }
    m.server.shortLived = true;
    const recent = names === null ? [] : m.server.recentNames();
    const listings = vlfs.takeListed?.() ?? [];
    const exchange = (): LoopFailure | null => {
      try {
        if (names === null) dropAllNames(m);
        vlfs.relayer(change.stack, change.privateFiles);
        m.stackKey = change.stack.key;
        m.server.shortLived = false;
        return null;
      } catch (error) {
        return failureOf(error);
      }
    };
    expire(ctx, m, names ?? [], listings, () => {
      const failure = exchange();
      if (failure !== null) return finish(failure);
      // Who opened a directory before may have filled its listing again meanwhile.
      const again = [...new Set([...listings, ...(vlfs.takeListed?.() ?? [])])];
      expire(ctx, m, recent, again, () => finish(null));
    });
  });
}

/** Runs revert or reset of a served VLFS, then expires what it changed. */
export function changeMount(
  ctx: ServeContext,
  m: ServedMount,
  change: () => unknown,
  done: (value: unknown, failure: LoopFailure | null) => void,
): void {
  inTurn(m, (next) => {
    let value: unknown;
    let failure: LoopFailure | null = null;
    try {
      value = change();
    } catch (error) {
      failure = failureOf(error);
    }
    let names: StaleName[] = [];
    try {
      if (m.vlfs.takeStaleNames === undefined) dropAllNames(m);
      else names = m.vlfs.takeStaleNames();
    } catch (error) {
      failure ??= failureOf(error);
    }
    expire(ctx, m, names, m.vlfs.takeListed?.() ?? [], () => {
      done(value, failure);
      next();
    });
  });
}
