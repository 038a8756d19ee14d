/**
 * An experiment: FUSE over io_uring beside read(2) and write(2) of /dev/fuse, with one server thread for all queues, as strata-fs would need it. What a round trip takes, what the server
 * uses for it, what an idle mount costs, and what becomes of requests when the server is killed and another process takes over. Needs Linux 6.14 or later and root; sets
 * the module parameter enable_uring of fuse while it runs. strata-fs does not use io_uring (docs/decisions/0010-speed-of-the-fuse-door.md).
 * Usage: npm run bench -- fuse-transport [--quick] [--parts trips,idle,kill] [--no-write]
 * Writes the section "FUSE over io_uring" of docs/performance.md. --quick: less than a minute, writes nothing.
 */
import { execFile } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import type { Row } from './support/fuse-transport/client.ts';
import {
  allowRings,
  onProcessor,
  type Served,
  TRANSPORTS,
  type Transport,
  withServer,
} from './support/fuse-transport/run-server.ts';
import { PHASE, readStats } from './support/fuse-transport/stats.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    parts: { type: 'string', default: 'trips,idle,kill' },
    'no-write': { type: 'boolean', default: false },
  },
});
const ROUNDS = options.quick ? 1 : 9;
const ROW_MS = options.quick ? 40 : 120;
const IDLE_MOUNTS = options.quick ? 16 : 128;
const PROCESSORS = Array.from({ length: Math.min(2, availableParallelism()) }, (_, i) => i);
const PARTS = options.parts.split(',');
/** As strata-fs: how long a thread looks for the next request before it sleeps. */
const SPIN_US = 50;
const CLIENT = join(import.meta.dirname, 'support/fuse-transport/client.ts');
const run = promisify(execFile);
const forbid = allowRings();
const work = mkdtempSync(join(tmpdir(), 'strata-bench-transport-'));
process.once('exit', () => {
  rmSync(join(work, 'stats'), { force: true });
  // Never into a mount that could not be removed.
  for (const name of [...readdirSync(work).map((mnt) => join(work, mnt)), work]) rmdirSync(name);
});

/** Where server and programs run, how many programs there are, and whether the server looks before it sleeps. */
interface Setting {
  name: string;
  clients: number;
  spinUs: number;
  processor?: number;
}
const SETTINGS: Setting[] = [
  { name: 'One program, on one processor with the server', clients: 1, spinUs: 0, processor: 0 },
  { name: 'One program, the server sleeps', clients: 1, spinUs: 0 },
  { name: `One program, the server looks for ${SPIN_US} us`, clients: 1, spinUs: SPIN_US },
  { name: `Two programs, the server looks for ${SPIN_US} us`, clients: 2, spinUs: SPIN_US },
];

/** Idle processors do not halt, as under strata-fs while requests come fast (fuse/loop/awake.ts). */
function keepAwake(): () => void {
  const fd = openSync('/dev/cpu_dma_latency', 'w');
  writeSync(fd, new Uint8Array(4));
  return () => closeSync(fd);
}

async function client(processor: number | undefined, ...args: string[]): Promise<string> {
  const [program, rest] = onProcessor(processor, [process.execPath, CLIENT, ...args]);
  return (await run(program, rest, { encoding: 'latin1', timeout: 60_000 })).stdout;
}

async function measure(setting: Setting, transport: Transport): Promise<Row[][]> {
  const { spinUs, processor } = setting;
  const where = processor === undefined ? {} : { processor };
  return withServer({ work, transport, spinUs, ...where }, async ({ mountpoints, stats, server }) => {
    const args = ['rows', mountpoints[0]!, String(ROW_MS), stats, String(server.pid)];
    const clients = Array.from({ length: setting.clients }, () => client(processor, ...args));
    return (await Promise.all(clients)).map((output) => JSON.parse(output) as Row[]);
  });
}

const one = (value: number): string => value.toFixed(1);
const HEAD =
  '| request | round trips/s | ratio | p50, us | server, us of processor time | ratio | system calls |';

/** Interleaved rounds; a ratio is the median of the rounds' own. */
async function trips(setting: Setting): Promise<string[]> {
  const rounds: Record<Transport, Row[][]>[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const got: Record<Transport, Row[][]> = { descriptor: [], ring: [] };
    const order = round % 2 === 0 ? TRANSPORTS : [...TRANSPORTS].reverse();
    for (const transport of order) got[transport] = await measure(setting, transport);
    rounds.push(got);
  }
  /** One number a round: the mean of all programs. */
  const all = (i: number, key: Exclude<keyof Row, 'kind'>, transport: Transport): number[] =>
    rounds.map(({ [transport]: programs }) => {
      const sum = programs.reduce((total, rows) => total + rows[i]![key], 0);
      return sum / programs.length;
    });
  const lines = rounds[0]!.descriptor[0]!.map(({ kind }, i) => {
    const both = (key: Exclude<keyof Row, 'kind'>): string =>
      TRANSPORTS.map((transport) => one(median(all(i, key, transport)))).join(' / ');
    const ratio = (key: Exclude<keyof Row, 'kind'>): string => {
      const descriptor = all(i, key, 'descriptor');
      const ratios = all(i, key, 'ring').map((value, round) => value / descriptor[round]!);
      return spread(ratios, (value) => value.toFixed(2));
    };
    const speed = TRANSPORTS.map((transport) =>
      Math.round(median(all(i, 'perSecond', transport)) * setting.clients).toLocaleString('en'),
    );
    return `| ${kind} | ${speed.join(' / ')} | ${ratio('perSecond')} | ${both('p50Us')} | ${both('serverUs')} | ${ratio('serverUs')} | ${both('serverCalls')} |`;
  });
  return ['', `${setting.name}:`, '', HEAD, '| --- | ---: | ---: | ---: | ---: | ---: | ---: |', ...lines];
}

/** KiB for each of many mounts: what the entries of a ring lie in, the server's only shared memory, before and after data. */
async function idleMounts(transport: Transport, depth: number): Promise<number[]> {
  const options = { work, transport, spinUs: 0, mounts: IDLE_MOUNTS, depth };
  return withServer(options, async ({ mountpoints, server }) => {
    const memory = (): number =>
      Number(/^RssShmem:\s+(\d+) kB/m.exec(readFileSync(`/proc/${server.pid}/status`, 'latin1'))![1]);
    for (const processor of PROCESSORS) await client(processor, 'touch', ...mountpoints);
    const looked = memory();
    for (const processor of PROCESSORS) await client(processor, 'touch', 'data', ...mountpoints);
    return [looked, memory()].map((kib) => kib / IDLE_MOUNTS);
  });
}

async function idle(): Promise<string[]> {
  const kinds = [
    ['descriptor', 'descriptor', 1],
    ['ring, 1 entry a queue', 'ring', 1],
    ['ring, 4 entries a queue', 'ring', 4],
  ] as const;
  const rows: string[] = [];
  for (const [name, transport, depth] of kinds) {
    const cells = (await idleMounts(transport, depth)).map(one);
    rows.push(`| ${name} | ${cells.join(' | ')} |`);
  }
  return [
    '',
    `KiB of the server for each of ${IDLE_MOUNTS} idle mounts, after a lookup on each of ${PROCESSORS.length} processors, and after a read of 128 KiB on each:`,
    '',
    '| transport | after lookups | after reads |',
    '| --- | ---: | ---: |',
    ...rows,
  ];
}

const WAITS = 'waits';

/** A program that looks for a name which is not there. */
function program(served: Served, name: string): { answer: () => string } {
  let answer = WAITS;
  execFile('stat', [join(served.mountpoints[0]!, name)], { env: { LC_ALL: 'C' } }, (_, __, stderr) => {
    answer = /: ([^:]+)\n$/.exec(stderr)?.[1] ?? 'no error';
  });
  return { answer: () => answer };
}

const SETTLED_MS = 300;
/** Who has no answer then gets none. */
const ANSWERED_MS = 3_000;

async function until(done: () => boolean): Promise<void> {
  for (const end = Date.now() + ANSWERED_MS; !done() && Date.now() < end; ) await delay(5);
}

/** What programs get whose requests were under way when the server was killed, in which of its hands. */
async function kill(transport: Transport): Promise<string> {
  const cells = await withServer({ work, transport, spinUs: 0, depth: 4 }, async (served) => {
    const programs = [program(served, 'stall')];
    await until(() => readStats(served.stats).phase === PHASE.stalled);
    programs.push(program(served, 'sent-while-it-was-busy'));
    await delay(SETTLED_MS);
    served.server.kill('SIGKILL');
    await delay(SETTLED_MS);
    programs.push(program(served, 'sent-after-the-kill'));
    await delay(SETTLED_MS);
    await served.takeOver();
    await delay(SETTLED_MS);
    programs.push(program(served, 'sent-after-the-takeover'));
    await until(() => programs.every(({ answer }) => answer() !== WAITS));
    return programs.map(({ answer }) => answer());
  });
  return `| ${transport} | ${cells.join(' | ')} |`;
}

async function kills(): Promise<string[]> {
  const rows: string[] = [];
  for (const transport of TRANSPORTS) rows.push(await kill(transport));
  return [
    '',
    'Lookups of names that are not there, around kill -9 of the server and a second process that has the same descriptor, sends FUSE_NOTIFY_RESEND and serves on (`waits`: no answer in 3 s; whether one sent when it was dead waits depends on what else comes on its processor):',
    '',
    '| transport | in the hands of the server | sent while it was busy | sent when it was dead | sent after the takeover |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ];
}

try {
  const lines: string[] = [];
  if (PARTS.includes('trips')) {
    const letHalt = keepAwake();
    for (const setting of SETTINGS) lines.push(...(await trips(setting)));
    letHalt();
  }
  if (PARTS.includes('idle')) lines.push(...(await idle()));
  if (PARTS.includes('kill')) lines.push(...(await kills()));
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options.quick && !options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'FUSE over io_uring',
      'npm run bench -- fuse-transport',
      [
        `${machineLine()} A file system of one file in memory, served by one thread that does nothing else; descriptor / ring; ${ROUNDS} interleaved rounds, medians, and ratios (ring by descriptor) with their ranges. strata-fs uses the descriptor (decisions/0010-speed-of-the-fuse-door.md).`,
        ...lines,
      ],
    );
} finally {
  forbid();
}
