/**
 * A process that does nothing but share this one's descriptor table (clone(2) with CLONE_FILES): every descriptor that this process has open,
 * then and later, stays open when it is killed, until the holder is killed too; another process takes them by pidfd_getfd. It
 * never returns to JavaScript: it sleeps in pause(2) with all signals blocked. Of this process's memory it gets what that needs: stack, thread record,
 * arguments, and small areas; the heaps are left out, or each of their pages would be kept twice once this process writes to it.
 */
import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { libc, orErrno } from './libc.ts';

const c = {
  clone: libc.func('int clone(void *fn, uintptr_t stack, int flags, uintptr_t argument)'),
  mmap: libc.func(
    'uintptr_t mmap(uintptr_t at, unsigned long size, int protection, int flags, int fd, int64_t offset)',
  ),
  munmap: libc.func('int munmap(uintptr_t at, unsigned long size)'),
  madvise: libc.func('int madvise(uintptr_t at, unsigned long size, int advice)'),
  self: libc.func('uintptr_t pthread_self()'),
  sigmask: libc.func('int pthread_sigmask(int how, const void *set, void *previous)'),
};

const CLONE_FILES = 0x400;
const SIG_SETMASK = 2;
const STACK_BYTES = 64 * 1024;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** syscall(2)'s wrapper is no cancellation point; arm64 has no pause(2), there the C library's function does. */
const NR_PAUSE_X64 = 34;
const SIGSET_BYTES = 128;
const MADV_DONTFORK = 10;
const MADV_DOFORK = 11;
/** Areas from this size are left out. */
const LARGE_BYTES = 128 * 1024;
/** Around the thread's record lies what the kernel writes to when the thread runs (rseq). */
const NEAR_BYTES = 64 * 1024;

/** Private anonymous memory in large areas, but for those that hold an address of `needed`. */
function heaps(needed: readonly number[]): { at: number; size: number }[] {
  const found: { at: number; size: number }[] = [];
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const [, from, to, path] = /^([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0 *(.*)$/.exec(line) ?? [];
    if (from === undefined || to === undefined || !/^($|\[heap\]|\[anon)/.test(path ?? '')) continue;
    const at = Number.parseInt(from, 16);
    const end = Number.parseInt(to, 16);
    if (end - at < LARGE_BYTES) continue;
    if (needed.some((address) => at < address + NEAR_BYTES && address - NEAR_BYTES < end)) continue;
    found.push({ at, size: end - at });
  }
  return found;
}

/**
 * Starts the holder; returns its process id, or a negative errno. It ends by SIGKILL only; what shows it to people is the process title at
 * this moment.
 */
export function holdDescriptors(): number {
  const wait = koffi.load('libc.so.6').symbol(process.arch === 'x64' ? 'syscall' : 'pause', 'void');
  const stack = Number(c.mmap(0, STACK_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  if (stack <= 0) return orErrno(-1);
  const previous = Buffer.alloc(SIGSET_BYTES);
  c.sigmask(SIG_SETMASK, Buffer.alloc(SIGSET_BYTES, 0xff), previous);
  const omitted = heaps([stack, stack + STACK_BYTES, Number(c.self())]);
  for (const { at, size } of omitted) c.madvise(at, size, MADV_DONTFORK);
  const pid = orErrno(c.clone(wait, stack + STACK_BYTES - 64, CLONE_FILES, NR_PAUSE_X64));
  for (const { at, size } of omitted) c.madvise(at, size, MADV_DOFORK);
  c.sigmask(SIG_SETMASK, previous, null);
  c.munmap(stack, STACK_BYTES);
  return pid;
}
