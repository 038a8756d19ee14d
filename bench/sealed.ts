/**
 * The sealed door with one layer and with 641 beside the kernel's overlayfs over one directory of the same content. Rows are interleaved, the order turns
 * with each run, medians are given.
 * Usage: npm run bench -- sealed [--quick] [--runs N] [--rows TEXT,...] [--no-write]
 * Writes the section "Sealed door" of docs/performance.md when all rows were measured.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { umount } from '../src/sys/index.ts';
import type { StackSpec, VlfsSpec } from '../src/vlfs/contract.ts';
import { mountSealed, prepareSealed, releaseSealedImages } from '../src/vlfs/index.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';
import { cleanUp, overlayPeer, type Peer } from './support/vlfs-peers.ts';
import { clientRow, ROWS, type Row, type Tools } from './support/vlfs-rows.ts';
import { LAYERS, makeTrees } from './support/vlfs-tree.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    runs: { type: 'string' },
    rows: { type: 'string' },
    'no-write': { type: 'boolean', default: false },
  },
});
const rounds = Number(options.runs ?? (options.quick ? 6 : 24));
const HEAVY_ROUNDS = 6;
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

function specIn(dir: string, stack: StackSpec): VlfsSpec {
  for (const name of ['private', 'whiteouts']) mkdirSync(join(dir, name), { recursive: true });
  return {
    name: 'bench',
    privateDir: join(dir, 'private'),
    whiteoutsDir: join(dir, 'whiteouts'),
    stack,
    readOnly: false,
  };
}

// The trees' directories, not the one above them: private layers stand there too, and overlayfs takes no layers that overlap.
const dataRoots = [join(work, 'one'), join(work, 'layers')];

function sealedPeer(name: string, stack: StackSpec): Peer {
  return {
    name,
    async mount() {
      const dir = mkdtempSync(join(work, 'mount-'));
      const mnt = join(dir, 'mnt');
      mkdirSync(mnt);
      const spec = specIn(dir, stack);
      const began = performance.now();
      await mountSealed({
        spec,
        imageDir: join(work, 'sealed'),
        dataRoots,
        dir: mnt,
        source: 'strata-bench',
      });
      const mountMs = performance.now() - began;
      return {
        tree: mnt,
        fresh: mnt,
        pid: null,
        mountMs,
        async unmount() {
          const result = umount(mnt, 0);
          if (result < 0) throw new Error(`unmount of ${name} failed: errno ${-result}`);
          rmSync(dir, { recursive: true });
        },
      };
    },
  };
}

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

const number = (value: number) =>
  value >= 1000
    ? Math.round(value).toLocaleString('en-US')
    : value.toPrecision(value >= 100 ? 3 : 2).replace(/\.0$/, '');
const line = (cells: string[]) => `| ${cells.join(' | ')} |`;

/** Rows of this bench only. */
const FIRST_OPEN: Row = {
  name: 'first open+read+close, shared files',
  unit: 'ops/s',
  run: (m, t) => clientRow(m, t, 'read-files', join(m.tree, 'usr'), '1'),
};

/** Every order of three, so that each peer comes as often after each other. */
const ORDERS = [
  [0, 1, 2],
  [2, 1, 0],
  [1, 2, 0],
  [0, 2, 1],
  [2, 0, 1],
  [1, 0, 2],
] as const;

async function measure(peers: Peer[], tools: Tools, rows: Row[]): Promise<string[]> {
  const mounts = new Map<string, number[]>(peers.map((peer) => [peer.name, []]));
  const results = new Map<string, Map<string, number[]>>(
    rows.map((row) => [row.name, new Map(peers.map((peer) => [peer.name, []]))]),
  );
  for (let round = 0; round < rounds; round++) {
    const mounted = [];
    for (const i of ORDERS[round % 6]!) {
      const peer = peers[i]!;
      await (await peer.mount()).unmount();
      const m = await peer.mount();
      mounts.get(peer.name)!.push(m.mountMs);
      mounted.push({ peer, m });
    }
    for (const row of rows) {
      if (row.unit !== 'ops/s' && round >= HEAVY_ROUNDS) continue;
      for (const { peer, m } of mounted) results.get(row.name)!.get(peer.name)!.push(row.run(m, tools).rate);
    }
    for (const { m } of mounted) await m.unmount();
  }
  const names = peers.map((peer) => peer.name);
  const [overlay, one, many] = names as [string, string, string];
  return [
    line(['row', ...names, '1 layer / overlayfs', `${LAYERS} layers / overlayfs`]),
    line(['---', ...names.map(() => '---:'), '---:', '---:']),
    line(['mount, ms', ...names.map((name) => spread(mounts.get(name)!, number)), '', '']),
    ...rows.map((row) => {
      const of = results.get(row.name)!;
      const shown = names.map((name) =>
        number(median(of.get(name)!.map((rate) => (row.unit === 'ms' ? 1000 / rate : rate)))),
      );
      const ratios = [one, many].map((name) => {
        const r = of
          .get(name)!
          .map((rate, i) => rate / of.get(overlay)![i]!)
          .sort((a, b) => a - b);
        return `${median(r).toFixed(3)} (${r[r.length >> 2]!.toFixed(2)} to ${r[(r.length * 3) >> 2]!.toFixed(2)})`;
      });
      return line([`${row.name}, ${row.unit}`, ...shown, ...ratios]);
    }),
  ];
}

try {
  note('making the trees');
  const client = join(work, 'client');
  execFileSync('gcc', ['-O2', '-o', client, join(import.meta.dirname, 'support/client.c')]);
  const { merged, one, many } = await makeTrees(work);
  execFileSync('sync', ['-f', work]);
  const entries = execFileSync('find', [merged, '-printf', 'x']).length;
  const image = await makeImage(many, entries);
  const texts = options.rows?.split(',');
  const at = ROWS.findIndex(({ name }) => name.startsWith('open+read'));
  const rows = ROWS.toSpliced(at, 0, FIRST_OPEN).filter(
    ({ name }) => texts === undefined || texts.some((text) => name.includes(text)),
  );
  const tools: Tools = {
    client,
    work,
    files: options.quick ? 1000 : 5000,
    postmark: options.quick ? { files: 1000, transactions: 5000 } : { files: 5000, transactions: 20_000 },
  };
  const peers = [
    overlayPeer(work, merged),
    sealedPeer('sealed, 1 layer', one),
    sealedPeer(`sealed, ${LAYERS} layers`, many),
  ];
  const lines = [
    `The image of ${LAYERS} layers (${number(image.entries)} entries, ${number(image.bytes / 1024)} KiB) was made in ${number(image.ms)} ms, once; then:`,
    '',
    ...(await measure(peers, tools, rows)),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'] && rows.length === ROWS.length) {
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Sealed door',
      'npm run bench -- sealed',
      [`${machineLine()} ${rounds} interleaved rounds; median (min to max).`, '', ...lines],
    );
    note('docs/performance.md is written');
  }
} finally {
  releaseSealedImages();
  cleanUp(work);
}
