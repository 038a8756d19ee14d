/**
 * How the descriptors of strata-fs outlive it. A holder process shares its descriptor table (sys/hold.ts); ROOT/run/strata-fs.state names the
 * two and the descriptor of the index, an anonymous file that lists the ledgers of all VLFSs. A new strata-fs fetches ledgers and connections from the
 * holder of the dead one, notes everything in ledgers of its own, and only then makes itself the one that counts, by renaming the state file; so
 * it may be killed at any moment too. Locks by flock do not tell who lives, because the holder would keep them.
 */
import { readdirSync, readFileSync } from 'node:fs';
import * as sys from '../../sys/index.ts';
import type { DataPlanePaths } from './paths.ts';
import type { Self } from './place.ts';
import { kill, lives, markOf, type ProcessMark } from './process-life.ts';
import { type State, writeState } from './state.ts';

/** Entries of the index: VLFSs of one strata-fs. */
const INDEX_ENTRIES = 1 << 18;
const INDEX_BYTES = INDEX_ENTRIES * 4;
export const HOLDER_TITLE = 'strata-hold';

/** What a dead strata-fs left. */
export interface Former {
  /** Descriptors of the ledgers in the holder. */
  ledgers: number[];
  /** A duplicate of the holder's descriptor in this process, or a negative errno. */
  take(fd: number): number;
  /** For threads: the holder's pidfd. */
  pidfd: number;
}

export interface Holding {
  former: Former | null;
  /** Lists a ledger from now on. */
  add(ledgerFd: number): void;
  remove(ledgerFd: number): void;
  /** This process and its ledgers count from now on; the former holder ends. */
  commit(): void;
  /** Its holder, when it lives. */
  holder(): ProcessMark | null;
  /** Makes another one in place of a holder that died; null when that was not possible. */
  holdAgain(): ProcessMark | null;
  /** Ends holders that nobody refers to: of processes that were killed while they took over. */
  endStrays(): void;
  /** At the end: nothing is held any more. */
  end(): void;
}

/** Begins to hold for the process that has become the strata-fs of this root (place.ts); `left` is the state it found. */
export function beginHolding(root: string, paths: DataPlanePaths, self: Self, left: State | null): Holding {
  const former = left === null ? null : openFormer(left);
  let holder = startHolder(root);
  const indexFd = sys.memfdCreate('strata-index');
  if (indexFd >= 0) sys.ftruncate(indexFd, INDEX_BYTES);
  const mapped = indexFd < 0 ? indexFd : sys.mapShared(indexFd, INDEX_BYTES);
  const index = typeof mapped === 'number' ? null : new Int32Array(mapped);
  let used = 0;
  const counts = (): void =>
    writeState(paths, { server: self.mark, holder, index: indexFd, watch: self.watch });

  return {
    former,
    add(ledgerFd) {
      if (index === null) return;
      // 0 is a free entry: no ledger has the descriptor 0.
      let at = index.subarray(0, used).indexOf(0);
      if (at < 0) at = used;
      if (at >= INDEX_ENTRIES) return;
      index[at] = ledgerFd;
      used = Math.max(used, at + 1);
    },
    remove(ledgerFd) {
      const at = index?.subarray(0, used).indexOf(ledgerFd) ?? -1;
      if (at >= 0) index![at] = 0;
    },
    commit() {
      counts();
      if (former !== null) sys.close(former.pidfd);
      kill(left?.holder ?? null);
    },
    holder: () => (lives(holder) ? holder : null),
    holdAgain() {
      holder = startHolder(root);
      counts();
      return holder;
    },
    endStrays: () => endStrayHolders(root, holder?.pid ?? 0),
    end() {
      writeState(paths, { server: self.mark, holder: null, index: -1, watch: self.watch, ended: true });
      kill(holder);
    },
  };
}

function startHolder(root: string): ProcessMark | null {
  const { title } = process;
  process.title = `${HOLDER_TITLE} ${root}`;
  const pid = sys.holdDescriptors();
  process.title = title;
  return pid < 0 ? null : markOf(pid);
}

function endStrayHolders(root: string, keep: number): void {
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === keep || pid === process.pid) continue;
    try {
      const title = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replace(/\0+$/, '');
      if (title.trim() === `${HOLDER_TITLE} ${root}`) kill(markOf(pid));
    } catch {
      // It ended meanwhile.
    }
  }
}

function openFormer({ holder, index }: State): Former | null {
  if (holder === null || index < 0 || !lives(holder)) return null;
  const pidfd = sys.pidfdOpen(holder.pid);
  if (pidfd < 0) return null;
  const take = (fd: number): number => sys.pidfdGetfd(pidfd, fd);
  const indexFd = take(index);
  const mapped = indexFd < 0 ? indexFd : sys.mapShared(indexFd, INDEX_BYTES);
  if (indexFd >= 0) sys.close(indexFd);
  if (typeof mapped === 'number') {
    sys.close(pidfd);
    return null;
  }
  const ledgers: number[] = [];
  for (const fd of new Int32Array(mapped)) if (fd > 0) ledgers.push(fd);
  return { ledgers, take, pidfd };
}
