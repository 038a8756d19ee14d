/**
 * The FUSE door beside ext4, the kernel's overlayfs and other FUSE file systems over the same tree, and with 641 layers beside one. Rows are interleaved: each
 * row runs on one peer after the other, the order turns with each run, and medians are given.
 * Everything stands on a file system in memory, so that no peer waits for what the disk does for another, unless --disk is given.
 * Usage: npm run bench -- vlfs [--quick] [--runs N] [--rows TEXT,...] [--peers TEXT,...] [--disk] [--no-write] [--keep]
 * Writes the section "VLFS" of docs/performance.md when all rows and the usual peers were measured.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, linkSync, mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { memoryDisk } from './support/memory-disk.ts';
import { machineLine, median, spread, type Target, targetLines, writeSection } from './support/report.ts';
import {
  bindfsPeer,
  cleanUp,
  fuseOverlayPeer,
  type Mounted,
  mergerfsPeer,
  overlayPeer,
  type Peer,
  plainPeer,
  type StrataPlane,
  strataPlane,
  unionfsPeer,
} from './support/vlfs-peers.ts';
import { type Measured, ROWS, type Row, type Tools } from './support/vlfs-rows.ts';
import { LARGE_FILE, LAYERS, makeTrees } from './support/vlfs-tree.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    runs: { type: 'string' },
    rows: { type: 'string' },
    peers: { type: 'string' },
    disk: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
});
const runs = Number(options.runs ?? (options.quick ? 1 : 3));
const ONE = 'strata, 1 layer';
const MANY = `strata, ${LAYERS} layers`;
/** File systems in user space; bindfs and mergerfs are no unions, but show what a round trip costs. */
const FUSE_PEERS = ['fuse-overlayfs', 'unionfs-fuse', 'mergerfs', 'bindfs'];
const USUAL = ['ext4', 'overlayfs', ...FUSE_PEERS, ONE, MANY];
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

/** The rows whose name contains one of the texts, with the rows that prepare them. */
function wantedRows(): Row[] {
  if (options.rows === undefined) return ROWS;
  const texts = options.rows.split(',');
  const wanted = new Set(ROWS.filter((row) => texts.some((text) => row.name.includes(text))));
  const needed = new Set(wanted);
  for (const row of wanted)
    for (const name of row.needs ?? []) needed.add(ROWS.find((other) => other.name === name)!);
  return ROWS.filter((row) => needed.has(row));
}

interface Results {
  /** By peer. */
  mount: Map<string, number[]>;
  mountAgain: Map<string, number[]>;
  /** By row, then peer. */
  rows: Map<string, Map<string, Measured[]>>;
}

function add<T>(map: Map<string, T[]>, key: string, value: T): void {
  const known = map.get(key);
  if (known === undefined) map.set(key, [value]);
  else known.push(value);
}

async function measure(peers: Peer[], rows: Row[], tools: Tools): Promise<Results> {
  const results: Results = { mount: new Map(), mountAgain: new Map(), rows: new Map() };
  for (const row of rows) results.rows.set(row.name, new Map());
  for (let run = 0; run < runs; run++) {
    note(`run ${run + 1} of ${runs}`);
    const order = peers.map((_, i) => peers[(i + run) % peers.length]!);
    // Nobody always follows the same other one.
    if (run % 2 === 1) order.reverse();
    const mounted: [Peer, Mounted][] = [];
    for (const peer of order) {
      const first = await peer.mount();
      add(results.mount, peer.name, first.mountMs);
      await first.unmount();
      const second = await peer.mount();
      add(results.mountAgain, peer.name, second.mountMs);
      // Peers without a layer of their own show what the run before left.
      for (const left of ['fresh-files', 'postmark'])
        rmSync(join(second.fresh, left), { recursive: true, force: true });
      mounted.push([peer, second]);
    }
    for (const row of rows) {
      for (const [peer, m] of mounted) {
        if (row.changesShared === true && !hasCopies(peer)) continue;
        try {
          add(results.rows.get(row.name)!, peer.name, row.run(m, tools));
        } catch (error) {
          note((error as Error).message);
        }
        // What one peer wrote is not written to the disk during the next one's turn.
        execFileSync('sync', ['-f', tools.work]);
      }
    }
    for (const [, m] of mounted) await m.unmount();
  }
  return results;
}

function hasCopies(peer: Peer): boolean {
  return !['ext4', 'bindfs', 'mergerfs'].includes(peer.name);
}

const number = (value: number) =>
  value >= 1000
    ? Math.round(value).toLocaleString('en-US')
    : value.toPrecision(value >= 100 ? 3 : 2).replace(/\.0$/, '');

function shown(row: Row, measured: Measured[] | undefined): string {
  if (measured === undefined) return '';
  return spread(
    measured.map((m) => (row.unit === 'ms' ? 1000 / m.rate : m.rate)),
    number,
  );
}

/** The median of the ratios within each run: what the machine does differently from run to run is in both. */
function paired(a: number[], b: number[]): number {
  return a.length === b.length ? median(a.map((value, run) => value / b[run]!)) : Number.NaN;
}

/** The targets of the FUSE door, as far as the peers were measured. */
function targets(results: Results, rows: Row[]): Target[] {
  const found: Target[] = [];
  for (const row of rows) {
    const of = results.rows.get(row.name)!;
    const rates = (peer: string) => (of.get(peer) ?? []).map((m) => m.rate);
    const against = (what: string, value: number, atLeast: number) => {
      if (!Number.isNaN(value)) found.push({ what: `${row.name}, ${what}`, value, atLeast });
    };
    const overPeers = FUSE_PEERS.map((peer) => paired(rates(ONE), rates(peer)));
    const overBest = Math.min(...overPeers.filter((ratio) => !Number.isNaN(ratio)));
    if (Number.isFinite(overBest)) against('1 layer / best FUSE peer', overBest, 1);
    if (row.twice === true)
      against('1 layer / fuse-overlayfs', paired(rates(ONE), rates('fuse-overlayfs')), 2);
    if (row.native === true) against('1 layer / ext4', paired(rates(ONE), rates('ext4')), 0.9);
    against(`${LAYERS} layers / 1 layer`, paired(rates(MANY), rates(ONE)), 0.9);
  }
  return found;
}

function tables(results: Results, rows: Row[], peers: string[]): string[] {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  const ratio = (of: Map<string, Measured[]>, a: string, b: string) => {
    const [x, y] = [of.get(a), of.get(b)];
    if (!x || !y) return '';
    const value = paired(
      x.map((m) => m.rate),
      y.map((m) => m.rate),
    );
    return Number.isNaN(value) ? '' : value.toFixed(2);
  };
  const head = [
    'row',
    ...peers,
    '1 layer / fuse-overlayfs',
    '1 layer / overlayfs',
    `${LAYERS} layers / 1 layer`,
  ];
  const mounts = (name: string, times: Map<string, number[]>) =>
    line([name, ...peers.map((p) => (p === 'ext4' ? '' : spread(times.get(p) ?? [], number))), '', '', '']);
  return [
    line(head),
    line(head.map((_, i) => (i === 0 ? '---' : '---:'))),
    mounts('mount, ms', results.mount),
    mounts('mount again, ms', results.mountAgain),
    ...rows.map((row) => {
      const of = results.rows.get(row.name)!;
      return line([
        `${row.name}, ${row.unit}`,
        ...peers.map((peer) => shown(row, of.get(peer))),
        ratio(of, ONE, 'fuse-overlayfs'),
        ratio(of, ONE, 'overlayfs'),
        ratio(of, MANY, ONE),
      ]);
    }),
    '',
    'Processor time of client and server for one operation (MiB, file), in microseconds:',
    '',
    line(['row', ...peers]),
    line(['---', ...peers.map(() => '---:')]),
    ...rows.map((row) =>
      line([
        row.name,
        ...peers.map((peer) =>
          number(median((results.rows.get(row.name)!.get(peer) ?? []).map((m) => m.cpuUs))),
        ),
      ]),
    ),
  ];
}

const MEMORY_GIB = 8;
const memory = options.disk ? null : memoryDisk(MEMORY_GIB);
const work = mkdtempSync(join(memory?.dir ?? process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
let plane: StrataPlane | null = null;
try {
  note('making the trees');
  const client = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', client, join(import.meta.dirname, 'support/client.c')]);
  const { merged, one, many } = await makeTrees(work);
  plane = await strataPlane(work);
  const texts = options.peers?.split(',') ?? USUAL;
  const wanted = (name: string) => texts.some((text) => name.includes(text));
  /** A copy of the tree that a peer may change. */
  const copyFor = (name: string): string => {
    const copy = join(work, `copy-${name}`);
    if (!wanted(name)) return copy;
    cpSync(merged, copy, { recursive: true });
    // The large file is only read, and is to be in the page cache in the same way for all.
    rmSync(join(copy, LARGE_FILE));
    linkSync(join(merged, LARGE_FILE), join(copy, LARGE_FILE));
    return copy;
  };
  const peers = [
    plainPeer(work, merged),
    overlayPeer(work, merged),
    fuseOverlayPeer(work, merged),
    bindfsPeer(work, copyFor('bindfs')),
    unionfsPeer(work, merged),
    mergerfsPeer(work, copyFor('mergerfs')),
    plane.peer(ONE, one),
    plane.peer(MANY, many),
  ].filter((peer) => wanted(peer.name));
  execFileSync('sync', ['-f', work]);
  const rows = wantedRows();
  const tools: Tools = {
    client,
    work,
    files: options.quick ? 1000 : 5000,
    postmark: options.quick ? { files: 1000, transactions: 5000 } : { files: 5000, transactions: 20_000 },
  };
  const results = await measure(peers, rows, tools);
  const lines = tables(
    results,
    rows,
    peers.map((peer) => peer.name),
  );
  lines.push('', ...targetLines(targets(results, rows)));
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'] && rows.length === ROWS.length && USUAL.every(wanted)) {
    const { files, transactions } = tools.postmark;
    writeSection(resolve(import.meta.dirname, '../docs/performance.md'), 'VLFS', 'npm run bench -- vlfs', [
      `${machineLine()} ${runs} interleaved runs; median (min to max); ratios: median of the runs' ratios.`,
      '',
      memory === null
        ? 'Everything stands on the disk.'
        : 'Everything stands on ext4 without a journal in memory.',
      `All peers show the same tree. Postmark: ${files} files, ${transactions} transactions, its whole time. The peers' page cache is warm, their mounts are new.`,
      '',
      ...lines,
    ]);
    note('docs/performance.md is written');
  }
} finally {
  await plane?.stop().catch(() => {});
  if (!options.keep) {
    cleanUp(work);
    memory?.remove();
  }
}
