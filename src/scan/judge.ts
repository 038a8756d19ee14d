/**
 * One open file to its verdict: reads it, names its content, asks the store, and the scanner only when no verdict is kept. Kept true: a
 * verdict and a file's identity are only kept of content that did not change while it was read. Memory is bounded: a buffer for each
 * judgement under way.
 */
import { createHash, hash } from 'node:crypto';
import type { Digest } from '../base/index.ts';
import { cleanPages, errnoName, fstat, newStat, pread, type Stat, syncfs } from '../sys/index.ts';
import type { Outcome, Scanner } from './contract.ts';
import type { VerdictStore } from './store.ts';

export interface Judged {
  /** Null: it could not be read. */
  digest: Digest | null;
  outcome: Outcome;
  /** The scanner was asked. */
  scanned: boolean;
  bytesRead: number;
}

export interface JudgeOptions {
  scanner: Scanner;
  store: VerdictStore;
  maxBytes: number;
  /** A content that changes while it is read is judged as it was read, but not remembered. Default: it is not judged. */
  mayChange?: boolean;
}

export interface Judge {
  /**
   * `fd` stays open and belongs to the caller. `known`: the digest of shared content that never changes, by its index; it is checked.
   * Never throws for what a file holds.
   */
  judge(fd: number, known: Digest | null): Promise<Judged>;
}

/** Up to this size a content is read into memory, named, and only then scanned. */
const WHOLE_BYTES = 1 << 20;
/** A file may be so many times as long as what it takes on the disk; smaller files may be all holes. */
const SPARSE_RATIO = 256;
/** Times of files are counted in ticks of at most this. */
const TICK_MS = 20;
/** Files that have not changed for so long have no dirty pages: the kernel writes those out after half a minute. */
export const OLD_MS = 10 * 60_000;
/** After so many files that changed lately one sync of the file system costs less than one of each. */
const MANY_RECENT = 256;
/** Readings of a file that changes meanwhile. */
const TRIES = 3;

export function createJudge(options: JudgeOptions): Judge {
  const settle = settler();
  const { scanner, store, maxBytes } = options;
  /** Contents that the scanner has now: others with the same content wait for it. */
  const underWay = new Map<Digest, Promise<Outcome>>();
  const buffers: Buffer[] = [];

  async function scanOnce(
    digest: Digest,
    work: () => Promise<Outcome>,
  ): Promise<{ outcome: Outcome; scanned: boolean }> {
    const other = underWay.get(digest);
    if (other !== undefined) return { outcome: await other, scanned: false };
    const mine = work();
    underWay.set(digest, mine);
    try {
      return { outcome: await mine, scanned: true };
    } finally {
      underWay.delete(digest);
    }
  }

  async function once(fd: number, known: Digest | null, stat: Stat, buffer: Buffer): Promise<Judged> {
    const { size } = stat;
    let bytesRead = 0;
    const unread = (outcome: Outcome): Judged => ({ digest: null, outcome, scanned: false, bytesRead });
    const readSome = (offset: number): Uint8Array | number => {
      const got = pread(fd, buffer, buffer.length, offset);
      if (got > 0) bytesRead += got;
      return got < 0 ? got : buffer.subarray(0, got);
    };
    const readFailed = (errno: number): Judged =>
      unread({ kind: 'failed', reason: `cannot be read (${errnoName(-errno)})` });
    const differs = (): Judged =>
      unread({ kind: 'failed', reason: 'differs from the index of its layer: see strata fsck --deep' });

    if (size <= WHOLE_BYTES) {
      let filled = 0;
      while (filled < size) {
        const got = pread(fd, buffer.subarray(filled), size - filled, filled);
        if (got < 0) return readFailed(got);
        if (got === 0) break;
        filled += got;
        bytesRead += got;
      }
      const bytes = buffer.subarray(0, filled);
      const digest = hash('sha256', bytes, 'hex') as Digest;
      if (known !== null && known !== digest) return differs();
      const kept = store.verdict(digest);
      if (kept !== null) return { digest, outcome: kept, scanned: false, bytesRead };
      const chunks = async function* () {
        yield bytes;
      };
      const { outcome, scanned } = await scanOnce(digest, () => scanner.scan({ fd, chunks }));
      return { digest, outcome, scanned, bytesRead };
    }

    let failure = 0;
    let named: Digest | null = null;
    const chunks = async function* (): AsyncGenerator<Uint8Array> {
      const digest = createHash('sha256');
      for (let at = 0; ; ) {
        const got = readSome(at);
        if (typeof got === 'number') {
          failure = got;
          return;
        }
        // What grows while it is read has no end of its own.
        const part = got.subarray(0, Math.max(0, size - at));
        if (part.length === 0) break;
        digest.update(part);
        at += part.length;
        yield part;
        await new Promise((resolve) => setImmediate(resolve));
      }
      named = digest.digest('hex') as Digest;
    };
    const readThrough = async (): Promise<void> => {
      for await (const _ of chunks());
    };

    if (scanner.takesBytes) {
      const scanIt = async (): Promise<Outcome> => scanner.scan({ fd, chunks });
      const { outcome, scanned } =
        known === null ? { outcome: await scanIt(), scanned: true } : await scanOnce(known, scanIt);
      if (failure < 0) return readFailed(failure);
      if (!scanned || outcome.kind === 'failed' || outcome.kind === 'skipped')
        return { digest: known, outcome, scanned, bytesRead };
      if (named === null) return unread({ kind: 'failed', reason: 'the scanner did not read to its end' });
      if (known !== null && known !== named) return differs();
      return { digest: named, outcome, scanned, bytesRead };
    }
    await readThrough();
    if (failure < 0 || named === null) return readFailed(failure);
    const digest: Digest = named;
    if (known !== null && known !== digest) return differs();
    const kept = store.verdict(digest);
    if (kept !== null) return { digest, outcome: kept, scanned: false, bytesRead };
    const { outcome, scanned } = await scanOnce(digest, () => scanner.scan({ fd, chunks }));
    return { digest, outcome, scanned, bytesRead };
  }

  return {
    async judge(fd, known) {
      const buffer = buffers.pop() ?? Buffer.allocUnsafeSlow(WHOLE_BYTES);
      let bytesRead = 0;
      try {
        for (let tries = 1; ; tries++) {
          const before = newStat();
          const after = newStat();
          const result = fstat(fd, before);
          if (result < 0) return { digest: null, outcome: cannotRead(result), scanned: false, bytesRead };
          const refused = beyondLimits(before, maxBytes, known !== null);
          if (refused !== null) return { digest: null, outcome: refused, scanned: false, bytesRead };
          const settled = known === null ? settle(fd, before) : 0;
          const judged = await once(fd, known, before, buffer);
          bytesRead += judged.bytesRead;
          const changed = fstat(fd, after) < 0 || !sameContent(before, after);
          if (changed && tries < TRIES) continue;
          if (changed && options.mayChange === true) return { ...judged, bytesRead };
          if (changed) {
            const reason = 'changes while it is read';
            return { digest: null, outcome: { kind: 'failed', reason }, scanned: judged.scanned, bytesRead };
          }
          keep(judged, before, settled, known === null);
          return { ...judged, bytesRead };
        }
      } finally {
        buffers.push(buffer);
      }
    },
  };

  function keep({ digest, outcome, scanned }: Judged, stat: Stat, settled: number, isOwn: boolean): void {
    if (digest === null) return;
    if (scanned && (outcome.kind === 'clean' || outcome.kind === 'infected')) store.put(digest, outcome);
    if (isOwn && changedMs(stat) + TICK_MS < settled) store.remember(stat, digest);
  }
}

/** When the file changed last, in milliseconds since 1970. */
export function changedMs(stat: Stat): number {
  return stat.ctimeSec * 1000 + stat.ctimeNsec / 1e6;
}

export function sameContent(a: Stat, b: Stat): boolean {
  return (
    a.size === b.size &&
    a.ctimeSec === b.ctimeSec &&
    a.ctimeNsec === b.ctimeNsec &&
    a.mtimeSec === b.mtimeSec &&
    a.mtimeNsec === b.mtimeNsec
  );
}

function cannotRead(errno: number): Outcome {
  return { kind: 'failed', reason: `cannot be read (${errnoName(-errno)})` };
}

/** What is not read: it would cost more than it takes on the disk by orders of magnitude. */
export function beyondLimits(stat: Stat, maxBytes: number, isShared: boolean): Outcome | null {
  if (stat.size > maxBytes) return { kind: 'skipped', reason: 'larger than --max-size' };
  if (isShared || stat.size <= WHOLE_BYTES || stat.size <= SPARSE_RATIO * 512 * stat.blocks) return null;
  return { kind: 'skipped', reason: 'almost nothing but holes' };
}

/**
 * A page that is dirty already takes further stores through a mapping without a change of the file's times. So a file that changed lately is written
 * out before it is read: gives the moment (milliseconds since 1970) before which a change tells that no such page is left.
 */
function settler(): (fd: number, stat: Stat) => number {
  let recent = 0;
  let synced = 0;
  let device = -1;
  return (fd, stat) => {
    const now = Date.now();
    const changed = changedMs(stat);
    if (changed < now - OLD_MS) return now;
    if (stat.dev === device && changed + TICK_MS < synced) return synced;
    if (++recent % MANY_RECENT > 0) return cleanPages(fd) < 0 ? 0 : now;
    if (syncfs(fd) < 0) return 0;
    device = stat.dev;
    synced = now;
    return now;
  };
}
