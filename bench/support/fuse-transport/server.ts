/**
 * A process that serves FUSE connections (descriptors 3 and up, inherited) with answers.ts, in one thread, by one of two transports: read(2) and write(2) of the descriptor, as
 * src/fuse does, or a ring of io_uring with a queue for each possible processor and mount (Documentation/filesystems/fuse-io-uring.rst).
 * Usage: server.ts descriptor|ring SPIN_US MOUNTS DEPTH STATS [resume]. DEPTH: entries of a queue. STATS: a file of numbers that others read (stats.ts).
 * Never asynchronous; it ends when all connections have ended.
 */
import { readFileSync } from 'node:fs';
import { FUSE_OPCODE } from '../../../src/fuse/abi/constants.ts';
import { IN_HEADER, OUT_HEADER } from '../../../src/fuse/abi/layout.ts';
import { getU64 } from '../../../src/fuse/server/buffers.ts';
import { resendMessage } from '../../../src/fuse/transport/notify.ts';
import * as sys from '../../../src/sys/index.ts';
import { createAnswers, DATA_BYTES, fixedSize, type Packet } from './answers.ts';
import { anonymousMemory, createRing, OP_POLL_ADD, OP_URING_CMD, PAGE, SQE } from './io-uring.ts';
import { PHASE, STATS } from './stats.ts';

/** struct fuse_uring_req_header: the message's header, the fixed part of a request's body, and fuse_uring_ent_in_out. */
const RING_HEADER = { op_in: 128, commit_id: 264, payload_sz: 272, size: 288 };
/** struct fuse_uring_cmd_req, in the command area of a submission. */
const CMD_REQ = { commit_id: 8, qid: 16 };
const REGISTER = 1;
const COMMIT_AND_FETCH = 2;
/** Where an entry's two iovecs are, behind its header. */
const IOVECS = 512;
const ENTRY_BYTES = PAGE + DATA_BYTES;
const SUBMISSIONS = 64;
const POLL_ADD_MULTI = 1;

const [transport, spinUs, mounts, depth, statsFile, resume] = process.argv.slice(2);
const overRing = transport === 'ring';
const spinMs = Number(spinUs) / 1000;
const fds = Array.from({ length: Number(mounts) }, (_, i) => 3 + i);
const stats = openStats(statsFile!);
const stall = (): void => {
  stats[STATS.phase] = PHASE.stalled;
};
const answers = createAnswers(resume === undefined ? stall : null);
let requests = 0;
let calls = 0;
let initialised = 0;

function openStats(path: string): Float64Array {
  const fd = sys.openat(sys.AT_FDCWD, path, sys.O_RDWR | sys.O_CLOEXEC);
  const mapped = sys.mapShared(fd, STATS.size);
  if (typeof mapped === 'number') throw new Error(`mmap: ${sys.errnoName(mapped)}`);
  sys.close(fd);
  return new Float64Array(mapped);
}

function count(more: number): void {
  requests += more;
  stats[STATS.requests] = requests;
  stats[STATS.calls] = calls;
}

/** The reply's header; the length of the whole reply. */
function putHeader(p: Packet, header: number, unique: number, result: number): number {
  const length = OUT_HEADER.size + Math.max(0, result);
  // In a ring the reply's header takes the place of the request's.
  const low = p.in.getUint32(unique, true);
  const high = p.in.getUint32(unique + 4, true);
  p.out.setUint32(header + OUT_HEADER.len, length, true);
  p.out.setInt32(header + OUT_HEADER.error, Math.min(0, result), true);
  p.out.setUint32(header + OUT_HEADER.unique, low, true);
  p.out.setUint32(header + OUT_HEADER.unique + 4, high, true);
  return length;
}

const inBytes = Buffer.alloc(DATA_BYTES + PAGE, 1);
const outBytes = Buffer.alloc(DATA_BYTES + PAGE, 1);
const requestAddress = sys.addressOf(inBytes);
const replyAddress = sys.addressOf(outBytes);
const packet: Packet = {
  inBytes,
  in: new DataView(inBytes.buffer, inBytes.byteOffset),
  body: IN_HEADER.size,
  rest: 0,
  outBytes,
  out: new DataView(outBytes.buffer, outBytes.byteOffset),
  payload: OUT_HEADER.size,
};

/** Serves one request by read and write: 1; 0 when there is none, -1 when the connection has ended. */
function serveOne(fd: number): number {
  calls++;
  const length = sys.readAddress(fd, requestAddress, inBytes.length);
  if (length === -sys.E.AGAIN) return 0;
  if (length === -sys.E.INTR || length === -sys.E.NOENT) return 1;
  if (length < 0) return -1;
  const opcode = packet.in.getUint32(IN_HEADER.opcode, true);
  packet.rest = packet.body + fixedSize(opcode);
  const isInit = opcode === FUSE_OPCODE.INIT;
  const node = getU64(packet.in, IN_HEADER.nodeid);
  const result = isInit ? answers.init(packet, overRing) : answers.answer(opcode, node, packet);
  if (isInit) initialised++;
  if (result !== null) {
    calls++;
    sys.writeAddress(fd, replyAddress, putHeader(packet, 0, IN_HEADER.unique, result));
  }
  count(1);
  return 1;
}

/** Serves a descriptor while its requests come within the time of a look; -1 when the connection has ended. */
function look(fd: number): number {
  let until = performance.now() + spinMs;
  for (;;) {
    const got = serveOne(fd);
    if (got < 0) return -1;
    if (got > 0) until = performance.now() + spinMs;
    else if (performance.now() >= until) return 0;
  }
}

/** As loop/loop-main.ts: look a little after work, then sleep in epoll_wait. Returns when `done` says so after a turn. */
function serveDescriptors(done: (ended: number) => boolean): void {
  const epoll = sys.epollCreate();
  for (const fd of fds) sys.epollAdd(epoll, fd, sys.EPOLLIN, fd);
  let ended = 0;
  while (!done(ended)) {
    calls++;
    const ready = sys.epollWait(epoll, -1);
    const tags = Array.from({ length: Math.max(0, ready) }, (_, i) => sys.readyTag(i));
    for (const fd of tags) {
      if (serveOne(fd) >= 0 && look(fd) >= 0) continue;
      sys.epollRemove(epoll, fd);
      ended++;
    }
  }
  sys.close(epoll);
}

function serveRing(): void {
  const queues = possibleProcessors();
  const perMount = queues * Number(depth);
  const total = perMount * fds.length;
  const ring = createRing(SUBMISSIONS, 2 ** Math.ceil(Math.log2(2 * (total + fds.length) + SUBMISSIONS)));
  const { view, bytes, address } = anonymousMemory(total * ENTRY_BYTES);
  const p: Packet = { inBytes: bytes, in: view, body: 0, rest: 0, outBytes: bytes, out: view, payload: 0 };

  function submit(entry: number, command: number): number {
    const at = ring.next();
    const sqe = ring.sqes;
    sqe.setUint8(at + SQE.opcode, OP_URING_CMD);
    sqe.setInt32(at + SQE.fd, fds[Math.floor(entry / perMount)]!, true);
    sqe.setUint32(at + SQE.cmd_op, command, true);
    sqe.setUint32(at + SQE.user_data, entry, true);
    sqe.setUint16(at + SQE.cmd + CMD_REQ.qid, entry % queues, true);
    return at;
  }

  function register(entry: number): void {
    const header = entry * ENTRY_BYTES;
    const iovecs = header + IOVECS;
    const vector = [address + header, RING_HEADER.size, address + header + PAGE, DATA_BYTES];
    for (const [i, value] of vector.entries()) view.setBigUint64(iovecs + i * 8, BigInt(value), true);
    const at = submit(entry, REGISTER);
    ring.sqes.setBigUint64(at + SQE.addr, BigInt(address + iovecs), true);
    ring.sqes.setUint32(at + SQE.len, 2, true);
  }

  /** Answers the request of an entry, and asks for the next one with the same submission. */
  function answer(entry: number): void {
    const header = entry * ENTRY_BYTES;
    p.body = header + RING_HEADER.op_in;
    p.rest = header + PAGE;
    p.payload = header + PAGE;
    const opcode = view.getUint32(header + IN_HEADER.opcode, true);
    const result = answers.answer(opcode, getU64(view, header + IN_HEADER.nodeid), p) ?? 0;
    putHeader(p, header, header + IN_HEADER.unique, result);
    view.setUint32(header + RING_HEADER.payload_sz, Math.max(0, result), true);
    const at = submit(entry, COMMIT_AND_FETCH) + SQE.cmd + CMD_REQ.commit_id;
    ring.sqes.setUint32(at, view.getUint32(header + RING_HEADER.commit_id, true), true);
    ring.sqes.setUint32(at + 4, view.getUint32(header + RING_HEADER.commit_id + 4, true), true);
  }

  const enter = (least: number): void => {
    calls++;
    ring.enter(least);
  };
  /** What does not come by the ring: FORGET, INTERRUPT. */
  function watch(fd: number, tag: number): void {
    const at = ring.next();
    ring.sqes.setUint8(at + SQE.opcode, OP_POLL_ADD);
    ring.sqes.setInt32(at + SQE.fd, fd, true);
    ring.sqes.setUint32(at + SQE.len, POLL_ADD_MULTI, true);
    ring.sqes.setUint32(at + SQE.poll_events, sys.EPOLLIN, true);
    ring.sqes.setUint32(at + SQE.user_data, tag, true);
  }

  for (const [i, fd] of fds.entries()) {
    watch(fd, total + i);
    enter(0);
  }
  for (let entry = 0; entry < total; entry++) {
    register(entry);
    enter(0);
  }
  stats[STATS.phase] = PHASE.ready;
  for (let left = total; left > 0; ) {
    let served = 0;
    for (let tag = ring.take(); tag >= 0; tag = ring.take()) {
      if (tag >= total) while (serveOne(fds[tag - total]!) > 0);
      else if (ring.result < 0) left--;
      else {
        answer(tag);
        // More than there are at a time cannot come: each entry has one request.
        if (++served % SUBMISSIONS === 0) enter(0);
      }
    }
    if (served > 0) {
      count(served);
      if (spinMs > 0) {
        enter(0);
        const until = performance.now() + spinMs;
        while (!ring.ready() && performance.now() < until);
        if (ring.ready()) {
          if (!ring.hasCompletion()) enter(0);
          continue;
        }
      }
    }
    if (left > 0) enter(1);
  }
}

/** The kernel has a queue for each processor that there could be. */
function possibleProcessors(): number {
  const last = /(\d+)\s*$/.exec(readFileSync('/sys/devices/system/cpu/possible', 'latin1'));
  return Number(last![1]) + 1;
}

if (resume === undefined && overRing) serveDescriptors(() => initialised === fds.length);
else if (resume !== undefined) for (const fd of fds) sys.write(fd, resendMessage(), OUT_HEADER.size);
if (overRing) serveRing();
else {
  stats[STATS.phase] = PHASE.ready;
  serveDescriptors((ended) => ended === fds.length);
}
