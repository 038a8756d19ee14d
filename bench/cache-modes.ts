/**
 * What the exact cache mode costs: reading, mapping and starting shared files through the mount's own page cache (`--cache exact`) beside
 * passthrough to the layer's file (`--cache shared`) and beside a plain directory. Rows are interleaved, medians are given.
 * Usage: npm run bench -- cache-modes [--quick] [--runs N] [--rows TEXT,...] [--no-write]
 * Writes the section "Cache modes" of docs/performance.md.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { writeTreeIndex } from '../src/layer/index.ts';
import type { StackSpec } from '../src/vlfs/contract.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';
import {
  cleanUp,
  type Mounted,
  type Peer,
  plainPeer,
  type StrataPlane,
  strataPlane,
} from './support/vlfs-peers.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    runs: { type: 'string' },
    rows: { type: 'string' },
    'no-write': { type: 'boolean', default: false },
  },
});
const runs = Number(options.runs ?? (options.quick ? 1 : 3));
const LARGE_MIB = options.quick ? 256 : 1024;
const FILES = 500;
const FILE_BYTES = 100 * 1024;
const LARGE = 'srv/large';
const PROGRAM = 'usr/bin/program';
const SOME = 'usr/share/files';
const LIMIT_MS = 120_000;

interface Row {
  name: string;
  unit: 'MiB/s' | 'ops/s';
  args(tree: string): string[];
  /** Files of the layer that must not be in memory. */
  cold?: string;
}

const ROWS: Row[] = [
  ...[
    { name: 'sequential read, first', cold: LARGE },
    { name: 'the same, layer in memory' },
    { name: 'the same, again' },
  ].map((row) => ({
    ...row,
    unit: 'MiB/s' as const,
    args: (tree: string) => ['read-once', join(tree, LARGE)],
  })),
  ...[{ name: 'random 4 KiB reads, layer in memory' }, { name: 'the same reads again' }].map((row) => ({
    ...row,
    unit: 'ops/s' as const,
    args: (tree: string) => ['random', join(tree, LARGE), '20000'],
  })),
  ...[{ name: 'touch a mapping, layer in memory' }, { name: 'touch a mapping again' }].map((row) => ({
    ...row,
    unit: 'MiB/s' as const,
    args: (tree: string) => ['map', join(tree, LARGE)],
  })),
  {
    name: 'start a program, first',
    unit: 'ops/s',
    args: (tree) => ['start', join(tree, PROGRAM), '1', '--version'],
  },
  {
    name: 'start a program again',
    unit: 'ops/s',
    args: (tree) => ['start', join(tree, PROGRAM), '10', '--version'],
  },
  ...[{ name: 'open+read+close 100 KiB files, first' }, { name: 'the same files again' }].map((row) => ({
    ...row,
    unit: 'ops/s' as const,
    args: (tree: string) => ['read-files', join(tree, SOME), '1'],
  })),
];
/** Before these rows every mount is made anew, so its own page cache is empty. */
const NEW_MOUNT = new Set([
  'sequential read, first',
  'the same, layer in memory',
  'random 4 KiB reads, layer in memory',
  'touch a mapping, layer in memory',
]);

interface Measured {
  rate: number;
  cpuUs: number;
}

function client(file: string, m: Mounted, args: string[]): Measured {
  const env = m.pid === null ? process.env : { ...process.env, SERVER: String(m.pid) };
  const child = spawnSync(file, args, { encoding: 'utf8', timeout: LIMIT_MS, env });
  if (child.status !== 0) throw new Error(`${args.join(' ')}: ${child.error ?? child.stderr}`);
  const { ops, ns, cpu_us, server_us } = JSON.parse(child.stdout) as Record<string, number>;
  return { rate: ops! / (ns! / 1e9), cpuUs: (cpu_us! + server_us!) / ops! };
}

/** The layer, and its stack. */
async function makeLayer(work: string): Promise<{ tree: string; stack: StackSpec }> {
  const tree = join(work, 'layer/filesystem');
  for (const dir of ['srv', 'usr/bin', SOME]) mkdirSync(join(tree, dir), { recursive: true });
  execFileSync('dd', [
    'if=/dev/urandom',
    `of=${join(tree, LARGE)}`,
    'bs=1M',
    `count=${LARGE_MIB}`,
    'status=none',
  ]);
  copyFileSync(process.execPath, join(tree, PROGRAM));
  const content = readFileSync(process.execPath).subarray(0, FILE_BYTES);
  for (let i = 0; i < FILES; i++) writeFileSync(join(tree, SOME, `file-${i}`), content);
  const indexFile = join(work, 'layer/index');
  await writeTreeIndex(indexFile, tree);
  execFileSync('sync', ['-f', work]);
  const id = 'bench/files 1';
  return {
    tree,
    stack: { key: id, levels: [{ kind: 'software', id, treeDir: tree, indexFile, whiteoutsDir: null }] },
  };
}

/** Takes a file's pages out of memory. */
function dropPages(path: string): void {
  execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

type Results = Map<string, Map<string, Measured[]>>;

async function measure(file: string, tree: string, peers: Peer[], rows: Row[]): Promise<Results> {
  const results: Results = new Map(rows.map((row) => [row.name, new Map()]));
  for (let run = 0; run < runs; run++) {
    const order = peers.map((_, i) => peers[(i + run) % peers.length]!);
    const mounted = new Map<Peer, Mounted>();
    for (const row of rows) {
      for (const peer of order) {
        if (NEW_MOUNT.has(row.name) || !mounted.has(peer)) {
          await mounted.get(peer)?.unmount();
          mounted.set(peer, await peer.mount());
        }
        const m = mounted.get(peer)!;
        if (row.cold !== undefined) dropPages(join(tree, row.cold));
        const of = results.get(row.name)!;
        of.set(peer.name, [...(of.get(peer.name) ?? []), client(file, m, row.args(m.tree))]);
      }
    }
    for (const m of mounted.values()) await m.unmount();
  }
  return results;
}

const number = (value: number) =>
  value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toPrecision(3).replace(/\.0+$/, '');

function table(results: Results, rows: Row[]): string[] {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  const names = ['ext4', 'shared', 'exact'];
  const head = [
    'row',
    ...names,
    'shared / ext4',
    'exact / ext4',
    'exact, CPU us each',
    'shared, CPU us each',
  ];
  const rate = (row: Row, name: string) =>
    median((results.get(row.name)!.get(name) ?? []).map((m) => m.rate));
  const cpu = (row: Row, name: string) =>
    median((results.get(row.name)!.get(name) ?? []).map((m) => m.cpuUs));
  return [
    line(head),
    line(head.map((_, i) => (i === 0 ? '---' : '---:'))),
    ...rows.map((row) =>
      line([
        `${row.name}, ${row.unit}`,
        ...names.map((name) =>
          spread(
            (results.get(row.name)!.get(name) ?? []).map((m) => m.rate),
            number,
          ),
        ),
        (rate(row, 'shared') / rate(row, 'ext4')).toFixed(2),
        (rate(row, 'exact') / rate(row, 'ext4')).toFixed(2),
        number(cpu(row, 'exact')),
        number(cpu(row, 'shared')),
      ]),
    ),
  ];
}

const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-cache-'));
let plane: StrataPlane | null = null;
try {
  const file = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', file, join(import.meta.dirname, 'support/client.c')]);
  const { tree, stack } = await makeLayer(work);
  plane = await strataPlane(work);
  const peers = [
    plainPeer(work, tree),
    plane.peer('shared', stack, 'shared'),
    plane.peer('exact', stack, 'exact'),
  ];
  const texts = options.rows?.split(',');
  const rows = ROWS.filter((row) => texts === undefined || texts.some((text) => row.name.includes(text)));
  const lines = table(await measure(file, tree, peers, rows), rows);
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'] && texts === undefined && !options.quick) {
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Cache modes',
      'npm run bench -- cache-modes',
      [
        `${machineLine()} ${runs} interleaved runs; median (min to max).`,
        '',
        `A file of ${LARGE_MIB} MiB, a program of ${Math.round(readFileSync(join(tree, PROGRAM)).length / 2 ** 20)} MiB, ${FILES} files of 100 KiB, all in one layer. Processor time is of client and server for one MiB or operation.`,
        '',
        ...lines,
      ],
    );
  }
} finally {
  await plane?.stop().catch(() => {});
  cleanUp(work);
}
