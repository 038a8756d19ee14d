/**
 * The sealed door with one layer and with 641 beside the kernel's overlayfs over one directory of the same content, and its image beside what else one could
 * make and mount. In every round each row runs on all three, in one of the six orders; ratios are medians of the rounds' own ratios,
 * which what else happens on the machine moves least. All stand on a file system in memory without a journal, so that the state of a disk is in no ratio; `--disk` measures
 * on /var/tmp (or STRATA_BENCH_DIR). Takes about four minutes.
 * Usage: npm run bench -- sealed [--quick] [--seconds N] [--rows TEXT,...] [--disk] [--no-write]; the text `images` means the second table
 * Writes the section "Sealed door" of docs/performance.md when all rows were measured.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { StackSpec } from '../src/vlfs/contract.ts';
import { prepareSealed, releaseSealedImages } from '../src/vlfs/index.ts';
import { memoryDisk } from './support/memory-disk.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';
import { dropCaches, measureWays, otherWays, type Way, type WayFigures } from './support/sealed-images.ts';
import { sealedPeer, specIn } from './support/sealed-peer.ts';
import { cleanUp, overlayPeer, type Peer } from './support/vlfs-peers.ts';
import { clientRow, ROWS, type Row, type Tools } from './support/vlfs-rows.ts';
import { LAYERS, makeTrees } from './support/vlfs-tree.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    rows: { type: 'string' },
    disk: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
  },
});
/** For the rows; a whole number of six rounds, at least six. */
const seconds = Number(options.seconds ?? (options.quick ? 10 : 140));
/** Rows of large data and of cold caches take long, and differ little from round to round. */
const HEAVY_ROUNDS = 6;
const TARGET = 0.97;
/** Two forms of the tree, and what the rows write. */
const MEMORY_GIB = 6;
const memory = options.disk ? null : memoryDisk(MEMORY_GIB);
const work = mkdtempSync(join(memory?.dir ?? process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

// The trees' directories, not the one above them: private layers stand there too, and overlayfs takes no layers that overlap.
const dataRoots = [join(work, 'one'), join(work, 'layers')];

const sealed = (name: string, stack: StackSpec): Peer => sealedPeer(name, { work, stack, dataRoots });

interface Image {
  entries: number;
  bytes: number;
  ms: number;
}

/** Makes the image of a stack from nothing, in its thread, as the first mount of a stack does. */
async function makeImage(stack: StackSpec, entries: number): Promise<Image> {
  const dir = mkdtempSync(join(work, 'image-'));
  const imageDir = join(dir, 'sealed');
  const began = performance.now();
  await prepareSealed({ spec: specIn(dir, stack), imageDir, dataRoots });
  const ms = performance.now() - began;
  const [file] = readdirSync(imageDir);
  const { size } = statSync(join(imageDir, file!));
  rmSync(dir, { recursive: true });
  return { entries, bytes: size, ms };
}

function sealedWay(many: StackSpec, entries: number): Way {
  return {
    name: `**sealed door, ${LAYERS} layers**`,
    make: async () => (await makeImage(many, entries)).bytes,
    peer: () => sealed('sealed', many),
    remove: releaseSealedImages,
  };
}

const number = (value: number) =>
  value >= 1000
    ? Math.round(value).toLocaleString('en-US')
    : value.toPrecision(value >= 100 ? 3 : 2).replace(/\.0$/, '');
const line = (cells: string[]) => `| ${cells.join(' | ')} |`;

/** Before any other row has opened the files: overlayfs looks each one's data up once. */
const FIRST_OPEN: Row = {
  name: 'first open+read+close, shared files',
  unit: 'ops/s',
  run: (m, t) => clientRow(m, t, 'read-files', join(m.tree, 'usr'), '1'),
};
const COLD_FIND = 'first find, cold caches';

/** Each peer comes as often first, and as often after each other one. */
const ORDERS = [
  [0, 1, 2],
  [2, 1, 0],
  [1, 2, 0],
  [0, 2, 1],
  [2, 0, 1],
  [1, 0, 2],
] as const;

/** Rates by row, then peer. */
type Rates = Map<string, Map<string, number[]>>;

function add(rates: Rates, row: string, peer: string, rate: number): void {
  const of = rates.get(row) ?? new Map<string, number[]>();
  rates.set(row, of);
  of.set(peer, [...(of.get(peer) ?? []), rate]);
}

async function measureCold(peers: Peer[], tools: Tools, rates: Rates): Promise<void> {
  for (let round = 0; round < HEAVY_ROUNDS; round++) {
    for (const i of ORDERS[round % ORDERS.length]!) {
      const peer = peers[i]!;
      const m = await peer.mount();
      dropCaches(work);
      add(rates, COLD_FIND, peer.name, clientRow(m, tools, 'find', m.tree).rate);
      await m.unmount();
    }
  }
}

/** Returns the number of rounds. */
async function measure(
  peers: Peer[],
  tools: Tools,
  rows: Row[],
  rates: Rates,
  processor: Rates,
  mounts: Map<string, number[]>,
): Promise<number> {
  const began = performance.now();
  for (let round = 0; ; round++) {
    if (round > 0 && round % ORDERS.length === 0 && performance.now() - began > seconds * 1000) return round;
    const mounted = [];
    for (const i of ORDERS[round % ORDERS.length]!) {
      const peer = peers[i]!;
      await (await peer.mount()).unmount();
      const m = await peer.mount();
      mounts.set(peer.name, [...(mounts.get(peer.name) ?? []), m.mountMs]);
      mounted.push({ peer, m });
    }
    for (const row of rows) {
      if (row.unit !== 'ops/s' && round >= HEAVY_ROUNDS) continue;
      for (const { peer, m } of mounted) {
        const { rate, cpuUs } = row.run(m, tools);
        add(rates, row.name, peer.name, rate);
        add(processor, row.name, peer.name, 1 / cpuUs);
        // What one wrote is not written back during another's turn.
        execFileSync('sync', ['-f', work]);
      }
    }
    for (const { m } of mounted) await m.unmount();
  }
}

function quarter(sorted: number[], part: number): string {
  return sorted[Math.floor((sorted.length - 1) * part)]!.toFixed(2);
}

interface Table {
  lines: string[];
  met: string[];
  missed: string[];
  /** Rows that cost no more processor time. */
  metByCpu: number;
}

interface Results {
  rates: Rates;
  /** Operations for a microsecond of the client's processor time: what the kernel does for it is in it, waiting is not. */
  processor: Rates;
  mounts: Map<string, number[]>;
}

/** Each round's own ratio to overlayfs, sorted. */
function ratios(of: Map<string, number[]> | undefined, peer: string, overlay: string): number[] {
  const base = of?.get(overlay) ?? [];
  return (of?.get(peer) ?? []).map((rate, i) => rate / base[i]!).sort((a, b) => a - b);
}

function table(names: string[], rows: Row[], { rates, processor, mounts }: Results): Table {
  const [overlay, one, many] = names as [string, string, string];
  const met: string[] = [];
  const missed: string[] = [];
  let metByCpu = 0;
  const lines = [
    line([
      'row',
      ...names,
      '1 layer / overlayfs (quartiles)',
      `${LAYERS} layers / overlayfs (quartiles)`,
      'the same by processor time',
    ]),
    line(['---', ...names.map(() => '---:'), '---:', '---:', '---:']),
    line(['mount, ms', ...names.map((name) => spread(mounts.get(name) ?? [], number)), '', '', '']),
  ];
  for (const [name, of] of rates) {
    const unit = rows.find((row) => row.name === name)?.unit ?? 'ops/s';
    const shown = names.map((peer) =>
      number(median(of.get(peer)!.map((rate) => (unit === 'ms' ? 1000 / rate : rate)))),
    );
    const both = [one, many].map((peer) => ratios(of, peer, overlay));
    (both.every((each) => median(each) >= TARGET) ? met : missed).push(name);
    const cells = both.map(
      (each) => `${median(each).toFixed(2)} (${quarter(each, 0.25)} to ${quarter(each, 0.75)})`,
    );
    const byCpu = [one, many].map((peer) => median(ratios(processor.get(name), peer, overlay)));
    if (byCpu.every((ratio) => ratio >= TARGET)) metByCpu++;
    const cpu = byCpu.some(Number.isNaN) ? '' : byCpu.map((ratio) => ratio.toFixed(2)).join(', ');
    lines.push(line([`${name}, ${unit}`, ...shown, ...cells, cpu]));
  }
  return { lines, met, missed, metByCpu };
}

function waysTable(figures: WayFigures[]): string[] {
  return [
    line(['from layers to a mounted tree', 'made in', 'takes', 'mounted in', 'first walk, cold caches']),
    line(['---', '---:', '---:', '---:', '---:']),
    ...figures.map(({ name, makeMs, bytes, mountMs, coldWalk }) =>
      line([
        name,
        bytes === 0 ? '' : `${number(makeMs)} ms`,
        bytes === 0 ? '' : `${number(bytes / 2 ** 20)} MiB`,
        `${number(median(mountMs))} ms`,
        `${number(median(coldWalk))} entries/s`,
      ]),
    ),
  ];
}

try {
  note('making the trees');
  const client = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', client, join(import.meta.dirname, 'support/client.c')]);
  const { merged, one, many } = await makeTrees(work);
  execFileSync('sync', ['-f', work]);
  const entries = execFileSync('find', [merged, '-printf', 'x']).length;
  const texts = options.rows?.split(',');
  const isWanted = (name: string) => texts === undefined || texts.some((text) => name.includes(text));
  const at = ROWS.findIndex(({ name }) => name.startsWith('open+read'));
  const rows = ROWS.toSpliced(at, 0, FIRST_OPEN).filter(({ name }) => isWanted(name));
  const tools: Tools = {
    client,
    work,
    files: options.quick ? 1000 : 3000,
    postmark: options.quick ? { files: 500, transactions: 2000 } : { files: 1000, transactions: 5000 },
  };
  const peers = [
    overlayPeer(work, merged),
    sealed('sealed, 1 layer', one),
    sealed(`sealed, ${LAYERS} layers`, many),
  ];
  const images = [];
  for (let i = 0; i < 5; i++) images.push(await makeImage(many, entries));
  const rates: Rates = new Map();
  const processor: Rates = new Map();
  const mounts = new Map<string, number[]>();
  note('rows');
  if (isWanted(COLD_FIND)) await measureCold(peers, tools, rates);
  const rounds = rows.length === 0 ? 0 : await measure(peers, tools, rows, rates, processor, mounts);
  const names = peers.map((peer) => peer.name);
  const { lines: rowLines, met, missed, metByCpu } = table(names, rows, { rates, processor, mounts });
  const lines = [
    `The image of ${LAYERS} layers (${number(entries)} entries, ${number(images[0]!.bytes / 1024)} KiB) was made in ${spread(
      images.map(({ ms }) => ms),
      number,
    )} ms in a new thread, once for all appliances of the stack; then ${rounds} rounds:`,
    '',
    ...rowLines,
    '',
    `Within 3 % of overlayfs or faster, with one layer and with ${LAYERS}: ${met.length} of ${met.length + missed.length} rows.${missed.length === 0 ? '' : ` Not: ${missed.join('; ')}.`} By the client's processor time, which waiting does not change: ${metByCpu}. What the sealed door costs more is fixed: at its first lookup overlayfs reads where a file's data is (3 calls for extended attributes), at its first open it walks there (about 2 us), and each file has one inode more that must be in the processor's caches. In return no cost grows with the layers, and with cold caches the image is read from the disk in a few large pieces.`,
  ];
  if (isWanted('images')) {
    note('other ways');
    const walks = options.quick ? 1 : 3;
    const ways = [sealedWay(many, entries), ...otherWays(work, merged, many)];
    const figures = await measureWays(
      ways,
      walks,
      (tree) =>
        clientRow({ tree, fresh: tree, pid: null, mountMs: 0, unmount: async () => {} }, tools, 'find', tree)
          .rate,
    );
    lines.push('', ...waysTable(figures));
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'] && texts === undefined) {
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Sealed door',
      'npm run bench -- sealed',
      [
        `${machineLine()} Medians. Everything stands ${memory === null ? 'on the disk' : 'on ext4 without a journal in memory'}.`,
        '',
        ...lines,
      ],
    );
    note('docs/performance.md is written');
  }
} finally {
  releaseSealedImages();
  cleanUp(work);
  memory?.remove();
}
