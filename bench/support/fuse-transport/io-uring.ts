/**
 * io_uring(7), as far as FUSE over it needs: one ring with long submission entries in memory of ours (IORING_SETUP_NO_MMAP, Linux 6.5), whose work the kernel leaves to this thread
 * (DEFER_TASKRUN). Only for the experiment of bench/fuse-transport.ts; nothing in src/ uses io_uring.
 */
import koffi from 'koffi';
import * as sys from '../../../src/sys/index.ts';

const call = koffi
  .load('libc.so.6')
  .func('syscall', 'long', ['long', 'size_t', 'size_t', 'size_t', 'size_t', 'size_t', 'size_t']);

/** The same numbers on x86-64 and arm64. */
const SYS = { setup: 425, enter: 426 };
export const PAGE = 4096;

export const OP_POLL_ADD = 6;
export const OP_URING_CMD = 46;

/** CQSIZE, TASKRUN_FLAG, SQE128, SINGLE_ISSUER, DEFER_TASKRUN, NO_MMAP, NO_SQARRAY. */
const SETUP = (1 << 3) | (1 << 9) | (1 << 10) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 16);
const ENTER_GETEVENTS = 1;
const SQ_TASKRUN = 4;

/** struct io_uring_params, where the offsets of the ring's own fields are answered, and struct io_uring_sqe and io_uring_cqe. */
const PARAMS = { cq_entries: 4, flags: 8, sq_off: 40, cq_off: 80, size: 120 };
const USER_ADDR = 32;
export const SQE = {
  opcode: 0,
  fd: 4,
  cmd_op: 8,
  addr: 16,
  len: 24,
  poll_events: 28,
  user_data: 32,
  cmd: 48,
  size: 128,
};
const CQE = { res: 8, size: 16 };

/** Shared memory that stays where it is, at a page's beginning; its pages are there once they are touched. */
export function anonymousMemory(size: number) {
  const fd = sys.memfdCreate('bench');
  if (fd < 0 || sys.ftruncate(fd, size) < 0) throw new Error('no memory');
  const mapped = sys.mapShared(fd, size);
  sys.close(fd);
  if (typeof mapped === 'number') throw new Error(`mmap: ${sys.errnoName(mapped)}`);
  const bytes = Buffer.from(mapped);
  return { bytes, view: new DataView(mapped), address: sys.addressOf(bytes) };
}

export interface Ring {
  /** Submission entries; `next` gives the offset of an empty one. */
  readonly sqes: DataView;
  next(): number;
  /** io_uring_enter: submits what was begun, lets the kernel do what it left to this thread, and waits for `least` completions. */
  enter(least: number): void;
  hasCompletion(): boolean;
  /** There are completions, or work for `enter`. Costs no system call. */
  ready(): boolean;
  /** The user_data of the next completion, or -1; `result` is its result. */
  take(): number;
  result: number;
}

/** Both numbers are powers of two; completions that do not fit would have to be fetched. */
export function createRing(entries: number, completions: number): Ring {
  const ringAt = Math.ceil((entries * SQE.size) / PAGE) * PAGE;
  const ringBytes = PAGE + completions * CQE.size;
  const { view, bytes, address } = anonymousMemory(ringAt + ringBytes);
  const params = Buffer.alloc(PARAMS.size);
  params.writeUInt32LE(completions, PARAMS.cq_entries);
  params.writeUInt32LE(SETUP, PARAMS.flags);
  params.writeBigUInt64LE(BigInt(address), PARAMS.sq_off + USER_ADDR);
  params.writeBigUInt64LE(BigInt(address + ringAt), PARAMS.cq_off + USER_ADDR);
  const fd = Number(call(SYS.setup, entries, sys.addressOf(params), 0, 0, 0, 0));
  if (fd < 0) throw new Error(`io_uring_setup: ${sys.errnoName(-koffi.errno())}`);

  /** What both sides change is read and written in one piece and in order. */
  const words = new Int32Array(bytes.buffer, ringAt, ringBytes >> 2);
  const word = (field: number) => params.readUInt32LE(field) >> 2;
  const sqTail = word(PARAMS.sq_off + 4);
  const sqFlags = word(PARAMS.sq_off + 16);
  const cqHead = word(PARAMS.cq_off);
  const cqTail = word(PARAMS.cq_off + 4);
  const cqes = ringAt + params.readUInt32LE(PARAMS.cq_off + 20);
  let tail = 0;
  let submitted = 0;
  let head = 0;
  const hasCompletion = () => Atomics.load(words, cqTail) !== head;

  return {
    sqes: view,
    result: 0,
    hasCompletion,
    ready: () => hasCompletion() || (Atomics.load(words, sqFlags) & SQ_TASKRUN) !== 0,
    next() {
      const at = (tail & (entries - 1)) * SQE.size;
      bytes.fill(0, at, at + SQE.size);
      tail = (tail + 1) | 0;
      return at;
    },
    enter(least) {
      Atomics.store(words, sqTail, tail);
      const count = (tail - submitted) | 0;
      submitted = tail;
      const result = Number(call(SYS.enter, fd, count, least, ENTER_GETEVENTS, 0, 0));
      if (result < 0 && koffi.errno() !== sys.E.INTR)
        throw new Error(`io_uring_enter: ${sys.errnoName(-koffi.errno())}`);
    },
    take() {
      if (!hasCompletion()) return -1;
      const at = cqes + (head & (completions - 1)) * CQE.size;
      const tag = view.getUint32(at, true);
      this.result = view.getInt32(at + CQE.res, true);
      head = (head + 1) | 0;
      Atomics.store(words, cqHead, head);
      return tag;
    },
  };
}
