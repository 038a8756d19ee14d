/**
 * A directory becomes the appliance's own with all that it shows: what the layers give to it is copied up, and each directory whose names are all private is made
 * opaque, from the depths up. Nothing that one can see changes by any of it, so it is done in steps between requests, and what is given up in between (a full disk,
 * a relayer, a crash) needs no undoing.
 */
import { E, fgetxattr, fsetxattr, S_IFDIR, S_IFMT } from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { attributesMoved, type Core, type Node, step } from '../core.ts';
import { encodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt, PRIVATE, refresh, resolve, SHARED } from '../operations/lookup.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { carryOn } from '../private-layer/unfinished.ts';
import { OPAQUE } from '../stack/merged-directory.ts';
import { nameSteps } from '../stack/merged-names.ts';
import type { Steps } from '../steps.ts';
import { copyUp } from './copy-up.ts';
import { slowJob } from './slow-job.ts';

/** What takes longer goes on between requests. */
const AT_ONCE_MS = 1;

const NEVER = -1;

interface Copying {
  /** Of the VLFS; in another one it begins anew. */
  generation: number;
  steps: Steps<number>;
  /** What all who want it wait for, or null. */
  job: SlowJob | null;
  /** How it ended, or null. */
  result: number | null;
}

const underWay = new WeakMap<Node, Copying>();

/**
 * Before an operation that needs a directory without a redirect to show nothing of the layers; it may be repeated until it gives 0. PENDING (with caller.job) or
 * a negative errno.
 */
export function copyUpTree(core: Core, caller: Caller, directory: Node): number {
  let copying = underWay.get(directory);
  if (copying === undefined || copying.generation !== core.generation) {
    if (copying !== undefined) giveUp(core, copying);
    const steps = treeSteps(core, directory);
    copying = { generation: core.generation, steps, job: null, result: null };
    underWay.set(directory, copying);
  }
  const went = goOn(core, copying, performance.now() + AT_ONCE_MS);
  if (typeof went === 'number') {
    underWay.delete(directory);
    return went;
  }
  caller.job = went;
  return PENDING;
}

/** How it ended, or what to wait for. */
function goOn(core: Core, copying: Copying, untilMs: number): number | SlowJob {
  if (copying.result !== null) return copying.result;
  // Steps that throw have ended: who asks again begins anew.
  copying.generation = NEVER;
  const went = carryOn(core, copying.steps, untilMs);
  copying.generation = core.generation;
  if (went !== 'more' && !('result' in went)) return went;
  if (went !== 'more') {
    copying.result = went.result;
    return went.result;
  }
  copying.job ??= slowJob('retry', {
    kind: 'steps',
    advance(until) {
      const self = copying.job;
      // What is left, and what a copy waits for, is the repeated operation's matter.
      const ended = copying.generation !== core.generation || goOn(core, copying, until) !== self;
      if (ended) copying.job = null;
      return ended ? 0 : null;
    },
  });
  return copying.job;
}

function giveUp(core: Core, { steps }: Copying): void {
  steps.return(0);
  core.unfinished.delete(steps);
}

/** A directory on the way to the one that is being copied. It is held, so that it is the same one wherever somebody moves it meanwhile. */
interface Entered {
  node: Node;
  /** The layers' names that were not looked at yet. */
  names: Iterator<string>;
}

/**
 * While the generation is the same no name of the layers comes to show (what was deleted or moved stays hidden), and nothing comes in that needs the layers' part of
 * the directory above; so what was looked at needs no second look.
 */
function* treeSteps(core: Core, top: Node): Steps<number> {
  const caller: Caller = { uid: 0, gid: 0, pid: 0, umask: 0, job: null };
  const path: Entered[] = [];
  try {
    let result = yield* enter(core, top, path);
    for (let at = path.at(-1); at !== undefined && result >= 0; at = path.at(-1)) {
      yield;
      const next = at.names.next();
      if (!next.done) result = yield* copyName(core, caller, at.node, next.value, path);
      else {
        result = close(core, at.node);
        leave(core, path);
      }
    }
    return Math.min(result, 0);
  } finally {
    while (path.length > 0) leave(core, path);
  }
}

function leave(core: Core, path: Entered[]): void {
  const { node } = path.pop()!;
  node.opens--;
  // The first one is the operation's.
  if (path.length > 0) releaseIfUnused(core, node);
}

/** Whether it shows something of the layers that depends on its place. */
function dependsOnPlace(core: Core, node: Node): boolean {
  return refresh(core, node) >= 0 && node.merged !== null && node.redirect === null;
}

function* enter(core: Core, node: Node, path: Entered[]): Steps<number> {
  if (!dependsOnPlace(core, node)) {
    if (path.length > 0) releaseIfUnused(core, node);
    return 0;
  }
  const entered: Entered = { node, names: [].values() };
  node.opens++;
  path.push(entered);
  const fd = privateDirectory(core, node);
  if (fd < 0) return fd;
  entered.names = (yield* nameSteps(node.merged!)).keys();
  return 0;
}

function* copyName(
  core: Core,
  caller: Caller,
  directory: Node,
  name: string,
  path: Entered[],
): Steps<number> {
  for (let tries = 0; ; tries++) {
    // Who removed the directory meanwhile has left nothing to copy.
    if (!dependsOnPlace(core, directory)) return 0;
    const where = resolve(core, directory, name);
    if (where < 0) return where;
    if (where !== SHARED && !(where === PRIVATE && (core.stat.mode & S_IFMT) === S_IFDIR)) return 0;
    const node = nodeAt(core, directory, name);
    if (typeof node === 'number') return node;
    if (node.children !== null) return yield* enter(core, node, path);
    const copied = copyUp(core, caller, node);
    releaseIfUnused(core, node);
    if (copied === PENDING) {
      yield caller.job!;
      caller.job = null;
    } else if (copied !== -E.STALE || tries > 0) return copied;
  }
}

/** All that it shows of the layers is private: nothing else of theirs may come. */
function close(core: Core, node: Node): number {
  if (!dependsOnPlace(core, node)) return 0;
  const fd = privateDirectory(core, node);
  if (fd < 0) return fd;
  // Without the layers' part it would get another number.
  const numbered =
    typeof fgetxattr(fd, INO_XATTR) === 'number' ? fsetxattr(fd, INO_XATTR, encodeIno(node.ino)) : 0;
  if (numbered < 0) return numbered;
  step(core, 'copy-up tree: opaque');
  const closed = fsetxattr(fd, OPAQUE, Buffer.from('y'));
  if (closed < 0) return closed;
  node.merged = null;
  attributesMoved(core, node);
  return 0;
}
