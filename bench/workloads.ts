/**
 * Real work on the FUSE door beside the directory itself: a kernel build whose source is in a shared layer and whose output is private, and a web
 * server that serves from a shared layer. Rows are interleaved over several runs; medians and ratios are given.
 * Usage: npm run bench -- workloads [--runs N] [--rows kernel,nginx] [--cache shared,exact] [--whole] [--seconds S] [--no-write]
 * By default part of the kernel is built (allnoconfig; prepare, kernel/), so that all runs take about five minutes; --whole builds all of it. Writes the section "Workloads" of
 * docs/performance.md. Needs the packages of scripts/debian-bench-packages.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { writeTreeIndex } from '../src/layer/index.ts';
import type { CacheMode } from '../src/vlfs/contract.ts';
import {
  isMet,
  machineLine,
  median,
  shownCounts,
  spread,
  type Target,
  targetLines,
  writeSection,
} from './support/report.ts';
import {
  cleanUp,
  type Mounted,
  type Peer,
  plainPeer,
  type StrataPlane,
  strataPlane,
} from './support/vlfs-peers.ts';
import { makePages, type Serving, serveAndLoad } from './support/web-load.ts';

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    rows: { type: 'string', default: 'kernel,nginx' },
    cache: { type: 'string', default: 'shared,exact' },
    seconds: { type: 'string', default: '5' },
    whole: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
  },
});
const RUNS = Number(options.runs);
const wants = (row: string): boolean => options.rows.split(',').includes(row);
const KERNEL = 'usr/src/linux';
const PAGES = 'srv/www';
const PARTS = options.whole ? ['all'] : ['kernel/'];
const BUILD_LIMIT_MS = 900_000;

const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

function unpackKernel(tree: string): void {
  const archive = readdirSync('/usr/src').find((name) => /^linux-source-[\d.]+\.tar\.xz$/.test(name));
  if (archive === undefined) throw new Error('the package linux-source is not installed');
  const into = join(tree, 'usr/src');
  mkdirSync(into, { recursive: true });
  execFileSync('tar', ['-xf', join('/usr/src', archive), '-C', into]);
  renameSync(join(into, archive.replace('.tar.xz', '')), join(tree, KERNEL));
}

/** Seconds of a build. */
function buildKernel(m: Mounted): number {
  const output = join(m.fresh, 'build');
  mkdirSync(output);
  const make = (...targets: string[]): void => {
    execFileSync('make', ['-s', '-C', join(m.tree, KERNEL), `O=${output}`, ...targets], {
      stdio: ['ignore', 'ignore', 'inherit'],
      timeout: BUILD_LIMIT_MS,
      env: { ...process.env, KBUILD_BUILD_TIMESTAMP: '1970-01-01' },
    });
  };
  const began = performance.now();
  make('allnoconfig');
  make('-j2', 'prepare');
  make('-j2', ...PARTS);
  const seconds = (performance.now() - began) / 1000;
  rmSync(output, { recursive: true });
  return seconds;
}

interface Row {
  name: string;
  unit: 's' | 'requests/s';
  /** How far behind the directory it may be. */
  within: number;
  run(m: Mounted, turn: number): number;
}

const serving =
  (files: Serving) =>
  (m: Mounted, turn: number): number =>
    serveAndLoad({
      root: join(m.tree, PAGES),
      work,
      files,
      seconds: Number(options.seconds),
      port: 8700 + turn,
    });

const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
let plane: StrataPlane | null = null;
try {
  note('making the layer');
  const tree = join(work, 'layer/filesystem');
  mkdirSync(tree, { recursive: true });
  if (wants('kernel')) unpackKernel(tree);
  makePages(join(tree, PAGES));
  const indexFile = join(work, 'layer/index');
  await writeTreeIndex(indexFile, tree);
  execFileSync('sync', ['-f', work]);
  plane = await strataPlane(work);
  const level = {
    kind: 'software' as const,
    id: 'bench/work 1',
    treeDir: tree,
    indexFile,
    whiteoutsDir: null,
  };
  const stack = { key: 'work', levels: [level] };
  const modes = options.cache.split(',') as CacheMode[];
  const peers: Peer[] = [plainPeer(work, tree), ...modes.map((mode) => plane!.peer(mode, stack, mode))];
  const rows: Row[] = [];
  if (wants('kernel'))
    rows.push({
      name: `kernel build (allnoconfig, -j2: prepare ${PARTS.join(' ')})`,
      unit: 's',
      within: 0.03,
      run: buildKernel,
    });
  if (wants('nginx'))
    rows.push(
      { name: 'nginx, open_file_cache', unit: 'requests/s', within: 0.02, run: serving('kept open') },
      { name: 'nginx, every file opened', unit: 'requests/s', within: 0.02, run: serving('opened') },
    );
  const results = new Map<string, number[]>();
  const requests = new Map<string, Record<string, number>>();
  for (let run = 0; run < RUNS; run++) {
    note(`run ${run + 1} of ${RUNS}`);
    const order = peers.map((_, i) => peers[(i + run) % peers.length]!);
    for (const row of rows) {
      for (const [turn, peer] of order.entries()) {
        const m = await peer.mount();
        const key = `${row.name} ${peer.name}`;
        // The first build fills the page cache for both.
        if (run === 0 && turn === 0 && row.unit === 's') row.run(m, turn);
        results.set(key, [...(results.get(key) ?? []), row.run(m, turn)]);
        note(`${row.name}, ${peer.name}: ${results.get(key)!.at(-1)!.toFixed(2)}`);
        const kinds = peer.name === 'ext4' ? null : await plane.requests(m.tree);
        if (kinds !== null) requests.set(key, kinds);
        execFileSync('sync', ['-f', work]);
        await m.unmount();
      }
    }
  }
  const of = (row: Row, peer: string) => results.get(`${row.name} ${peer}`) ?? [];
  const number = (value: number) =>
    value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toFixed(2);
  /** Above 1: better than the directory. */
  const ratio = (row: Row, mode: string) => {
    const value = median(of(row, mode)) / median(of(row, 'ext4'));
    return row.unit === 's' ? 1 / value : value;
  };
  const targets: Target[] = rows.flatMap((row) =>
    modes.map((mode) => ({
      what: `${row.name}, --cache ${mode}, speed beside ext4`,
      value: ratio(row, mode),
      atLeast: 1 - row.within,
    })),
  );
  const lines = [
    `| work | ext4 | ${modes.map((mode) => `--cache ${mode} | speed beside ext4`).join(' | ')} |`,
    `| --- | ---: | ${modes.map(() => '---: | ---:').join(' | ')} |`,
    ...rows.map((row) => {
      const cells = modes.map((mode) => `${spread(of(row, mode), number)} | ${ratio(row, mode).toFixed(3)}`);
      return `| ${row.name}, ${row.unit} | ${spread(of(row, 'ext4'), number)} | ${cells.join(' | ')} |`;
    }),
    '',
    'Requests to strata-fs in the last run, by kind:',
    '',
    ...[...requests].map(([key, kinds]) => `- ${key}: ${shownCounts(kinds)}`),
    '',
    ...targetLines(targets),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'] && rows.length === 3)
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Workloads',
      'npm run bench -- workloads',
      [
        `${machineLine()} ${RUNS} interleaved runs; median (min to max). Postmark is a row of "VLFS".`,
        '',
        ...lines,
      ],
    );
  if (!targets.every(isMet)) process.exitCode = 1;
} finally {
  await plane?.stop().catch(() => {});
  cleanUp(work);
}
