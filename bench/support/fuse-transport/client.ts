/**
 * A program that uses a mount of server.ts, each call one request, and prints what that took as JSON.
 * Usage: client.ts rows MOUNTPOINT MS STATS PID: each kind of request in turn for MS milliseconds.
 *        client.ts touch MOUNTPOINT...: one lookup in each mount, and with `data` before the first one a read of the largest size.
 */
import { fstatSync } from 'node:fs';
import * as sys from '../../../src/sys/index.ts';
import { DATA_BYTES } from './answers.ts';
import { anonymousMemory } from './io-uring.ts';
import { cpuUs, readStats } from './stats.ts';

/** Of one kind of request: what the program waited, and what the server used in that time for each of the requests that it had from all programs. */
export interface Row {
  kind: string;
  perSecond: number;
  p50Us: number;
  serverUs: number;
  serverCalls: number;
}

const MOST_CALLS = 1_000_000;
const COMPILED_MS = 150;
const data = anonymousMemory(DATA_BYTES);

function check(result: number, expected: number): void {
  if (result !== expected) throw new Error(`${result} instead of ${expected}`);
}

function openFile(mountpoint: string): number {
  const fd = sys.openat(sys.AT_FDCWD, `${mountpoint}/file`, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd < 0) throw new Error(`open: ${sys.errnoName(fd)}`);
  return fd;
}

const lookup = (mountpoint: string, i: number): void =>
  check(sys.openat(sys.AT_FDCWD, `${mountpoint}/absent-${i}`, sys.O_RDONLY), -sys.E.NOENT);

function rows(mountpoint: string, ms: number, stats: string, pid: number): Row[] {
  const fd = openFile(mountpoint);
  const kinds: [string, (i: number) => void][] = [
    ['lookup', (i) => lookup(mountpoint, i)],
    ['getattr', () => fstatSync(fd)],
    ['read 4 KiB', (i) => check(sys.pread(fd, data.bytes, 4096, (i % 256) * 4096), 4096)],
    ['write 4 KiB', (i) => check(sys.pwrite(fd, data.bytes, 4096, (i % 256) * 4096), 4096)],
    ['read 128 KiB', (i) => check(sys.pread(fd, data.bytes, DATA_BYTES, (i % 8) * DATA_BYTES), DATA_BYTES)],
    ['write 128 KiB', (i) => check(sys.pwrite(fd, data.bytes, DATA_BYTES, (i % 8) * DATA_BYTES), DATA_BYTES)],
  ];
  const times = new Float64Array(MOST_CALLS);
  // Both programs are compiled by then.
  for (let i = 0, end = performance.now() + COMPILED_MS; performance.now() < end; i++) lookup(mountpoint, -i);
  return kinds.map(([kind, call]) => {
    for (let i = 0, end = performance.now() + ms / 4; performance.now() < end; i++) call(i);
    const before = { ...readStats(stats), cpuUs: cpuUs(pid) };
    const began = performance.now();
    const end = began + ms;
    let count = 0;
    for (let now = began; now < end && count < MOST_CALLS; count++) {
      call(count);
      const then = performance.now();
      times[count] = (then - now) * 1000;
      now = then;
    }
    const tookMs = performance.now() - began;
    const after = { ...readStats(stats), cpuUs: cpuUs(pid) };
    const requests = after.requests - before.requests;
    const sorted = times.subarray(0, count).sort();
    return {
      kind,
      perSecond: (count / tookMs) * 1000,
      p50Us: sorted[count >> 1]!,
      serverUs: (after.cpuUs - before.cpuUs) / requests,
      serverCalls: (after.calls - before.calls) / requests,
    };
  });
}

const [mode, ...args] = process.argv.slice(2);
if (mode === 'rows')
  process.stdout.write(JSON.stringify(rows(args[0]!, Number(args[1]), args[2]!, Number(args[3]))));
else
  for (const mountpoint of args.filter((arg) => arg !== 'data')) {
    lookup(mountpoint, 0);
    if (args[0] !== 'data') continue;
    const fd = openFile(mountpoint);
    check(sys.pread(fd, data.bytes, DATA_BYTES, 0), DATA_BYTES);
    sys.close(fd);
  }
