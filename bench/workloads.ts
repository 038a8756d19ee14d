/**
 * Real work on both doors beside the directory itself and the kernel's overlayfs over it: a kernel build whose source is in a shared layer and whose output is private, and a web
 * server that serves from a shared layer. Rows are interleaved over several runs; ratios are medians of the runs' own ratios.
 * Usage: npm run bench -- workloads [--runs N] [--rows kernel,nginx] [--peers shared,exact,sealed,overlayfs] [--whole] [--seconds S] [--no-write]
 * By default part of the kernel is built (allnoconfig; prepare, kernel/), so that three runs take about fifteen minutes; --whole builds all of it. Writes the section "Workloads" of
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
import { sealedPeer } from './support/sealed-peer.ts';
import {
  cleanUp,
  type Mounted,
  overlayPeer,
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
    peers: { type: 'string', default: 'shared,exact,sealed,overlayfs' },
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
  const asked = options.peers.split(',');
  const modes = asked.filter((name): name is CacheMode => name === 'shared' || name === 'exact');
  const beside: Peer[] = [
    ...modes.map((mode) => plane!.peer(`--cache ${mode}`, stack, mode)),
    ...(asked.includes('sealed') ? [sealedPeer('sealed door', { work, stack, dataRoots: [tree] })] : []),
    ...(asked.includes('overlayfs') ? [overlayPeer(work, tree)] : []),
  ];
  const peers: Peer[] = [plainPeer(work, tree), ...beside];
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
        const kinds = await plane.requests(m.tree);
        if (kinds !== null) requests.set(key, kinds);
        execFileSync('sync', ['-f', work]);
        await m.unmount();
      }
    }
  }
  const of = (row: Row, peer: string) => results.get(`${row.name} ${peer}`) ?? [];
  const number = (value: number) =>
    value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toFixed(2);
  /** Above 1: better than the directory in the same run. */
  const ratio = (row: Row, peer: string) => {
    const base = of(row, 'ext4');
    return median(of(row, peer).map((value, i) => (row.unit === 's' ? base[i]! / value : value / base[i]!)));
  };
  const targets: Target[] = rows.flatMap((row) =>
    modes.map((mode) => ({
      what: `${row.name}, --cache ${mode}, speed beside ext4`,
      value: ratio(row, `--cache ${mode}`),
      atLeast: 1 - row.within,
    })),
  );
  const lines = [
    `| work | ext4 | ${beside.map(({ name }) => `${name} | speed beside ext4`).join(' | ')} |`,
    `| --- | ---: | ${beside.map(() => '---: | ---:').join(' | ')} |`,
    ...rows.map((row) => {
      const cells = beside.map(
        ({ name }) => `${spread(of(row, name), number)} | ${ratio(row, name).toFixed(3)}`,
      );
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
        `${machineLine()} ${RUNS} interleaved runs; median (min to max), and the median of the runs' own ratios. Postmark is a row of "VLFS".`,
        '',
        ...lines,
      ],
    );
  if (!targets.every(isMet)) process.exitCode = 1;
} finally {
  await plane?.stop().catch(() => {});
  cleanUp(work);
}
