/**
 * The check at open: in an appliance with a file `on-open.json` beside its private layer, an open for reading waits until a scanner has judged the
 * content. The scanner is asked by a job of the blocking pool, never here; here is remembered, for a minute, what was clean: a shared file by its
 * entry, a private one by its size and change time while nobody may write to it. No verdict, no open.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  close,
  E,
  fstat,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  type Stat,
} from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { openShared } from '../copy-up/shared-content.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { complete } from '../delta/fill.ts';
import { openBase, partialOf } from '../delta/partial-file.ts';
import { statNode } from '../nodes/attributes.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import type { Unit } from '../stack/stack.ts';

/** So long a verdict is not asked for again: then the signatures may be new. */
const TRUSTED_MS = 60_000;
/** The requests that waited for a verdict come again at once: they pass, each once, also when the file may change all the time. */
const PASS_MS = 100;
/** Files that are remembered. */
const MOST = 16_384;

interface Clean {
  untilMs: number;
  /** Of a private file: what it was; null: whatever it is now. */
  was: Pick<Stat, 'size' | 'ctimeSec' | 'ctimeNsec'> | null;
  /** Opens that it is good for. */
  passes: number;
}

export interface ScanOnOpen {
  /** Says how to judge. */
  readonly file: string;
  readonly shared: Map<Unit, Map<number, Clean>>;
  readonly own: Map<number, Clean>;
  /** Judgements under way. */
  readonly underWay: Map<Node, { job: SlowJob; waiters: number }>;
  count: number;
}

export function onOpenFile(privateDir: string): string {
  return join(dirname(privateDir), 'on-open.json');
}

/** Whether the appliance is checked at open, as its files say now. What was remembered is forgotten. */
export function readScanOnOpen(privateDir: string): ScanOnOpen | null {
  const file = onOpenFile(privateDir);
  if (!existsSync(file)) return null;
  return { file, shared: new Map(), own: new Map(), underWay: new Map(), count: 0 };
}

const stat = newStat();

/** 0: the content is clean; PENDING with a job that judges it; else a negative errno. */
export function judgedForOpen(core: Core, caller: Caller, node: Node): number {
  const state = core.scanOnOpen;
  if (state === null) return 0;
  const under = state.underWay.get(node);
  if (under !== undefined) {
    under.waiters++;
    caller.job = under.job;
    return PENDING;
  }
  if (node.priv) {
    const result = statNode(core, node, stat);
    if (result < 0) return result === -E.NOENT ? -E.STALE : result;
    if (stat.size === 0 || isClean(state.own.get(node.privIno), stat)) return 0;
  } else if (node.unit === null) return -E.STALE;
  else {
    if (node.unit.index.size(node.entry) === 0) return 0;
    if (isClean(state.shared.get(node.unit)?.get(node.entry), null)) return 0;
  }
  const partial = partialOf(core, node);
  // A scanner reads one file: what shows blocks of two is completed first.
  if (partial !== null && !partial.form.meta) {
    const whole = complete(core, caller, node);
    if (whole !== 0) return whole;
  }
  const below = node.partial?.form ?? null;
  const fd = below === null ? openContent(core, node) : openBase(core, below);
  if (fd < 0) return fd === -E.NOENT ? -E.STALE : fd;
  caller.job = begin(state, node, fd, below !== null);
  return PENDING;
}

function isClean(known: Clean | undefined, now: Stat | null): boolean {
  if (known === undefined || known.passes === 0 || known.untilMs < performance.now()) return false;
  const { was } = known;
  known.passes--;
  if (was === null || now === null) return true;
  return was.size === now.size && was.ctimeSec === now.ctimeSec && was.ctimeNsec === now.ctimeNsec;
}

function openContent(core: Core, node: Node): number {
  if (!node.priv) return openShared(node.unit!, node.entry);
  if (node.parent === null) return node.backing === null ? -E.STALE : reopened(node.backing.fd);
  const parent = directoryFd(core, node.parent);
  const flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  return parent < 0 ? parent : openat(parent, node.name, flags);
}

/** A file without a name. */
function reopened(fd: number): number {
  return openat(-1, `/proc/self/fd/${fd}`, O_RDONLY | O_CLOEXEC);
}

/** `below`: the content is that of a file below, whose change time says nothing of the private one. */
function begin(state: ScanOnOpen, node: Node, fd: number, below: boolean): SlowJob {
  const { unit, entry, priv, privIno } = node;
  const before = newStat();
  fstat(fd, before);
  const job = slowJob('retry', {
    kind: 'scan',
    fd,
    digest: priv ? null : unit!.index.digest(entry),
    file: state.file,
    done(errno) {
      const waiters = state.underWay.get(node)?.waiters ?? 0;
      state.underWay.delete(node);
      const after = newStat();
      const same =
        fstat(fd, after) === 0 && after.ctimeSec === before.ctimeSec && after.ctimeNsec === before.ctimeNsec;
      close(fd);
      if (errno < 0) return;
      const now = performance.now();
      const always = { untilMs: now + TRUSTED_MS, was: null, passes: Number.POSITIVE_INFINITY };
      if (!priv) remember(state, sharedOf(state, unit!), entry, always);
      else if (same && !below && node.writers === 0)
        remember(state, state.own, privIno, { ...always, was: after });
      else remember(state, state.own, privIno, { untilMs: now + PASS_MS, was: null, passes: waiters });
    },
  });
  state.underWay.set(node, { job, waiters: 1 });
  return job;
}

function sharedOf(state: ScanOnOpen, unit: Unit): Map<number, Clean> {
  let known = state.shared.get(unit);
  if (known === undefined) {
    known = new Map();
    state.shared.set(unit, known);
  }
  return known;
}

function remember(state: ScanOnOpen, into: Map<number, Clean>, key: number, clean: Clean): void {
  if (++state.count > MOST) {
    state.count = 1;
    state.shared.clear();
    state.own.clear();
  }
  into.set(key, clean);
}
