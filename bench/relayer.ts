/**
 * How long an operation is delayed while the mounted stack of 400 layers is exchanged: a probe times each of its system calls, and what programs make of several (open and
 * read, list, create, map, start a program), beside a writer, a reader, and programs that map and start others, while relayers of 1, 10 and 100 units come. The same load is measured without relayers, on
 * a plain ext4 directory of the same content, and there while relayers come to the mount: what else happens on the machine (processors, disk) delays operations too.
 * Places take turns in each run.
 * Usage: npm run bench -- relayer [--runs N] [--ms N] [--no-write]
 * Writes the section "Relayer" of docs/performance.md.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startDataPlane } from '../src/fuse/index.ts';
import { writeTreeIndex } from '../src/layer/index.ts';
import { shortenTurns } from '../src/sys/index.ts';
import type { LevelSpec, StackSpec } from '../src/vlfs/contract.ts';
import { machineLine, median, type Target, targetLines, writeSection } from './support/report.ts';
import { cleanUp } from './support/vlfs-peers.ts';

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    ms: { type: 'string', default: '4000' },
    'no-write': { type: 'boolean', default: false },
  },
});
const LAYERS = 400;
/** A delay that is allowed. */
const MOST_MS = 10;

/** Where the probe works, and how many units each relayer of the mount exchanges meanwhile (0: none comes). */
interface Place {
  name: string;
  onMount: boolean;
  units: number;
}
const PLACES: readonly Place[] = [
  { name: 'ext4', onMount: false, units: 0 },
  { name: 'ext4, relayers of 10 beside', onMount: false, units: 10 },
  { name: 'mount, no relayers', onMount: true, units: 0 },
  { name: 'mount, relayers of 1', onMount: true, units: 1 },
  { name: 'mount, relayers of 10', onMount: true, units: 10 },
  { name: 'mount, relayers of 100', onMount: true, units: 100 },
];
const MOST_UNITS = 100;
/** Between the end of one relayer and the next. */
const PAUSE_MS = 100;

async function unit(repo: string, n: number, version: number): Promise<LevelSpec> {
  const dir = join(repo, `p${n}_${version}`);
  const treeDir = join(dir, 'filesystem');
  const put = (path: string): void => {
    mkdirSync(dirname(join(treeDir, path)), { recursive: true });
    writeFileSync(join(treeDir, path), `${version} of ${path}\n`);
  };
  for (const name of ['copyright', 'changelog', 'NEWS']) put(`usr/share/doc/p${n}/${name}`);
  for (let i = 0; i < 4; i++) put(`usr/bin/p${n}-${i}`);
  for (let i = 0; i < 10; i++) put(`usr/lib/system/lib${n}-${i}.so`);
  put(`etc/p${n}.conf`);
  put(`usr/share/p${n}/only-in-${version}`);
  if (n % 4 === 0) for (let i = 0; i < 80; i++) put(`usr/share/locale/l${i}/LC_MESSAGES/p${n}.mo`);
  if (n % 10 === 0) for (let i = 0; i < 500; i++) put(`usr/share/p${n}/d${i % 20}/f${i}`);
  if (n === LAYERS - 1) {
    copyFileSync('/bin/true', join(treeDir, 'usr/bin/probe-true'));
    writeFileSync(join(treeDir, 'usr/lib/probe-library'), Buffer.alloc(1 << 20, 'library'));
  }
  const indexFile = join(dir, 'index');
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: `bench/p${n} ${version}`, treeDir, indexFile, whiteoutsDir: null };
}

interface Latencies {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
  over10ms: number;
  /** One system call (1), or several (0). */
  calls: number;
}

type Probed = Record<string, Latencies>;

/** `ready` is called when the probe knows the tree. */
function probe(client: string, mnt: string, ready: () => void): Promise<Probed> {
  return new Promise((resolve, reject) => {
    const child = spawn(client, ['probe', mnt, options.ms]);
    let load: ChildProcess | null = null;
    let said = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      said += chunk;
      if (load !== null || !said.startsWith('ready')) return;
      load = spawn(client, ['load', mnt], { detached: true, stdio: ['ignore', 'ignore', 'inherit'] });
      ready();
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    child.on('close', (code) => {
      const failed = load?.exitCode ?? null;
      // Its programs are one group.
      if (load?.pid !== undefined) process.kill(-load.pid, 'SIGKILL');
      if (failed !== null) reject(new Error('a program beside the probe failed'));
      else if (code === 0) resolve(JSON.parse(said.slice('ready\n'.length)) as Probed);
      else reject(new Error(`the probe failed: ${errors}`));
    });
  });
}

// As stratad does, in whose place this process is.
shortenTurns();
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-relayer-'));
let stop: (() => Promise<void>) | null = null;
try {
  const client = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', client, join(import.meta.dirname, 'support/client.c')]);
  const old: LevelSpec[] = [];
  const fresh: LevelSpec[] = [];
  for (let n = 0; n < LAYERS; n++) {
    old.push(await unit(work, n, 1));
    if (n < MOST_UNITS) fresh.push(await unit(work, n, 2));
  }
  const stack = (units: number): StackSpec => ({
    key: `${units} exchanged`,
    levels: old.map((level, n) => (n < units ? fresh[n]! : level)),
  });
  for (const name of ['root', 'private', 'whiteouts', 'mnt', 'plain']) mkdirSync(join(work, name));
  const [mnt, plain] = [join(work, 'mnt'), join(work, 'plain')];
  execFileSync('cp', ['-a', ...old.map(({ treeDir }) => `${treeDir}/.`), plain]);
  execFileSync('sync', ['-f', work]);
  const plane = await startDataPlane(join(work, 'root'));
  stop = async () => {
    await plane.shutdown({ force: true });
    plane.close();
  };
  await plane.mount({
    id: 'bench',
    mountpoint: mnt,
    vlfs: {
      name: 'bench',
      privateDir: join(work, 'private'),
      whiteoutsDir: join(work, 'whiteouts'),
      stack: stack(0),
      readOnly: false,
    },
    readOnly: false,
  });
  const status = { path: '/etc/status', content: Buffer.alloc(1 << 20, 'merged\n') };
  const relayer = (units: number) =>
    plane.relayer([{ id: 'bench', stack: stack(units), privateFiles: [status] }]);
  const results = new Map<Place, { probed: Probed; times: number[] }[]>(PLACES.map((place) => [place, []]));
  for (let run = 0; run < Number(options.runs); run++) {
    for (const i of PLACES.keys()) {
      const place = PLACES[(i + run) % PLACES.length]!;
      const { onMount, units } = place;
      const times: number[] = [];
      let ended = false;
      let begin = (): void => {};
      const ready = new Promise<void>((resolve) => {
        begin = resolve;
      });
      const probing = probe(client, onMount ? mnt : plain, begin).finally(() => {
        ended = true;
        begin();
      });
      probing.catch(() => {});
      await ready;
      for (let turn = 1; units > 0 && !ended; turn++) {
        const began = performance.now();
        await relayer(turn % 2 === 1 ? units : 0);
        times.push(performance.now() - began);
        await delay(PAUSE_MS);
      }
      results.get(place)!.push({ probed: await probing, times });
      if (units > 0) await relayer(0);
    }
  }
  const lines = [
    '| where | operation | operations | p50, us | p99, us | p99.9, us | longest, ms | longer than 10 ms | relayers, each (median) |',
    '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ];
  /** By place: of system calls, and of each kind of operation that is several. */
  const longest = new Map<Place, { call: number; several: Map<string, number> }>();
  for (const [place, all] of results) {
    const times = all.flatMap((one) => one.times);
    const most = { call: 0, several: new Map<string, number>() };
    longest.set(place, most);
    for (const [kind, { calls }] of Object.entries(all[0]!.probed)) {
      const of = all.map((one) => one.probed[kind]!);
      const middle = (key: keyof Latencies) => median(of.map((l) => l[key])).toFixed(0);
      const sum = (key: keyof Latencies) => String(of.reduce((total, l) => total + l[key], 0));
      const ms = Math.max(...of.map((l) => l.max)) / 1000;
      if (calls === 1) most.call = Math.max(most.call, ms);
      else most.several.set(kind, ms);
      lines.push(
        `| ${place.name} | ${kind} | ${sum('count')} | ${middle('p50')} | ${middle('p99')} | ${middle('p999')} | ${ms.toFixed(1)} | ${sum('over10ms')} | ${times.length === 0 ? '' : `${times.length}, ${median(times).toFixed(0)} ms`} |`,
      );
    }
  }
  // What ext4 beside the same relayers, and the mount without any, show too is the machine's.
  const quiet = PLACES.slice(0, 3).map((place) => longest.get(place)!);
  const targets: Target[] = PLACES.slice(3).flatMap((place) => {
    const { call, several } = longest.get(place)!;
    return [
      { what: `${place.name}: longest system call, ms`, value: call, atMost: MOST_MS },
      ...[...several].map(([kind, ms]) => {
        const without = Math.max(...quiet.map((one) => one.several.get(kind)!));
        const what = `${place.name}: longest ${kind}, ms beyond the ${without.toFixed(1)} ms without them`;
        return { what, value: ms - without, atMost: MOST_MS };
      }),
    ];
  });
  lines.push('', ...targetLines(targets));
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Relayer',
      'npm run bench -- relayer',
      [
        `${machineLine()} ${options.runs} runs of ${Number(options.ms) / 1000} s for each place; a mounted stack of ${LAYERS} layers, every name of it known to the kernel; with each relayer goes a private file of 1 MiB. Beside the probe a writer, a reader, and programs that map a library and start a program work all the time. Load average of the machine, others' work included: ${loadavg()[0]!.toFixed(0)}.`,
        '',
        ...lines,
      ],
    );
} finally {
  await stop?.().catch(() => {});
  cleanUp(work);
}
