/**
 * What mounted appliances cost: the time of a mount, the memory of strata-fs for each of many idle mounts of one stack, processor time while
 * nobody asks for anything, and what a created appliance costs that is not mounted (nothing: it is not known to strata-fs).
 * Usage: npm run bench -- mounts [--mounts N] [--timed N] [--idle-s S] [--no-write]
 * Writes the section "Mounts" of docs/performance.md. Ends with status 1 when a target is missed.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type OwnedDataPlane, startDataPlane } from '../src/fuse/index.ts';
import type { StackSpec } from '../src/vlfs/contract.ts';
import { isMet, machineLine, median, type Target, targetLines, writeSection } from './support/report.ts';
import { cleanUp } from './support/vlfs-peers.ts';
import { LAYERS, makeTrees } from './support/vlfs-tree.ts';

const { values: options } = parseArgs({
  options: {
    mounts: { type: 'string', default: '1000' },
    timed: { type: 'string', default: '50' },
    'idle-s': { type: 'string', default: '10' },
    'no-write': { type: 'boolean', default: false },
  },
});
const MOUNTS = Number(options.mounts);
const TIMED = Number(options.timed);
const IDLE_MS = Number(options['idle-s']) * 1000;
/** Ticks of /proc/PID/stat. */
const TICK_MS = 10;

const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

/** Anonymous memory of a process in KiB: what its mounts make grow; the program's own pages in the page cache are not in it. */
function anonymousKib(pid: number): number {
  return Number(/^RssAnon:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]);
}

function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** Mounts an appliance of its own; returns its mountpoint. */
async function mountOne(
  plane: OwnedDataPlane,
  dir: string,
  stack: StackSpec,
): Promise<{ at: string; ms: number }> {
  const at = join(dir, 'mnt');
  for (const name of ['private', 'whiteouts', 'mnt']) mkdirSync(join(dir, name), { recursive: true });
  const vlfs = {
    name: dir,
    privateDir: join(dir, 'private'),
    whiteoutsDir: join(dir, 'whiteouts'),
    stack,
    // As stratad gives it: nothing is written to the layers meanwhile.
    unitsStamp: 'bench',
    readOnly: false,
  };
  const began = performance.now();
  await plane.mount({ id: dir, mountpoint: at, vlfs, readOnly: false });
  return { at, ms: performance.now() - began };
}

/** Times of mounting one after the other, each unmounted before the next. */
async function timedMounts(plane: OwnedDataPlane, dir: string, stack: StackSpec): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < TIMED; i++) {
    const { at, ms } = await mountOne(plane, join(dir, `${stack.key}-${i}`), stack);
    times.push(ms);
    await plane.unmount(at, { force: false });
  }
  return times.sort((a, b) => a - b);
}

const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
let plane: OwnedDataPlane | null = null;
try {
  note('making the trees');
  const { one, many } = await makeTrees(work);
  mkdirSync(join(work, 'root'));
  plane = await startDataPlane(join(work, 'root'));
  const { pid } = await plane.status();
  const emptyKib = anonymousKib(pid);
  note(`mounting ${TIMED} times`);
  await timedMounts(plane, join(work, 'warm'), one);
  const ofOne = await timedMounts(plane, join(work, 'timed'), one);
  const ofMany = await timedMounts(plane, join(work, 'timed'), many);
  const percentile = (times: number[], part: number) => times[Math.floor((times.length - 1) * part)]!;

  note(`mounting ${MOUNTS} appliances`);
  const before = anonymousKib(pid);
  const began = performance.now();
  const mounted: string[] = [];
  for (let i = 0; i < MOUNTS; i++) {
    const { at } = await mountOne(plane, join(work, `appliance-${i}`), many);
    mounted.push(at);
    // A guest that has looked at its tree once, as every one has.
    readdirSync(at);
  }
  const allMs = performance.now() - began;
  const perMountKib = (anonymousKib(pid) - before) / MOUNTS;
  note('being idle');
  await delay(2000);
  const cpuBefore = cpuMs(pid);
  await delay(IDLE_MS);
  const idleMs = cpuMs(pid) - cpuBefore;
  const rssMib = (await plane.status()).memoryBytes / 2 ** 20;
  const unmountBegan = performance.now();
  for (const at of mounted) await plane.unmount(at, { force: false });
  const unmountMs = (performance.now() - unmountBegan) / MOUNTS;

  const targets: Target[] = [
    { what: 'mount, p50, 1 layer, ms', value: median(ofOne), atMost: 3 },
    { what: `mount, p50, ${LAYERS} layers, ms`, value: median(ofMany), atMost: 3 },
    { what: 'memory of an idle mount, KiB', value: perMountKib, atMost: 300 },
    {
      what: `processor time of ${MOUNTS} idle mounts, ms a second`,
      value: (idleMs / IDLE_MS) * 1000,
      atMost: 2,
    },
  ];
  const ms = (times: number[]) =>
    `${median(times).toFixed(2)} (p99 ${percentile(times, 0.99).toFixed(2)}, worst ${times.at(-1)!.toFixed(2)})`;
  const lines = [
    '| | |',
    '| --- | ---: |',
    `| mount, ms: p50 of ${TIMED}, 1 layer | ${ms(ofOne)} |`,
    `| mount, ms: p50 of ${TIMED}, ${LAYERS} layers | ${ms(ofMany)} |`,
    `| ${MOUNTS} appliances of ${LAYERS} layers mounted and listed, ms each | ${(allMs / MOUNTS).toFixed(2)} |`,
    `| unmount, ms each | ${unmountMs.toFixed(2)} |`,
    `| memory of strata-fs without mounts, MiB (anonymous) | ${(emptyKib / 1024).toFixed(0)} |`,
    `| memory of strata-fs with them, MiB (resident) | ${rssMib.toFixed(0)} |`,
    `| for each idle mount, KiB (anonymous) | ${perMountKib.toFixed(0)} |`,
    `| processor time while idle, ms in ${IDLE_MS / 1000} s | ${idleMs} |`,
    '',
    ...targetLines(targets),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write']) {
    const file = resolve(import.meta.dirname, '../docs/performance.md');
    writeSection(file, 'Mounts', 'npm run bench -- mounts', [
      `${machineLine()} Appliances that are created but not mounted are unknown to strata-fs: they cost files only.`,
      '',
      ...lines,
    ]);
  }
  if (!targets.every(isMet)) process.exitCode = 1;
} finally {
  await plane?.shutdown({ force: true }).catch(() => {});
  plane?.close();
  cleanUp(work);
}
