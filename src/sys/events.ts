/** epoll and eventfd, for loops that block in a worker thread. struct epoll_event is packed on x86-64 only. */
import { libc, orErrno } from './libc.ts';

export const EPOLLIN = 1;
export const EPOLLERR = 8;
export const EPOLLHUP = 16;
export const EPOLLET = 2 ** 31;

const c = {
  create: libc.func('int epoll_create1(int flags)'),
  ctl: libc.func('int epoll_ctl(int epfd, int op, int fd, void *event)'),
  wait: libc.func('int epoll_wait(int epfd, void *events, int max, int timeoutMs)'),
  eventfd: libc.func('int eventfd(unsigned int initial, int flags)'),
  read: libc.func('long read(int fd, void *into, unsigned long size)'),
  write: libc.func('long write(int fd, const void *from, unsigned long size)'),
};

const EVENT_SIZE = process.arch === 'x64' ? 12 : 16;
const DATA_OFFSET = process.arch === 'x64' ? 4 : 8;
const MAX_EVENTS = 256;
const one = new DataView(new ArrayBuffer(16));
const many = new DataView(new ArrayBuffer(EVENT_SIZE * MAX_EVENTS));
const manyBytes = new Uint8Array(many.buffer);
const oneBytes = new Uint8Array(one.buffer);

export function epollCreate(): number {
  return orErrno(c.create(0o2000000));
}

/** `tag` comes back from epollWait. */
export function epollAdd(epfd: number, fd: number, events: number, tag: number): number {
  one.setUint32(0, events, true);
  one.setUint32(DATA_OFFSET, tag, true);
  one.setUint32(DATA_OFFSET + 4, 0, true);
  return orErrno(c.ctl(epfd, 1, fd, oneBytes));
}

export function epollRemove(epfd: number, fd: number): number {
  return orErrno(c.ctl(epfd, 2, fd, oneBytes));
}

/** Number of ready descriptors, or a negative errno; read them by readyTag(i), readyEvents(i). timeoutMs -1 waits for ever. */
export function epollWait(epfd: number, timeoutMs: number): number {
  return orErrno(c.wait(epfd, manyBytes, MAX_EVENTS, timeoutMs));
}

export function readyTag(i: number): number {
  return many.getUint32(i * EVENT_SIZE + DATA_OFFSET, true);
}

export function readyEvents(i: number): number {
  return many.getUint32(i * EVENT_SIZE, true);
}

/** A non-blocking eventfd. */
export function eventfd(): number {
  return orErrno(c.eventfd(0, 0o4000 | 0o2000000));
}

const count = new BigUint64Array(1);

/** Wakes whoever waits for `fd`; usable from every thread of the process. */
export function eventfdSignal(fd: number): number {
  count[0] = 1n;
  return orErrno(Number(c.write(fd, count, 8)));
}

/** Clears the eventfd. */
export function eventfdDrain(fd: number): number {
  return orErrno(Number(c.read(fd, count, 8)));
}
