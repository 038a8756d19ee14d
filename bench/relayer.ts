/**
 * How long an operation is delayed while the mounted stack of 400 layers is exchanged: a probe times each of its operations (stat, open and read, list, create,
 * start a program) while relayers of 1, 10 and 100 units come, and while none come. What else
 * the machine does delays operations too, so only the difference to the rows without relayers counts.
 * Usage: npm run bench -- relayer [--runs N] [--ms N] [--no-write]
 * Writes the section "Relayer" of docs/performance.md.
 */
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startDataPlane } from '../src/fuse/index.ts';
import { writeTreeIndex } from '../src/layer/index.ts';
import type { LevelSpec, StackSpec } from '../src/vlfs/contract.ts';
import { machineLine, median, writeSection } from './support/report.ts';
import { cleanUp } from './support/vlfs-peers.ts';

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    ms: { type: 'string', default: '4000' },
    'no-write': { type: 'boolean', default: false },
  },
});
const LAYERS = 400;
const CHANGED = [0, 1, 10, 100];
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
  if (n === LAYERS - 1) copyFileSync('/bin/true', join(treeDir, 'usr/bin/probe-true'));
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
}

type Probed = Record<string, Latencies>;

/** `ready` is called when the probe knows the tree. */
function probe(client: string, mnt: string, ready: () => void): Promise<Probed> {
  return new Promise((resolve, reject) => {
    const child = spawn(client, ['probe', mnt, options.ms]);
    let said = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      said += chunk;
      if (said.startsWith('ready')) ready();
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    child.on('close', (code) =>
      code === 0
        ? resolve(JSON.parse(said.slice('ready\n'.length)) as Probed)
        : reject(new Error(`the probe failed: ${errors}`)),
    );
  });
}

const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-relayer-'));
let stop: (() => Promise<void>) | null = null;
try {
  const client = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', client, join(import.meta.dirname, 'support/client.c')]);
  const old: LevelSpec[] = [];
  const fresh: LevelSpec[] = [];
  for (let n = 0; n < LAYERS; n++) {
    old.push(await unit(work, n, 1));
    if (n < Math.max(...CHANGED)) fresh.push(await unit(work, n, 2));
  }
  const stack = (changed: number): StackSpec => ({
    key: `${changed} changed`,
    levels: old.map((level, n) => (n < changed ? fresh[n]! : level)),
  });
  for (const name of ['root', 'private', 'whiteouts', 'mnt']) mkdirSync(join(work, name));
  const plane = await startDataPlane(join(work, 'root'));
  stop = async () => {
    await plane.shutdown({ force: true });
    plane.close();
  };
  await plane.mount({
    id: 'bench',
    mountpoint: join(work, 'mnt'),
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
  const results = new Map<number, { probed: Probed; times: number[] }[]>(CHANGED.map((n) => [n, []]));
  for (let run = 0; run < Number(options.runs); run++) {
    for (const changed of CHANGED) {
      const times: number[] = [];
      let ended = false;
      let begin = (): void => {};
      const ready = new Promise<void>((resolve) => {
        begin = resolve;
      });
      const probing = probe(client, join(work, 'mnt'), begin).finally(() => {
        ended = true;
        begin();
      });
      probing.catch(() => {});
      await ready;
      for (let turn = 1; changed > 0 && !ended; turn++) {
        const began = performance.now();
        await plane.relayer([
          { id: 'bench', stack: stack(turn % 2 === 1 ? changed : 0), privateFiles: [status] },
        ]);
        times.push(performance.now() - began);
        await delay(PAUSE_MS);
      }
      results.get(changed)!.push({ probed: await probing, times });
      if (changed > 0) await plane.relayer([{ id: 'bench', stack: stack(0), privateFiles: [status] }]);
    }
  }
  const lines = [
    '| units exchanged | operation | operations | p50, us | p99, us | p99.9, us | longest, ms | longer than 10 ms | relayers, each (median) |',
    '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ];
  for (const changed of CHANGED) {
    const all = results.get(changed)!;
    const times = all.flatMap((one) => one.times);
    for (const kind of Object.keys(all[0]!.probed)) {
      const of = all.map((one) => one.probed[kind]!);
      const middle = (key: keyof Latencies) => median(of.map((l) => l[key])).toFixed(0);
      const sum = (key: keyof Latencies) => String(of.reduce((total, l) => total + l[key], 0));
      lines.push(
        `| ${changed} | ${kind} | ${sum('count')} | ${middle('p50')} | ${middle('p99')} | ${middle('p999')} | ${(Math.max(...of.map((l) => l.max)) / 1000).toFixed(1)} | ${sum('over10ms')} | ${times.length === 0 ? '' : `${times.length}, ${median(times).toFixed(0)} ms`} |`,
      );
    }
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Relayer',
      'npm run bench -- relayer',
      [
        `${machineLine()} ${options.runs} runs of ${Number(options.ms) / 1000} s for each row; a mounted stack of ${LAYERS} layers, every name of it known to the kernel; with each relayer goes a private file of 1 MiB. Load average of the machine, others' work included: ${loadavg()[0]!.toFixed(0)}.`,
        '',
        ...lines,
      ],
    );
} finally {
  await stop?.().catch(() => {});
  cleanUp(work);
}
