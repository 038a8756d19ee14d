/**
 * Operations behind a line of clones that were never merged, beside the same behind one clone: the same programs in turn on two mounts of one strata-fs. Figures are
 * the processor time of strata-fs, which other load on the machine disturbs less than the clock; the counts of system calls are in src/vlfs/depth.test.ts. Takes about a minute.
 * Usage: npm run bench -- depth [--depth N] [--rounds N] [--no-write]
 * Writes the section "Depth of clones" of docs/performance.md.
 */
import * as fs from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { killDataPlane, startDataPlane } from '../src/fuse/process/client.ts';
import { writeTreeIndex } from '../src/layer/index.ts';
import { MNT_DETACH, umount } from '../src/sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../src/vlfs/contract.ts';
import { machineLine, median, spread, writeSection } from './support/report.ts';

const { values: options } = parseArgs({
  options: {
    depth: { type: 'string', default: '1000' },
    rounds: { type: 'string', default: '9' },
    'no-write': { type: 'boolean', default: false },
  },
});
const depth = Number(options.depth);
const rounds = Number(options.rounds);
const FILES = 400;
const work = fs.mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-'));
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

async function base(): Promise<LevelSpec> {
  const treeDir = join(work, 'unit/filesystem');
  for (const dir of ['etc', 'srv', 'usr']) fs.mkdirSync(join(treeDir, dir), { recursive: true });
  for (let i = 0; i < FILES * rounds * 2; i++) fs.writeFileSync(join(treeDir, `usr/file-${i}`), `${i}`);
  const indexFile = join(work, 'unit/index');
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: 'bench/base 1', treeDir, indexFile, whiteoutsDir: null };
}

/** A frozen layer for each clone: a file of its own, and one that all change. */
function frozen(i: number): LevelSpec {
  const dir = join(work, 'frozen', `f${i}`);
  for (const one of ['private/etc', 'private/srv', 'whiteouts'])
    fs.mkdirSync(join(dir, one), { recursive: true });
  fs.writeFileSync(join(dir, 'private/etc/motd'), `${i}`);
  fs.writeFileSync(join(dir, `private/srv/own-${i}`), `${i}`);
  const treeDir = join(dir, 'private');
  return {
    kind: 'frozen',
    id: `frozen/f${i}`,
    treeDir,
    indexFile: join(dir, 'index'),
    whiteoutsDir: join(dir, 'whiteouts'),
  };
}

interface Side {
  dir: string;
  figures: Record<string, number[]>;
  mountMs: number;
  firstMs: number;
  memory: number;
}

/** Milliseconds. */
function timed(run: () => void): number {
  const began = performance.now();
  run();
  return performance.now() - began;
}

/** What all threads of strata-fs have run so far, in microseconds. */
function processorTime(pid: number): number {
  let ns = 0;
  for (const task of fs.readdirSync(`/proc/${pid}/task`)) {
    try {
      ns += Number(fs.readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // The thread has ended.
    }
  }
  return ns / 1000;
}

/** Each name is asked for once, so the kernel does not know it. */
function round(side: Side, n: number, pid: number): void {
  const { dir, figures } = side;
  const measure = (name: string, each: (i: number) => void): void => {
    const began = processorTime(pid);
    for (let i = n * FILES; i < (n + 1) * FILES; i++) each(i);
    figures[name] = [...(figures[name] ?? []), (processorTime(pid) - began) / FILES];
  };
  measure('lookup', (i) => fs.statSync(join(dir, `usr/file-${i}`)));
  measure('lookup of nothing', (i) => fs.existsSync(join(dir, `srv/none-${i}`)));
  measure('open and read', (i) => fs.readFileSync(join(dir, `usr/file-${i}`)));
  measure('create', (i) => fs.closeSync(fs.openSync(join(dir, `srv/new-${i}`), 'w')));
  measure('rename', (i) => fs.renameSync(join(dir, `srv/new-${i}`), join(dir, `etc/new-${i}`)));
  measure('unlink', (i) => fs.unlinkSync(join(dir, `etc/new-${i}`)));
  measure('unlink of a shared file', (i) => fs.unlinkSync(join(dir, `usr/file-${i}`)));
}

const root = join(work, 'root');
fs.mkdirSync(root);
const plane = await startDataPlane(root, { args: [] });
const mounted: string[] = [];
try {
  const software = await base();
  const all = Array.from({ length: depth }, (_, i) => frozen(i)).reverse();
  const sides: Side[] = [];
  for (const [name, levels] of [
    ['one', all.slice(0, 1)],
    ['deep', all],
  ] as const) {
    const at = join(work, name);
    const spec: VlfsSpec = {
      name,
      privateDir: join(at, 'private'),
      whiteoutsDir: join(at, 'whiteouts'),
      stack: { key: name, levels: [...levels, software] },
      readOnly: false,
    };
    for (const part of [spec.privateDir, spec.whiteoutsDir, join(at, 'view')])
      fs.mkdirSync(part, { recursive: true });
    const dir = join(at, 'view');
    const before = (await plane.status()).memoryBytes;
    const began = performance.now();
    await plane.mount({ id: name, mountpoint: dir, vlfs: spec, readOnly: false });
    const mountMs = performance.now() - began;
    mounted.push(dir);
    const firstMs = timed(() => {
      for (const one of ['', 'srv', 'etc', 'usr']) fs.readdirSync(join(dir, one));
    });
    sides.push({ dir, figures: {}, mountMs, firstMs, memory: (await plane.status()).memoryBytes - before });
  }
  const { pid } = await plane.status();
  for (let n = 0; n < rounds * 2; n++) {
    note(`round ${n + 1} of ${rounds * 2}`);
    for (const side of n % 2 === 0 ? sides : [...sides].reverse()) round(side, n, pid);
  }
  const [one, deep] = sides as [Side, Side];
  const us = (value: number): string => `${value.toFixed(1)} µs`;
  const lines = [
    `${machineLine()} Behind one clone, and behind ${depth} that were never merged (\`--mode lazy\`): processor time of strata-fs for each operation.`,
    '',
    '| | 1 | depth | ratio of interleaved rounds |',
    '| --- | --- | --- | --- |',
    ...Object.keys(one.figures).map((name) => {
      const [a, b] = [one.figures[name]!, deep.figures[name]!];
      const ratios = a.map((value, i) => b[i]! / value);
      return `| ${name} | ${us(median(a))} | ${us(median(b))} | ${spread(ratios, (r) => r.toFixed(2))} |`;
    }),
    `| mount | ${one.mountMs.toFixed(1)} ms | ${deep.mountMs.toFixed(1)} ms | |`,
    `| first listing of four directories | ${one.firstMs.toFixed(1)} ms | ${deep.firstMs.toFixed(1)} ms | |`,
    `| memory of strata-fs | ${(one.memory / 2 ** 20).toFixed(1)} MiB | ${(deep.memory / 2 ** 20).toFixed(1)} MiB | |`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Depth of clones',
      'npm run bench -- depth',
      lines,
    );
} finally {
  for (const dir of mounted) umount(dir, MNT_DETACH);
  plane.close();
  killDataPlane(root, { keepMounts: false });
  fs.rmSync(work, { recursive: true, force: true });
}
