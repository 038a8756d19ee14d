/**
 * Completing a partial file: what it still shows of the file below is copied into it, a bounded range at a time by jobs of the pool, then it is
 * synced and loses its mark. Each range counts as its own only once it is copied, so a crash at any point leaves a file that shows the same.
 * What somebody would change in the range meanwhile waits for the job. Where the file system shares blocks, a copy without blocks of its own is
 * completed by one FICLONE.
 */
import {
  close,
  E,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fallocate,
  ficloneRange,
  fstat,
  futimens,
  lseek,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_RDWR,
  openat,
  SEEK_DATA,
  SEEK_HOLE,
  unlinkat,
} from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import { attributesMoved, type Core, type Node, step } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { temporaryName, workFd } from '../private-layer/work-dir.ts';
import { knowBytes, mayTake, settleBytes } from '../quota/quota.ts';
import { BLOCK, claim, gaps, settle, settleAll } from './block-map.ts';
import { openBase, type Partial, partialOf } from './partial-file.ts';
import { dropPartial, hideFromOverlayfs, storePartial } from './partial-form.ts';

/** Bytes of one range in the background: what a writer may have to wait for. */
const RANGE_BYTES = 8 << 20;

const stat = newStat();
/** Devices of two files -> whether they can share blocks. */
const reflinks = new Map<string, boolean>();

/**
 * Whether the private layer can share the blocks of an open file, found out by a real try, once for each pair of devices (btrfs has one for each
 * subvolume).
 */
export function canReflink(core: Core, baseFd: number): boolean {
  if (fstat(core.rootFd, stat) < 0) return false;
  const to = stat.dev;
  if (fstat(baseFd, stat) < 0) return false;
  const key = `${stat.dev} ${to}`;
  const known = reflinks.get(key);
  if (known !== undefined) return known;
  const shares = tryReflink(core, baseFd);
  reflinks.set(key, shares);
  return shares;
}

/** Shares one block of the file with a temporary one. */
function tryReflink(core: Core, baseFd: number): boolean {
  const work = workFd(core);
  if (work < 0) return false;
  const name = temporaryName(core);
  const fd = openat(work, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600);
  if (fd < 0) return false;
  const shares = ficloneRange(fd, baseFd, BLOCK) === 0;
  close(fd);
  unlinkat(work, name);
  return shares;
}

/**
 * A partial file becomes an ordinary one before the operation goes on. 0 when it is one; PENDING (with caller.job) until then, or a negative errno.
 */
export function complete(core: Core, caller: Caller, node: Node): number {
  const partial = partialOf(core, node);
  if (partial === null) return 0;
  if (partial.filling === null) {
    if (!mayFill(core, partial)) return -E.DQUOT;
    const started = beginFill(core, node, partial, Number.MAX_SAFE_INTEGER);
    if (started < 0) return started;
  }
  return waitForFill(caller, partial);
}

/** PENDING until the range that is being copied is done. */
export function waitForFill(caller: Caller, partial: Partial): number {
  const filling = partial.filling!;
  filling.started = true;
  caller.job = filling.job;
  return PENDING;
}

/** Puts a partial file into the queue of those that are completed (or only synced) in the background. */
export function queueFill(core: Core, node: Node, partial: Partial): void {
  if (partial.queued) return;
  partial.queued = true;
  core.fills.push(node);
}

/** The next job of the background, or null. It must be run once; its `done` goes on. */
export function takeFill(core: Core): SlowJob | null {
  while (core.fills.length > 0) {
    const node = core.fills[0]!;
    const partial = node.partial ?? null;
    if (partial === null || core.nodes.get(node.id) !== node) {
      core.fills.shift();
      continue;
    }
    if (partial.filling === null) {
      const started =
        wantsFill(partial) && mayFill(core, partial)
          ? beginFill(core, node, partial, RANGE_BYTES)
          : beginSettling(core, node, partial);
      if (started < 0) {
        partial.queued = false;
        core.fills.shift();
        continue;
      }
    }
    const filling = partial.filling!;
    if (filling.started) return null;
    filling.started = true;
    return filling.job;
  }
  return null;
}

/** Most of it is its own, or its map has become long. */
export function wantsFill({ form }: Partial): boolean {
  return !form.meta && (form.map.blocks * 2 >= form.limit || form.map.runs.length > MANY_RUNS);
}

/** Whether the quota has room for all of the file. */
export function mayFill(core: Core, { form }: Partial): boolean {
  return mayTake(core, Math.max(0, form.limit - form.map.blocks) * BLOCK, 0) === 0;
}

const MANY_RUNS = 256;

/** The last close of a file that was open for writing: what it is now goes to the disk, in the background. */
export function settleLater(core: Core, node: Node, partial: Partial): void {
  if (partial.metaOnDisk) partial.form.meta = true;
  else if (wantsFill(partial) || isUnsettled(partial)) queueFill(core, node, partial);
}

const isUnsettled = ({ form }: Partial): boolean => form.map.runs.some(({ settled }) => !settled);

/** Starts a sync after which the map is known to be true. 0 or a negative errno. */
function beginSettling(core: Core, node: Node, partial: Partial): number {
  if (!isUnsettled(partial)) return -E.INVAL;
  const opened = open(core, node, partial);
  if (opened < 0) return opened;
  const filling = partial.filling!;
  const { changes } = partial;
  filling.job = slowJob('retry', {
    kind: 'fsync',
    fd: filling.fd,
    dataOnly: false,
    done(errno) {
      if (errno === 0) settled(partial, filling.fd, changes);
      dropFill(partial);
      partial.queued = false;
      if (errno < 0) giveUp(core, node, partial);
    },
  });
  return 0;
}

/** A sync that began when there had been `changes` is done. */
export function settled({ form, changes: now }: Partial, fd: number, changes: number): void {
  if (now !== changes) return;
  settleAll(form.map);
  storePartial(fd, form);
}

/** Starts to copy the next range. 0 or a negative errno. */
function beginFill(core: Core, node: Node, partial: Partial, mostBytes: number): number {
  const opened = open(core, node, partial);
  if (opened < 0) return opened;
  nextRange(core, node, partial, mostBytes);
  return 0;
}

function open(core: Core, node: Node, partial: Partial): number {
  if (node.parent === null) return -E.STALE;
  const parentFd = directoryFd(core, node.parent);
  if (parentFd < 0) return parentFd;
  const fd = openat(parentFd, node.name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd === -E.NOENT ? -E.STALE : fd;
  const baseFd = openBase(core, partial.form);
  if (baseFd < 0 || fstat(fd, stat) < 0) {
    close(fd);
    return baseFd < 0 ? baseFd : -E.IO;
  }
  const { atimeSec, atimeNsec, mtimeSec, mtimeNsec } = stat;
  if (core.quota !== null) knowBytes(core, node);
  core.filling++;
  partial.filling = {
    core,
    from: 0,
    to: 0,
    job: null as never,
    started: false,
    fd,
    baseFd,
    times: { atimeSec, atimeNsec, mtimeSec, mtimeNsec },
  };
  return 0;
}

function nextRange(core: Core, node: Node, partial: Partial, mostBytes: number): void {
  const filling = partial.filling!;
  const { form } = partial;
  const plan = planRange(filling.baseFd, partial, mostBytes);
  if (plan === null) {
    sync(core, node, partial);
    return;
  }
  // Nothing of what a killed process wrote there before its map did may show.
  for (const [from, to] of plan.holes)
    fallocate(filling.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from * BLOCK, (to - from) * BLOCK);
  filling.from = plan.from;
  filling.to = plan.to;
  filling.started = false;
  filling.job = slowJob('retry', {
    kind: 'fill',
    fromFd: filling.baseFd,
    toFd: filling.fd,
    pieces: plan.pieces,
    clone: partial.metaOnDisk && canReflink(core, filling.baseFd),
    done(errno) {
      restoreTimes(partial);
      if (core.quota !== null) settleBytes(core, node);
      if (errno < 0) return giveUp(core, node, partial);
      // What is whole needs no map: the mark goes after the sync.
      if (gaps(form.map, plan.to, form.limit).length === 0) return sync(core, node, partial);
      step(core, 'fill: range');
      if (partial.metaOnDisk) hideFromOverlayfs(filling.fd);
      partial.metaOnDisk = form.meta = false;
      for (const [from, to] of plan.holes) settle(form.map, from, to);
      claim(form.map, plan.from, plan.to);
      partial.changes++;
      storePartial(filling.fd, form);
      filling.from = filling.to = 0;
      if (mostBytes === RANGE_BYTES) {
        dropFill(partial);
        partial.queued = false;
        queueFill(core, node, partial);
      } else nextRange(core, node, partial, mostBytes);
    },
  });
}

interface Plan {
  from: number;
  to: number;
  /** offset, length, offset, length ... */
  pieces: number[];
  /** Blocks that are holes below. */
  holes: [number, number][];
}

/** The next blocks that show the file below; null when none does. */
function planRange(baseFd: number, { form }: Partial, mostBytes: number): Plan | null {
  const pieces: number[] = [];
  const holes: [number, number][] = [];
  let bytes = 0;
  let first = -1;
  let last = -1;
  for (const [from, to] of gaps(form.map, 0, form.limit)) {
    if (bytes >= mostBytes) break;
    if (first < 0) first = from;
    for (let at = from; at < to && bytes < mostBytes; ) {
      const data = lseek(baseFd, at * BLOCK, SEEK_DATA);
      const dataFrom = data < 0 ? to : Math.min(to, Math.max(at, Math.floor(data / BLOCK)));
      if (dataFrom > at) holes.push([at, dataFrom]);
      at = dataFrom;
      last = at;
      if (at >= to) break;
      const hole = lseek(baseFd, at * BLOCK, SEEK_HOLE);
      const dataTo = Math.max(at + 1, Math.min(to, hole < 0 ? to : Math.ceil(hole / BLOCK)));
      const length = Math.min(dataTo - at, Math.ceil((mostBytes - bytes) / BLOCK));
      const end = Math.min((at + length) * BLOCK, form.baseSize);
      pieces.push(at * BLOCK, end - at * BLOCK);
      bytes += length * BLOCK;
      at += length;
      last = at;
    }
  }
  return first < 0 ? null : { from: first, to: last, pieces, holes };
}

/** All is copied: to the disk, then the mark goes. */
function sync(core: Core, node: Node, partial: Partial): void {
  const filling = partial.filling!;
  filling.started = false;
  filling.job = slowJob('retry', {
    kind: 'fsync',
    fd: filling.fd,
    dataOnly: false,
    done(errno) {
      if (errno === 0) {
        settleAll(partial.form.map);
        step(core, 'fill: whole');
        if (dropPartial(filling.fd) === 0) {
          node.partial = null;
          if (node.backing?.partial === partial) node.backing.partial = null;
        }
      }
      restoreTimes(partial);
      if (errno < 0) giveUp(core, node, partial);
      else dropFill(partial);
      attributesMoved(core, node);
    },
  });
}

/** Times that somebody set or changed while a range is being copied. */
export function keepFillTimes(partial: Partial, fd: number): void {
  const times = partial.filling?.times;
  if (times === undefined || fstat(fd, stat) < 0) return;
  times.atimeSec = stat.atimeSec;
  times.atimeNsec = stat.atimeNsec;
  times.mtimeSec = stat.mtimeSec;
  times.mtimeNsec = stat.mtimeNsec;
}

function restoreTimes({ filling }: Partial): void {
  if (filling === null) return;
  const { atimeSec, atimeNsec, mtimeSec, mtimeNsec } = filling.times;
  futimens(filling.fd, atimeSec, atimeNsec, mtimeSec, mtimeNsec);
}

/** After a failure, such as a full disk: it is not tried again before the next close. */
function giveUp(core: Core, node: Node, partial: Partial): void {
  dropFill(partial);
  partial.queued = false;
  for (let at = core.fills.indexOf(node); at >= 0; at = core.fills.indexOf(node)) core.fills.splice(at, 1);
}

/** Gives up what is under way; the file stays partial. */
export function dropFill(partial: Partial): void {
  const { filling } = partial;
  if (filling === null) return;
  partial.filling = null;
  filling.core.filling--;
  close(filling.fd);
  close(filling.baseFd);
}
