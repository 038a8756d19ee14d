/** Capabilities of the calling thread (capabilities(7)): the effective set, which decides what its system calls may do. */
import { libc, orErrno } from './libc.ts';

const c = {
  capget: libc.func('int capget(void *header, void *data)'),
  capset: libc.func('int capset(void *header, const void *data)'),
};

const VERSION_3 = 0x20080522;
const CAP_FSETID = 4;

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
