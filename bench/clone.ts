/**
 * Clones, as section 4 of the Prism paper measures them: a tree of 170,000 files in 17,000 directories cloned by Strata in all modes, with four programs writing
 * in the source, beside copies, hard links, shared blocks and snapshots; a build of Apache httpd and nine steps of file operations on ext4, in an ordinary appliance, in a
 * lazy clone and in a completed one. Usage: npm run bench -- clone [--parts clones,peers,steps,build] [--files N] [--directories N] [--million] [--rounds N] [--no-write]
 * Each part writes a section of docs/performance.md as soon as it has run. Ends with status 1 when a target is missed.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createClient } from '../src/client/index.ts';
import { type Disk, type DiskKind, makeDisk, makeTree, PEERS, treeOn } from './support/clone-peers.ts';
import { connectathon, STEPS } from './support/connectathon.ts';
import { buildHttpd, fetchHttpd, PHASES } from './support/httpd-build.ts';
import {
  isMet,
  machineLine,
  median,
  spread,
  type Target,
  targetLines,
  writeSection,
} from './support/report.ts';

const { values: options } = parseArgs({
  options: {
    files: { type: 'string', default: '170000' },
    directories: { type: 'string', default: '17000' },
    million: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '3' },
    parts: { type: 'string', default: 'clones,peers,steps,build' },
    'no-write': { type: 'boolean', default: false },
  },
});
const FILES = Number(options.files);
const DIRECTORIES = Number(options.directories);
const ROUNDS = Number(options.rounds);
const wants = (part: string): boolean => options.parts.split(',').includes(part);
const SIZES = [1000, FILES, ...(options.million ? [1_000_000] : [])];
/** Clones of one row, and idle ones whose space is measured. */
const CLONES = 20;
const IDLE = 100;
const WRITERS = ['log', 'rename', 'map', 'files'];
const words = process.argv.slice(2).map((word) => ` ${word}`);
const command = `npm run bench -- clone${words.join('')}`;
const project = resolve(import.meta.dirname, '..');
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-clone-'));
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);
const ms = (value: number): string => `${value.toFixed(1)} ms`;
const seconds = (value: number): string => `${(value / 1000).toFixed(2)} s`;
const kib = (bytes: number): string => `${(bytes / 1024).toFixed(0)} KiB`;

const disks = new Map<DiskKind, Disk>();
const ext4 = makeDisk(work, 'ext4');
disks.set('ext4', ext4);
const root = join(ext4.dir, 'root');
const bin = join(project, 'bin/strata');
const client = createClient({ root });
const view = (name: string): string => join(work, 'views', name);

function strata(...args: string[]): void {
  execFileSync(bin, ['--root', root, '--json', ...args], { maxBuffer: 1 << 28, stdio: 'pipe' });
}

async function mount(name: string): Promise<void> {
  mkdirSync(view(name), { recursive: true });
  await client.call('mount', { name, dir: view(name) });
}

function setUp(): void {
  mkdirSync(join(work, 'layer/etc'), { recursive: true });
  writeFileSync(join(work, 'layer/etc/motd'), 'layer\n');
  strata('repo', 'add', 'local', join(ext4.dir, 'units'));
  strata('layer', 'build', join(work, 'layer'), '--repo', 'local', '--name', 'base', '--version', '1');
  strata('template', 'create', 't', 'local/base');
}

/** An appliance with so many files of its own, mounted. */
async function applianceOf(name: string, files: number): Promise<void> {
  await client.call('create', { name, template: 't' });
  const directories = Math.max(1, Math.round((files * DIRECTORIES) / FILES));
  makeTree(join(root, 'appliances', name, 'private/data'), files, directories);
  await mount(name);
}

function startWriters(name: string): ChildProcess[] {
  return WRITERS.map((kind) =>
    spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        join(project, 'test/helpers/clone-writer.ts'),
        kind,
        join(view(name), 'work', kind),
      ],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    ),
  );
}

interface CloneRow {
  files: number;
  quiet: number[];
  written: number[];
}

/** Times of clones of a mounted appliance: while nobody writes but one file between two of them, and while four programs do. */
async function cloneTimes(files: number): Promise<CloneRow> {
  const source = `s${files}`;
  note(`an appliance of ${files} files`);
  await applianceOf(source, files);
  // The disk is not writing what the benchmark itself has just made.
  execFileSync('sync', ['-f', root]);
  const row: CloneRow = { files, quiet: [], written: [] };
  let made = 0;
  const one = async (): Promise<number> => {
    const { elapsed_ms } = await client.call('clone', { source, name: `${source}-${made++}`, mode: 'lazy' });
    await sleep(100);
    return elapsed_ms;
  };
  for (let i = 0; i < CLONES; i++) {
    writeFileSync(join(view(source), 'touched'), `${i}`);
    row.quiet.push(await one());
  }
  const writers = startWriters(source);
  await Promise.all(writers.map((child) => once(child.stdout!, 'data')));
  for (let i = 0; i < CLONES; i++) row.written.push(await one());
  const ends = writers.map((child) => once(child, 'exit'));
  for (const child of writers) child.stdin!.end();
  for (const [status] of await Promise.all(ends))
    if (status !== 0) throw new Error('a writer found a difference');
  return row;
}

/** Bytes of the disk that one more clone takes. */
async function idleBytes(source: string): Promise<number> {
  const before = ext4.usedBytes();
  for (let i = 0; i < IDLE; i++) await client.call('clone', { source, name: `idle-${i}`, mode: 'lazy' });
  return (ext4.usedBytes() - before) / IDLE;
}

/** Milliseconds until the clone is there, and until nothing of it is left to do. */
async function modeTimes(source: string, mode: 'async' | 'sync'): Promise<number> {
  writeFileSync(join(view(source), 'touched'), mode);
  const began = performance.now();
  await client.call('clone', { source, name: `by-${mode}`, mode });
  return performance.now() - began;
}

interface PeerRow {
  name: string;
  disk: DiskKind;
  ms: number;
  bytes: number;
}

function peerRows(): PeerRow[] {
  const rows: PeerRow[] = [];
  const trees = new Map<DiskKind, string>();
  for (const { name, disk: kind, make } of PEERS) {
    const disk = disks.get(kind) ?? makeDisk(work, kind);
    disks.set(kind, disk);
    const tree = trees.get(kind) ?? treeOn(disk);
    if (!trees.has(kind)) {
      note(`the tree on ${kind}`);
      makeTree(tree, FILES, DIRECTORIES);
      trees.set(kind, tree);
    }
    const before = disk.usedBytes();
    const copy = join(disk.dir, 'copy');
    const began = performance.now();
    make(tree, copy);
    const took = performance.now() - began;
    rows.push({ name, disk: kind, ms: took, bytes: disk.usedBytes() - before });
    note(`${name} on ${kind}: ${seconds(took)}`);
    if (kind === 'btrfs' && name.includes('snapshot'))
      execFileSync('btrfs', ['subvolume', 'delete', copy], { stdio: 'pipe' });
    else rmSync(copy, { recursive: true });
  }
  return rows;
}

type Times = Record<string, number[]>;

/** Runs `one` in each place, interleaved. */
function rounds(
  places: ReadonlyMap<string, string>,
  one: (dir: string) => Record<string, number>,
): Map<string, Times> {
  const found = new Map<string, Times>();
  for (let round = 0; round < ROUNDS; round++)
    for (const [name, dir] of places) {
      const times = found.get(name) ?? {};
      found.set(name, times);
      for (const [step, took] of Object.entries(one(join(dir, 'run'))))
        times[step] = [...(times[step] ?? []), took];
      note(`round ${round + 1}: ${name}`);
    }
  return found;
}

function table(
  steps: readonly string[],
  found: ReadonlyMap<string, Times>,
  format: (value: number) => string,
): string[] {
  const names = [...found.keys()];
  const base = found.get(names[0]!)!;
  return [
    `| | ${names.join(' | ')} |`,
    `| --- |${' ---: |'.repeat(names.length)}`,
    ...steps.map((step) => {
      const cells = names.map((name) => {
        const value = median(found.get(name)![step]!);
        const more = (value / median(base[step]!) - 1) * 100;
        return name === names[0]
          ? format(value)
          : `${format(value)} (${more >= 0 ? '+' : ''}${more.toFixed(0)} %)`;
      });
      return `| ${step} | ${cells.join(' | ')} |`;
    }),
  ];
}

const whole = (times: Times): number => Object.values(times).reduce((sum, values) => sum + median(values), 0);

async function places(source: string): Promise<Map<string, string>> {
  mkdirSync(join(ext4.dir, 'plain'));
  await client.call('create', { name: 'ordinary', template: 't' });
  await client.call('clone', { source, name: 'lazy', mode: 'lazy' });
  await client.call('clone', { source, name: 'completed', mode: 'sync' });
  const found = new Map([['ext4', join(ext4.dir, 'plain')]]);
  for (const name of ['ordinary', 'lazy', 'completed']) {
    await mount(name);
    found.set(
      { ordinary: 'an appliance', lazy: 'a lazy clone', completed: 'a completed clone' }[name]!,
      view(name),
    );
  }
  return found;
}

function report(title: string, targets: readonly Target[], lines: readonly string[]): void {
  const all = [machineLine(), '', ...(targets.length > 0 ? [...targetLines(targets), ''] : []), ...lines];
  if (options['no-write']) process.stdout.write(`## ${title}\n\n${all.join('\n')}\n\n`);
  else writeSection(join(project, 'docs/performance.md'), title, command, all);
  if (!targets.every(isMet)) process.exitCode = 1;
}

async function clones(): Promise<void> {
  const rows: CloneRow[] = [];
  for (const files of SIZES) rows.push(await cloneTimes(files));
  const source = `s${FILES}`;
  const idle = await idleBytes(source);
  const async = await modeTimes(source, 'async');
  const sync = await modeTimes(source, 'sync');
  const all = rows.flatMap(({ quiet, written }) => [median(quiet), median(written)]);
  report(
    'Clones',
    [
      { what: 'a clone of any size, ms', value: Math.max(...all), atMost: 5 },
      { what: 'space of an idle clone, KiB', value: idle / 1024, atMost: 100 },
    ],
    [
      '| files of the source | clone, mounted source | while four programs write in it |',
      '| ---: | ---: | ---: |',
      ...rows.map(
        ({ files, quiet, written }) => `| ${files} | ${spread(quiet, ms)} | ${spread(written, ms)} |`,
      ),
      '',
      `An idle clone takes ${kib(idle)}. Of ${FILES} files: \`--mode async\`, the command: ${ms(async)}; \`--mode sync\`, until nothing is left to do: ${seconds(sync)}.`,
    ],
  );
}

function beside(): void {
  report(
    'Clones: other ways to a second copy',
    [],
    [
      `| ${FILES} files, ${DIRECTORIES} directories | on | time | space |`,
      '| --- | --- | ---: | ---: |',
      ...peerRows().map(
        (peer) =>
          `| ${peer.name} | ${peer.disk} | ${peer.ms < 1000 ? ms(peer.ms) : seconds(peer.ms)} | ${kib(peer.bytes)} |`,
      ),
    ],
  );
}

async function inPlaces(source: string): Promise<void> {
  const where = await places(source);
  if (wants('steps'))
    report('Clones: nine steps', [], ['Medians.', '', ...table(STEPS, rounds(where, connectathon), ms)]);
  if (!wants('build')) return;
  mkdirSync(join(work, 'httpd'));
  const archive = fetchHttpd(join(work, 'httpd'));
  if (archive === null) throw new Error("httpd's source cannot be had from the host's package archive");
  const builds = rounds(where, (dir) => buildHttpd(archive, dir));
  const more = whole(builds.get('a lazy clone')!) / whole(builds.get('an appliance')!);
  report(
    'Clones: a build',
    [{ what: 'build in a lazy clone, of the time in an appliance', value: more, atMost: 1.02 }],
    ['Apache httpd, medians.', '', ...table(PHASES, builds, seconds)],
  );
}

async function main(): Promise<void> {
  setUp();
  const source = `s${FILES}`;
  if (wants('clones')) await clones();
  if (wants('steps') || wants('build')) {
    if (!wants('clones')) await applianceOf(source, FILES);
    await inPlaces(source);
  }
  strata('daemon', 'stop', '--force');
  if (wants('peers')) beside();
}

try {
  await main();
} finally {
  try {
    strata('daemon', 'stop', '--force');
  } catch {
    // It was stopped.
  }
  for (const disk of disks.values()) disk.remove();
  rmSync(work, { recursive: true, force: true });
}
