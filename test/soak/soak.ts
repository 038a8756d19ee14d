/**
 * A long run on a state root of its own: loads of several kinds on mounted appliances, and mount and unmount of another one again and again, while
 * memory, descriptors, threads and mounts of stratad and strata-fs are sampled. At the end everything is unmounted and must be given back.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient } from '../../src/client/index.ts';
import { strataRoot } from '../helpers/strata.ts';
import { mountsBelow, type Sample, type Trend, takeSample, trends } from './samples.ts';

export interface SoakOptions {
  /** How long the loads run. */
  seconds: number;
  /** Mounts and unmounts at least; the run goes on until they are done. */
  cycles: number;
  /** Told about the state now and then. */
  onProgress?: (line: string) => void;
  /** Ends the run early: everything is taken away, nothing is judged. */
  signal?: AbortSignal;
}

export interface SoakResult {
  seconds: number;
  cycles: number;
  trends: Trend[];
  /** What was not given back after the last unmount, and loads that failed. */
  faults: string[];
}

const SAMPLES = 200;
const DBENCH_LOAD = '/usr/share/dbench/client.txt';
const STRESSORS = [
  'dir',
  'dentry',
  'fallocate',
  'filename',
  'hdd',
  'link',
  'rename',
  'symlink',
  'utime',
  'xattr',
];

function loads(dir: string, seconds: number): { name: string; child: ChildProcess; endsItself: boolean }[] {
  const start = (name: string, argv: string[], endsItself: boolean) => {
    mkdirSync(join(dir, name));
    const child = spawn(argv[0]!, argv.slice(1), {
      cwd: join(dir, name),
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    });
    return { name, child, endsItself };
  };
  const random = join(import.meta.dirname, 'random-load.ts');
  const started = [
    start('random-1', [process.execPath, random, join(dir, 'random-1/x'), '1'], false),
    start('random-2', [process.execPath, random, join(dir, 'random-2/x'), '77'], false),
  ];
  if (existsSync('/usr/bin/stress-ng')) {
    const kinds = STRESSORS.flatMap((kind) => [`--${kind}`, '1']);
    const limits = ['--hdd-bytes', '16m', '--fallocate-bytes', '16m', '--timeout', `${Math.ceil(seconds)}s`];
    started.push(start('stress-ng', ['stress-ng', '--temp-path', '.', ...kinds, ...limits], true));
  }
  if (existsSync(DBENCH_LOAD)) {
    const argv = ['dbench', '-c', DBENCH_LOAD, '-t', String(Math.ceil(seconds)), '-D', '.', '2'];
    started.push(start('dbench', argv, true));
  }
  return started;
}

export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  const s = strataRoot('soak');
  const children: ReturnType<typeof loads> = [];
  try {
    const tree = join(s.root, 'tree');
    for (let i = 0; i < 400; i++) {
      mkdirSync(join(tree, `usr/share/d${i % 20}`), { recursive: true });
      writeFileSync(join(tree, `usr/share/d${i % 20}/f${i}`), `${i}`.repeat(i * 20));
    }
    await s.json('repo', 'add', 'local', join(s.root, 'units'));
    await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
    await s.json('template', 'create', 't', 'base');
    await s.json('create', 'm', '--template', 't', '--count', '3');
    const client = createClient({ root: s.root });
    const mount = (name: string, dir: string) => client.call('mount', { name, dir });
    const at = (n: number): string => join(s.root, `view-${n}`);
    await mount('m-1', at(1));
    const { daemon, data_plane } = await client.call('status', {});
    const processes = { stratad: daemon.pid, 'strata-fs': data_plane.pid! };
    const idle = takeSample(processes, s.root, 0);
    const openAtFirst = openFiles(processes);
    await mount('m-2', at(2));
    const faults: string[] = [];
    const began = performance.now();
    const elapsed = (): number => (performance.now() - began) / 1000;
    children.push(...loads(at(1), options.seconds), ...loads(at(2), options.seconds));
    for (const { name, child, endsItself } of children) {
      let said = '';
      child.stderr!.on('data', (piece) => {
        said = (said + piece).slice(-2000);
      });
      child.once('exit', (code, signal) => {
        if (endsItself ? code !== 0 && signal !== 'SIGKILL' : signal !== 'SIGKILL')
          faults.push(`${name} ended (${signal ?? code}) ${said}`);
      });
    }
    const samples: Sample[] = [];
    const every = (options.seconds * 1000) / SAMPLES;
    const perCycle = (options.seconds * 1000) / options.cycles;
    let cycles = 0;
    let told = 0;
    while (elapsed() < options.seconds || cycles < options.cycles) {
      options.signal?.throwIfAborted();
      if (samples.length * every <= elapsed() * 1000) samples.push(takeSample(processes, s.root, elapsed()));
      if (cycles * perCycle <= elapsed() * 1000) {
        // A busy machine may take longer than a mount waits to end the mount before.
        await mount('m-3', at(3)).catch(async (error: { code?: string }) => {
          if (error.code !== 'BUSY') throw error;
          await delay(5000);
          await mount('m-3', at(3));
        });
        writeFileSync(join(at(3), 'usr/share/d1/f1'), `${cycles}`);
        await client.call('umount', { target: 'm-3' });
        cycles++;
      } else await delay(Math.min(every, perCycle, 50));
      if (elapsed() - told >= 30) {
        told = elapsed();
        const figures = Object.entries(samples.at(-1)!).map(
          ([what, value]) => `${what} ${Math.round(value)}`,
        );
        options.onProgress?.(`${figures.join(', ')}, cycles ${cycles}`);
      }
    }
    const seconds = elapsed();
    await endLoads(children);
    for (const n of [1, 2]) await client.call('umount', { target: `m-${n}`, force: true });
    // The last close of a killed program ends the mount; on a busy machine that takes its time.
    const kept = (): string[] => {
      const end = takeSample(processes, s.root, seconds);
      const watched = Object.keys(processes).flatMap((name) =>
        ['descriptors', 'threads', 'shared MiB'].map((what) => `${name} ${what}`),
      );
      // A thread that is started when there is first something for it to do brings six descriptors; what each mount leaves behind would be hundreds.
      const more = watched.filter(
        (what) => end[what]! > idle[what]! + (what.endsWith('descriptors') ? 24 : 4),
      );
      const lines = more.map((what) => `${what}: ${idle[what]} before, ${end[what]} at the end`);
      if (more.some((what) => what.endsWith('descriptors')))
        lines.push(...newFiles(openAtFirst, openFiles(processes)));
      return mountsBelow(s.root) === 0 ? lines : [`${mountsBelow(s.root)} mounts are left`, ...lines];
    };
    for (let i = 0; i < 150 && kept().length > 0; i++) await delay(100);
    faults.push(...kept());
    return { seconds, cycles, trends: trends(samples), faults };
  } finally {
    await endLoads(children);
    await s.remove();
  }
}

/** What each descriptor of the processes is of. */
function openFiles(processes: Record<string, number>): string[] {
  return Object.entries(processes).flatMap(([name, pid]) =>
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return [`${name}: ${readlinkSync(`/proc/${pid}/fd/${fd}`)}`];
      } catch {
        return [];
      }
    }),
  );
}

function newFiles(before: readonly string[], after: readonly string[]): string[] {
  const left = [...before];
  return after.filter((file) => {
    const at = left.indexOf(file);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

async function endLoads(children: ReturnType<typeof loads>): Promise<void> {
  for (const { child, endsItself } of children.splice(0)) {
    const live = () => child.exitCode === null && child.signalCode === null;
    for (let i = 0; endsItself && live() && i < 30; i++) await delay(100);
    const gone = live() ? new Promise((resolve) => child.once('exit', resolve)) : null;
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // All of it ended by itself.
    }
    await gone;
  }
}
