/**
 * The private copies of the directories above a change, when they are many: made in steps between the requests, the uppermost first. Nobody sees anything of a
 * copy, so what is given up in between, or overtaken by a freeze, a relayer or a rename, needs no undoing.
 */
import { type Caller, PENDING } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { advance, type Steps } from '../steps.ts';
import { privateDirectory } from './private-layer.ts';

/** Directories that an operation may copy itself. */
const MANY = 16;

/**
 * Before an operation that makes a directory private (privateDirectory): PENDING while too many above it, and it, have to be copied or looked at
 * anew; else 0. Why they cannot be copied is the operation's answer.
 */
export function chainPrivate(core: Core, caller: Caller, node: Node): number {
  if (core.readOnly) return 0;
  let missing = 0;
  for (let at: Node | null = node; at !== null && !isPrivate(core, at); at = at.parent) missing++;
  if (missing <= MANY) return 0;
  const steps = copySteps(core, node, core.quota?.lenient ?? false);
  caller.job = slowJob('retry', {
    kind: 'steps',
    advance(untilMs) {
      const went = advance(steps, untilMs);
      return typeof went === 'object' && 'result' in went ? went.result : null;
    },
  });
  return PENDING;
}

function isPrivate(core: Core, node: Node): boolean {
  return node.priv && node.generation === core.generation;
}

/** 0 or a negative errno. One directory a step. */
function* copySteps(core: Core, node: Node, lenient: boolean): Steps<number> {
  for (;;) {
    const missing: Node[] = [];
    for (let at: Node | null = node; at !== null && !isPrivate(core, at); at = at.parent) missing.push(at);
    if (missing.length === 0) return 0;
    for (let next = missing.pop(); next !== undefined; next = missing.pop()) {
      // What changed since the last step is looked at from the beginning.
      if (next.parent !== null && !isPrivate(core, next.parent)) break;
      const fd = leniently(core, lenient, () => privateDirectory(core, next));
      if (fd < 0) return fd;
      yield;
    }
  }
}

/** Who removes something may exceed the quota by directories. */
function leniently(core: Core, lenient: boolean, run: () => number): number {
  const { quota } = core;
  if (quota === null || !lenient) return run();
  const { lenient: before } = quota;
  quota.lenient = true;
  try {
    return run();
  } finally {
    quota.lenient = before;
  }
}
