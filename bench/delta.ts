/**
 * Changes of a shared 1 GiB file: the first 4 KiB written, a chmod, random writes, sequential reads, beside the kernel's overlayfs over the same files and a
 * private copy on the same file system. Takes about three minutes where files cannot share blocks (ext4).
 * Usage: npm run bench -- delta [--rounds N] [--mib N] [--no-write]
 * Writes the section "Copy-on-write inside files" of docs/performance.md.
 */
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { killDataPlane, startDataPlane } from '../src/fuse/process/client.ts';
import { writeTreeIndex } from '../src/layer/index.ts';
import { MNT_DETACH, umount } from '../src/sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../src/vlfs/contract.ts';
import { privateUsage } from '../src/vlfs/index.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    mib: { type: 'string', default: '1024' },
    'no-write': { type: 'boolean', default: false },
  },
});
const rounds = Number(options.rounds);
const MIB = 1 << 20;
const size = Number(options.mib) * MIB;
const BLOCK = 4096;
const RANDOM_WRITES = 4000;
const work = fs.mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

const treeDir = join(work, 'unit/filesystem');
const big = join(treeDir, 'big');

function makeFile(): void {
  fs.mkdirSync(treeDir, { recursive: true });
  const fd = fs.openSync(big, 'w');
  const chunk = Buffer.alloc(MIB);
  for (let at = 0; at < size; at += MIB) {
    for (let i = 0; i < MIB; i += BLOCK) chunk.writeDoubleLE(at + i + 1, i);
    fs.writeSync(fd, chunk);
  }
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

/** Milliseconds. */
function timed(work: () => void): number {
  const began = performance.now();
  work();
  return performance.now() - began;
}

const one = Buffer.alloc(BLOCK, 'x');

/** open, the write of 4 KiB, close. */
function firstWrite(path: string): number {
  return timed(() => {
    const fd = fs.openSync(path, 'r+');
    fs.writeSync(fd, one, 0, BLOCK, 512 * 1024);
    fs.closeSync(fd);
  });
}

/** 4 KiB at random places of the file, a second. */
function randomWrites(path: string): number {
  const fd = fs.openSync(path, 'r+');
  let seed = 1;
  const blocks = size / BLOCK;
  const ms = timed(() => {
    for (let i = 0; i < RANDOM_WRITES; i++) {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
      fs.writeSync(fd, one, 0, BLOCK, (seed % blocks) * BLOCK);
    }
  });
  fs.closeSync(fd);
  return (RANDOM_WRITES / ms) * 1000;
}

/** MiB a second of a sequential read in pieces of 1 MiB. */
function readAll(path: string): number {
  const fd = fs.openSync(path, 'r');
  const buffer = Buffer.alloc(MIB);
  const ms = timed(() => {
    while (fs.readSync(fd, buffer, 0, MIB, null) > 0);
  });
  fs.closeSync(fd);
  return (size / MIB / ms) * 1000;
}

interface Figures {
  chmod: number[];
  first: number[];
  space: number[];
  random: number[];
  read: number[];
}
const none = (): Figures => ({ chmod: [], first: [], space: [], random: [], read: [] });
const figures = { strata: none(), overlayfs: none(), copy: none() };

function measure(into: Figures, path: string, upper: string): void {
  into.chmod.push(timed(() => fs.chmodSync(path, 0o600)));
  into.first.push(firstWrite(path));
  into.space.push(privateUsage(upper).bytes);
  into.read.push(readAll(path));
  into.random.push(randomWrites(path));
}

async function round(
  n: number,
  plane: Awaited<ReturnType<typeof startDataPlane>>,
  level: LevelSpec,
): Promise<void> {
  const dir = join(work, `round-${n}`);
  for (const name of ['a/private', 'a/whiteouts', 'mnt', 'o/upper', 'o/work', 'o/mnt', 'copy'])
    fs.mkdirSync(join(dir, name), { recursive: true });
  const vlfs: VlfsSpec = {
    name: `r${n}`,
    privateDir: join(dir, 'a/private'),
    whiteoutsDir: join(dir, 'a/whiteouts'),
    stack: { key: 'bench', levels: [level] },
    readOnly: false,
  };
  await plane.mount({ id: `r${n}`, mountpoint: join(dir, 'mnt'), vlfs, readOnly: false });
  fs.statSync(join(dir, 'mnt/big'));
  measure(figures.strata, join(dir, 'mnt/big'), vlfs.privateDir);
  umount(join(dir, 'mnt'), MNT_DETACH);
  const overlay = join(dir, 'o/mnt');
  const upper = join(dir, 'o/upper');
  const how = `lowerdir=${treeDir},upperdir=${upper},workdir=${join(dir, 'o/work')}`;
  execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', how, overlay]);
  fs.statSync(join(overlay, 'big'));
  measure(figures.overlayfs, join(overlay, 'big'), upper);
  umount(overlay, MNT_DETACH);
  const copy = join(dir, 'copy/big');
  execFileSync('cp', ['--reflink=never', big, copy]);
  measure(figures.copy, copy, join(dir, 'copy'));
  fs.rmSync(dir, { recursive: true });
}

function rowsOf(name: string, of: Figures): string {
  const ms = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} ms`;
  const kib = (value: number) => `${Math.round(value / 1024)} KiB`;
  const cells = [
    spread(of.chmod, ms),
    spread(of.first, ms),
    spread(of.space, kib),
    spread(of.random, (value) => `${Math.round(value)}/s`),
    spread(of.read, (value) => `${Math.round(value)} MiB/s`),
  ];
  return `| ${[name, ...cells].join(' | ')} |`;
}

try {
  note(`a file of ${size / MIB} MiB in ${work}`);
  makeFile();
  const indexFile = join(work, 'unit/index');
  await writeTreeIndex(indexFile, treeDir);
  const level: LevelSpec = { kind: 'software', id: 'main/big 1', treeDir, indexFile, whiteoutsDir: null };
  const root = join(work, 'root');
  fs.mkdirSync(root);
  const plane = await startDataPlane(root, { args: [] });
  try {
    for (let n = 0; n < rounds; n++) {
      note(`round ${n + 1} of ${rounds}`);
      await round(n, plane, level);
    }
  } finally {
    plane.close();
    killDataPlane(root, { keepMounts: false });
  }
  const lines = [
    machineLine(),
    '',
    `A shared file of ${size / MIB} MiB on ${execFileSync('stat', ['-f', '-c', '%T', work], { encoding: 'utf8' }).trim()}; medians of ${rounds} rounds and their ranges. Space: of the private layer after the first write.`,
    '',
    '| | chmod | first 4 KiB: open, write, close | space then | random 4 KiB writes | sequential read |',
    '| --- | --- | --- | --- | --- | --- |',
    rowsOf('strata', figures.strata),
    rowsOf('overlayfs', figures.overlayfs),
    rowsOf('a private copy', figures.copy),
  ];
  console.log(lines.join('\n'));
  const first = median(figures.strata.first);
  const space = median(figures.strata.space);
  console.log(
    `\nfirst write at most 1 ms: ${first <= 1 ? 'met' : 'missed'}; space at most 64 KiB: ${space <= 65_536 ? 'met' : 'missed'}`,
  );
  if (!options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Copy-on-write inside files',
      'npm run bench -- delta',
      lines,
    );
} finally {
  fs.rmSync(work, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}
