/**
 * How the descriptors of strata-fs outlive it. A holder process shares its descriptor table (sys/hold.ts); ROOT/run/strata-fs.state names the
 * two and the descriptor of the index, an anonymous file that lists the ledgers of all VLFSs. A new strata-fs fetches ledgers and connections from the
 * holder of the dead one, notes everything in ledgers of its own, and only then makes itself the one that counts, by renaming the state file; so
 * it may be killed at any moment too. Locks by flock do not tell who lives, because the holder would keep them.
 */
import { closeSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import type { DataPlanePaths } from './paths.ts';
import { kill, lives, markOf, type ProcessMark } from './process-life.ts';

const LOCK_EX = 2;
/** Entries of the index: VLFSs of one strata-fs. */
const INDEX_ENTRIES = 1 << 18;
const INDEX_BYTES = INDEX_ENTRIES * 4;
export const HOLDER_TITLE = 'strata-hold';

interface State {
  server: ProcessMark;
  holder: ProcessMark | null;
  index: number;
  /** The shell that starts it again, when there is one. */
  watch: ProcessMark | null;
}

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
  /** At the end: nothing is held any more. */
  end(): void;
}

function readState(paths: DataPlanePaths): State | null {
  try {
    return JSON.parse(readFileSync(paths.state, 'utf8')) as State;
  } catch {
    return null;
  }
}

function writeState(paths: DataPlanePaths, state: State): void {
  writeFileSync(`${paths.state}.tmp`, JSON.stringify(state), { mode: 0o600 });
  renameSync(`${paths.state}.tmp`, paths.state);
}

/** The strata-fs of this root, when it lives. */
export function livingServer(paths: DataPlanePaths): ProcessMark | null {
  const state = readState(paths);
  return state !== null && lives(state.server) ? state.server : null;
}

/** The holder of this root, when it lives. */
export function livingHolder(paths: DataPlanePaths): ProcessMark | null {
  const holder = readState(paths)?.holder ?? null;
  return lives(holder) ? holder : null;
}

/** The shell that starts strata-fs again, when it lives. */
export function livingWatch(paths: DataPlanePaths): ProcessMark | null {
  const watch = readState(paths)?.watch ?? null;
  return lives(watch) ? watch : null;
}

/** Becomes the strata-fs of this root, a child of the watching shell if `isWatched`. Throws BUSY when one lives. */
export function beginHolding(root: string, paths: DataPlanePaths, isWatched: boolean): Holding {
  const lock = openSync(paths.lock, 'a', 0o600);
  let former: State | null;
  const self = markOf(process.pid);
  const watch = isWatched ? markOf(process.ppid) : null;
  if (self === null) throw new StrataError('INTERNAL', '/proc is not mounted');
  try {
    // Held for moments only.
    if (sys.flock(lock, LOCK_EX) < 0) throw new StrataError('IO', `cannot lock ${paths.lock}`);
    former = readState(paths);
    if (former !== null && lives(former.server))
      throw new StrataError('BUSY', `another strata-fs serves ${root}`);
    endStrayHolders(root, former?.holder?.pid ?? 0);
    // What stands there leads to the socket of the dead one, which its holder keeps open.
    rmSync(paths.socket, { force: true });
    writeState(paths, { server: self, holder: former?.holder ?? null, index: former?.index ?? -1, watch });
  } finally {
    // Before the holder is made, which would keep it.
    closeSync(lock);
  }
  const left = former === null ? null : openFormer(former);
  const holder = startHolder(root);
  const indexFd = sys.memfdCreate('strata-index');
  if (indexFd >= 0) sys.ftruncate(indexFd, INDEX_BYTES);
  const mapped = indexFd < 0 ? indexFd : sys.mapShared(indexFd, INDEX_BYTES);
  const index = typeof mapped === 'number' ? null : new Int32Array(mapped);
  let used = 0;

  return {
    former: left,
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
      writeState(paths, { server: self, holder, index: indexFd, watch });
      if (left !== null) sys.close(left.pidfd);
      kill(former?.holder ?? null);
    },
    end() {
      writeState(paths, { server: self, holder: null, index: -1, watch });
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

/** Holders that nobody refers to: of processes that were killed while they took over. */
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
  const ledgers = [...new Int32Array(mapped)].filter((fd) => fd > 0);
  return { ledgers, take, pidfd };
}
