/** Limits, the scheduler, and descriptors of other processes (pidfd_getfd). */
import { readdirSync } from 'node:fs';
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

/** The shortest turn on the processor that the kernel gives. */
const TURN_NS = 100_000n;

/**
 * Asks for short turns on the processor for all threads of this process, those that help V8 too; threads that they start inherit it. They get no more of it, but sooner
 * when they wake; and who waits for it gets it sooner too. Linux 6.12; older kernels ignore it.
 */
export function shortenTurns(): void {
  const attr = Buffer.alloc(SCHED_ATTR_BYTES);
  for (const thread of readdirSync('/proc/self/task')) {
    // One that ended meanwhile does no harm.
    if (c.schedAttr(SCHED_CALLS.get, Number(thread), attr, SCHED_ATTR_BYTES, 0) < 0) continue;
    attr.writeBigUInt64LE(TURN_NS, SCHED_ATTR_RUNTIME);
    c.schedAttr(SCHED_CALLS.set, Number(thread), attr, 0, 0);
  }
}
