/**
 * How many requests of which kind daily commands cost through the FUSE door: a new mount of 641 layers with a checkout, a Python library and apt's state in
 * it. Each command runs three times; what the kernel keeps from the first run is not asked for again. Counts, so it needs no idle machine.
 * Usage: npm run bench -- requests [--no-write]
 * Writes the section "Requests" of docs/performance.md.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startDataPlane } from '../src/fuse/index.ts';
import { writeTreeIndex } from '../src/layer/index.ts';
import type { LevelSpec } from '../src/vlfs/contract.ts';
import { type Counts, machineLine, shownCounts, sumOfCounts, writeSection } from './support/report.ts';
import { cleanUp } from './support/vlfs-peers.ts';
import { LAYERS, makeTrees } from './support/vlfs-tree.ts';

const { values: options } = parseArgs({ options: { 'no-write': { type: 'boolean', default: false } } });
const RUNS = 3;
const PACKAGES = 200;
/** Requests that come after a command's end (RELEASE, FORGET) are its own. */
const SETTLED_MS = 50;
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-requests-'));
const archive = join(work, 'archive');

async function unit(name: string, fill: (tree: string) => void): Promise<LevelSpec> {
  const dir = join(work, name);
  const treeDir = join(dir, 'filesystem');
  mkdirSync(treeDir, { recursive: true });
  fill(treeDir);
  const indexFile = join(dir, 'index');
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: `bench/${name} 1`, treeDir, indexFile, whiteoutsDir: null };
}

const GIT = ['-c', 'user.name=bench', '-c', 'user.email=bench@example.org', '-c', 'safe.directory=*'];

/** A checkout of 2,000 files. */
function checkout(tree: string): void {
  const dir = join(tree, 'srv/checkout');
  for (let i = 0; i < 2000; i++) {
    const at = join(dir, `module-${i % 40}/part-${i % 5}`);
    mkdirSync(at, { recursive: true });
    writeFileSync(join(at, `file-${i}.c`), `int value_${i} = ${i};\n`.repeat(20));
  }
  execFileSync('git', ['-C', dir, 'init', '-q']);
  execFileSync('git', ['-C', dir, ...GIT, 'add', '.']);
  execFileSync('git', ['-C', dir, ...GIT, 'commit', '-qm', 'all']);
}

/** The host's Python library, with its compiled form. */
function library(tree: string): void {
  const name = readdirSync('/usr/lib').find((one) => /^python3\.\d+$/.test(one));
  if (name === undefined) throw new Error('no Python library in /usr/lib');
  cpSync(join('/usr/lib', name), join(tree, 'usr/lib/python3'), { recursive: true, dereference: true });
}

/** An archive beside the mount, and apt's state in it. */
function aptState(tree: string): void {
  for (const dir of [
    'var/lib/apt/lists/partial',
    'var/cache/apt/archives/partial',
    'var/lib/dpkg',
    'etc/apt',
  ])
    mkdirSync(join(tree, dir), { recursive: true });
  writeFileSync(join(tree, 'var/lib/dpkg/status'), '');
  writeFileSync(join(tree, 'etc/apt/sources.list'), `deb [trusted=yes] copy:${archive} tiny main\n`);
  const lists = join(archive, 'dists/tiny/main/binary-amd64');
  mkdirSync(lists, { recursive: true });
  const stanza = (i: number) =>
    `Package: package-${i}\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nFilename: pool/package-${i}.deb\nSize: 1\nSHA256: ${'0'.repeat(64)}\nDescription: sample\n`;
  writeFileSync(join(lists, 'Packages'), Array.from({ length: PACKAGES }, (_, i) => stanza(i)).join('\n'));
  const options = { cwd: archive, stdio: ['ignore', 'pipe', 'inherit'] as const };
  const release = execFileSync('apt-ftparchive', ['release', 'dists/tiny'], options as object);
  writeFileSync(join(archive, 'dists/tiny/Release'), release);
}

const MODULES =
  'asyncio, argparse, decimal, email.message, http.client, json, logging.handlers, unittest, urllib.request, xml.dom.minidom';

function commands(mnt: string): [string, string[]][] {
  const python = `import sys; sys.path[:] = ['${mnt}/usr/lib/python3', '${mnt}/usr/lib/python3/lib-dynload']; import ${MODULES}`;
  const apt = [
    `Dir::State=${mnt}/var/lib/apt`,
    `Dir::State::status=${mnt}/var/lib/dpkg/status`,
    `Dir::Cache=${mnt}/var/cache/apt`,
    `Dir::Etc::sourcelist=${mnt}/etc/apt/sources.list`,
    'Dir::Etc::sourceparts=/dev/null',
    'APT::Sandbox::User=root',
    'APT::Architecture=amd64',
    'APT::Architectures=amd64',
  ].flatMap((option) => ['-o', option]);
  return [
    ['ls -lR of everything', ['ls', '-lR', mnt]],
    ['git status, 2,000 files', ['git', '-C', join(mnt, 'srv/checkout'), ...GIT, 'status', '--porcelain']],
    ['python, ten imports', ['/usr/bin/python3', '-E', '-S', '-B', '-c', python]],
    ['grep -r, 2,000 files', ['grep', '-rc', 'value_19', join(mnt, 'srv/checkout')]],
    ['apt-get update', ['apt-get', '-q', ...apt, 'update']],
  ];
}

function difference(after: Counts, before: Counts): Counts {
  const kinds = Object.entries(after).map(([kind, count]) => [kind, count - (before[kind] ?? 0)] as const);
  return Object.fromEntries(kinds.filter(([, count]) => count > 0));
}

let stop: (() => Promise<void>) | null = null;
try {
  const { many } = await makeTrees(work);
  const levels = [
    await unit('checkout_1', checkout),
    await unit('library_1', library),
    await unit('apt_1', aptState),
    ...many.levels,
  ];
  for (const name of ['root', 'private', 'whiteouts', 'mnt']) mkdirSync(join(work, name));
  const plane = await startDataPlane(join(work, 'root'));
  stop = async () => {
    await plane.shutdown({ force: true });
    plane.close();
  };
  const mnt = join(work, 'mnt');
  await plane.mount({
    id: 'bench',
    mountpoint: mnt,
    vlfs: {
      name: 'bench',
      privateDir: join(work, 'private'),
      whiteoutsDir: join(work, 'whiteouts'),
      stack: { key: 'requests', levels },
      readOnly: false,
    },
    readOnly: false,
  });
  const now = async (): Promise<Counts> => {
    for (let last: Counts | null = null; ; await delay(SETTLED_MS)) {
      const kinds = (await plane.status()).mounts[0]!.kinds;
      if (last !== null && sumOfCounts(last) === sumOfCounts(kinds)) return kinds;
      last = kinds;
    }
  };
  const lines = ['| command | first run | second run | third run |', '| --- | --- | --- | --- |'];
  for (const [name, [program, ...args]] of commands(mnt)) {
    const runs: string[] = [];
    for (let run = 0; run < RUNS; run++) {
      const before = await now();
      execFileSync(program!, args, { stdio: ['ignore', 'ignore', 'inherit'], maxBuffer: 1 << 28 });
      runs.push(shownCounts(difference(await now(), before)));
    }
    lines.push(`| ${name} | ${runs.join(' | ')} |`);
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (!options['no-write'])
    writeSection(
      resolve(import.meta.dirname, '../docs/performance.md'),
      'Requests',
      'npm run bench -- requests',
      [
        `${machineLine()} Requests of a command to strata-fs by kind, through a new mount of ${LAYERS + 3} layers; what follows a command (RELEASE, FORGET) is counted with it.`,
        '',
        ...lines,
      ],
    );
} finally {
  await stop?.().catch(() => {});
  cleanUp(work);
}
