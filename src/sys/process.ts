/** Limits, the scheduler, and descriptors of other processes (pidfd_getfd). */
import { libc, orErrno } from './libc.ts';

const c = {
  prlimit: libc.func('int prlimit(int pid, int resource, const void *next, void *previous)'),
  pidfdOpen: libc.func('int pidfd_open(int pid, unsigned int flags)'),
  schedAttr: libc.func('syscall', 'long', ['long', 'long', 'void *', 'long', 'long']),
  pidfdGetfd: libc.func('int pidfd_getfd(int pidfd, int fd, unsigned int flags)'),
};

const RLIMIT_NOFILE = 7;

/** Raises the soft limit of open files to the hard one (to `want` when root); returns the limit in force. */
export function raiseOpenFiles(want: number): number {
  const limits = new BigUint64Array(2);
  if (c.prlimit(0, RLIMIT_NOFILE, null, limits) < 0) return orErrno(-1);
  const hard = limits[1]! > BigInt(want) ? limits[1]! : BigInt(want);
  limits[0] = hard;
  const both = new BigUint64Array([hard, hard]);
  if (c.prlimit(0, RLIMIT_NOFILE, both, null) === 0) return Number(hard);
  const previous = new BigUint64Array(2);
  c.prlimit(0, RLIMIT_NOFILE, null, previous);
  previous[0] = previous[1]!;
  c.prlimit(0, RLIMIT_NOFILE, previous, null);
  return Number(previous[0]);
}

export function pidfdOpen(pid: number): number {
  return orErrno(c.pidfdOpen(pid, 0));
}

/** A duplicate of another process's descriptor (needs ptrace permission). */
export function pidfdGetfd(pidfd: number, fd: number): number {
  return orErrno(c.pidfdGetfd(pidfd, fd, 0));
}

/** Numbers of sched_setattr and sched_getattr; struct sched_attr as it was first. */
const SCHED_CALLS = process.arch === 'x64' ? { set: 314, get: 315 } : { set: 274, get: 275 };
const SCHED_ATTR_BYTES = 48;
const SCHED_ATTR_RUNTIME = 24;

/**
 * Asks for turns of `turnUs` microseconds on the processor for this thread: it gets no more of it, but sooner when it wakes. Linux 6.12; older
 * kernels ignore it. 0 or a negative errno.
 */
export function shortenTurns(turnUs: number): number {
  const attr = Buffer.alloc(SCHED_ATTR_BYTES);
  const got = orErrno(Number(c.schedAttr(SCHED_CALLS.get, 0, attr, SCHED_ATTR_BYTES, 0)));
  if (got < 0) return got;
  attr.writeBigUInt64LE(BigInt(turnUs) * 1000n, SCHED_ATTR_RUNTIME);
  return orErrno(Number(c.schedAttr(SCHED_CALLS.set, 0, attr, 0, 0)));
}
