/** Capabilities of the calling thread (capabilities(7)): the effective set, which decides what its system calls may do. */
import { libc, orErrno } from './libc.ts';

const c = {
  capget: libc.func('int capget(void *header, void *data)'),
  capset: libc.func('int capset(void *header, const void *data)'),
};

const VERSION_3 = 0x20080522;
const CAP_FSETID = 4;
const CAP_SYS_RESOURCE = 24;

/** struct __user_cap_header_struct: this thread. */
const header = new Uint32Array([VERSION_3, 0]);

/**
 * A function that runs `call` without CAP_FSETID in this thread's effective set: descriptors that it gives to the kernel to write through
 * (FUSE passthrough) then end set-user-id and set-group-id bits as writes of unprivileged programs do. Must be used by the
 * thread that made it. Costs two system calls.
 */
export function withoutFsetid(): <T>(call: () => T) => T {
  const full = new Uint32Array(6);
  const less = new Uint32Array(6);
  if (orErrno(c.capget(header, full)) < 0) return (call) => call();
  less.set(full);
  less[0] = (full[0]! & ~(1 << CAP_FSETID)) >>> 0;
  return (call) => {
    c.capset(header, less);
    try {
      return call();
    } finally {
      c.capset(header, full);
    }
  };
}

/**
 * Gives up CAP_SYS_RESOURCE, with which quotas of file systems do not count, in this thread and those it makes. A negative errno when that fails.
 */
export function obeyQuotas(): number {
  const sets = new Uint32Array(6);
  const got = orErrno(c.capget(header, sets));
  if (got < 0) return got;
  // Effective, permitted, inheritable; the second half has the capabilities from 32 on.
  for (let set = 0; set < 3; set++) sets[set] = (sets[set]! & ~(1 << CAP_SYS_RESOURCE)) >>> 0;
  return orErrno(c.capset(header, sets));
}
