/**
 * The freeze of a served VLFS's private layer: prepared between requests, done in one turn when no job of the pool changes a file and no open file changed
 * while it was copied. What goes on changing is told to stratad, which comes again with its writers held. Nothing that the kernel holds becomes wrong.
 */
import type { ChangedFile, SlowJob, StackSpec } from '../../vlfs/contract.ts';
import { stackName } from '../stack-name.ts';
import { failureOf, inTurn, stepwise } from './change-names.ts';
import { areHeld, letGo, watchWriteback } from './hold-syncs.ts';
import type { LoopFailure } from './messages.ts';
import type { ServeContext, ServedMount } from './served-mount.ts';

/** Nodes whose syncs hold their writers, and the threads that opened them for that. */
export interface WriteBarrier {
  nodes: number[];
  threads: number[];
}

/**
 * `changed`: nothing was done. `mapped`: it is done, and their writers are held until stratad has looked at what the kernel caches of them. `unseen`: nothing was
 * done, because nobody knows what is mapped: stratad has all of it written back and comes again with a barrier (of no nodes); then `letGo` tells whether anything that a mapping
 * changed was written back since.
 */
export interface FreezeOutcome {
  changed: ChangedFile[];
  mapped: number[];
  unseen: boolean;
}

/** For so long a moment is looked for; with writers held, a shorter time (they are held for as long as that only on an overloaded machine). */
const PATIENCE_MS = 5000;
const HELD_MS = 3000;
/** Turns in which files changed, before they are told: most programs that write rest now and then. */
const TRIES = 4;

/** What changes files while it runs. */
const CHANGING: readonly SlowJob['kind'][] = ['truncate', 'fallocate', 'copy-range', 'fill'];

/** `done` gets the files that changed, or why nothing was done. */
export function freezeMount(
  ctx: ServeContext,
  m: ServedMount,
  { stack, dir, barrier }: { stack: StackSpec; dir: string; barrier: WriteBarrier | null },
  done: (outcome: FreezeOutcome, failure: LoopFailure | null) => void,
): void {
  inTurn(m, (next) => {
    const answer = (
      failure: LoopFailure | null,
      changed: ChangedFile[] = [],
      mapped: number[] = [],
      unseen = false,
    ): void => {
      if (mapped.length === 0 && m.hold?.all !== true) letGo(ctx, m);
      m.ledger?.setStack(stackName(m.stackKey));
      done({ changed, mapped, unseen }, failure);
    };
    const finish = (failure: LoopFailure | null, changed: ChangedFile[] = [], unseen = false): void => {
      answer(failure, changed, [], unseen);
      next();
    };
    if (m.vlfs.beginFreeze === undefined) {
      finish({ code: 'UNSUPPORTED', message: `${m.id} cannot be frozen` });
      return;
    }
    const tellsNoOpens = m.server.features?.noOpen === true;
    if (tellsNoOpens && barrier === null) {
      finish(null, [], true);
      return;
    }
    if (m.hold !== null) m.hold.threads = new Set(barrier?.threads);
    m.ledger?.setNextStack(stackName(stack.key));
    const until = performance.now() + (barrier === null ? PATIENCE_MS : HELD_MS);
    const work = m.vlfs.beginFreeze(stack, dir);
    let tries = 0;
    const step = (then: (failure: LoopFailure | null) => void): void => stepwise(ctx, m, work, then, true);
    const held = new Set(barrier?.nodes);
    const later = (): void =>
      ctx.later(() => {
        attempt();
        return true;
      });
    const attempt = (): void => {
      // What is copied before the turn is copied while its writers wait.
      if (areHeld(m, barrier?.nodes ?? [])) tryOnce();
      else if (performance.now() < until) later();
      else {
        work.abort();
        finish(NOT_HELD);
      }
    };
    const tryOnce = (): void =>
      step((failure) => {
        let outcome: ReturnType<typeof work.commit> = 'wait';
        try {
          if (failure === null && !isChanging(m)) outcome = work.commit(held);
        } catch (error) {
          failure = failureOf(error);
        }
        if (typeof outcome === 'object' && 'mapped' in outcome) {
          const { mapped } = outcome;
          if (tellsNoOpens) watchWriteback(ctx, m);
          else if (mapped.length === 0) letGo(ctx, m);
          m.stackKey = stack.key;
          m.ledger?.setStack(stackName(stack.key));
          step((late) => {
            answer(late, [], mapped);
            work.follow();
            step((failed) => {
              m.followFailure = failed;
              for (const goOn of m.following.splice(0)) goOn();
              next();
            });
          });
          return;
        }
        const late = performance.now() >= until;
        if (failure === null && outcome === 'wait' && late) failure = BUSY;
        if (failure === null && (outcome === 'wait' || ++tries < TRIES)) {
          later();
          return;
        }
        work.abort();
        finish(failure, outcome === 'wait' ? [] : outcome);
      });
    attempt();
  });
}

/** `done` when all copies that follow the last freeze are made, or gets why they were not. */
export function awaitFollowing(
  m: ServedMount,
  done: (value: undefined, failure: LoopFailure | null) => void,
): void {
  inTurn(m, (next) => {
    const failure = m.followFailure;
    m.followFailure = null;
    done(undefined, failure);
    next();
  });
}

const BUSY: LoopFailure = {
  code: 'BUSY',
  message: 'files are being copied, cut or completed without rest',
  hint: 'repeat the command',
};

const NOT_HELD: LoopFailure = {
  code: 'BUSY',
  message: 'programs that write without rest cannot be held',
  hint: 'repeat the command',
};

const isChanging = (m: ServedMount): boolean =>
  [...m.waiting.keys()].some(({ kind }) => CHANGING.includes(kind));
