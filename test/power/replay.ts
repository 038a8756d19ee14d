/** Replays power cuts: for each cut makes the image that the disk then holds and has a prober look at it; equal states are opened once. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { StateFound } from './check-state.ts';
import type { LoggedDisk } from './logged-disk.ts';
import { applyRecords, type Cut, type LogRecord, random, readLog, SYNC } from './write-log.ts';

export interface Replayed {
  cut: Cut;
  /** Position in the log of what had been sent. */
  position: number;
  /** Null when nothing was there to be opened yet. */
  found: StateFound | null;
  error: string | null;
}

interface Prober {
  ask(request: object): Promise<{ digest?: string; found?: StateFound; error?: string }>;
  image: string;
  end(): Promise<void>;
}

function startProber(options: ReplayOptions, work: string, number: number): Prober {
  const script = join(import.meta.dirname, 'prober.ts');
  const bootIdFile = join(work, 'boot-id');
  writeFileSync(bootIdFile, '00000000-0000-4000-8000-000000000000\n');
  const child: ChildProcess = spawn(
    'unshare',
    ['-m', process.execPath, script, options.disk.dir, options.root, bootIdFile, ...options.apart],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
      // Opening a state root many times: the modules are compiled once.
      env: { ...process.env, NODE_COMPILE_CACHE: join(work, 'compile-cache') },
    },
  );
  const waiting: ((line: string) => void)[] = [];
  createInterface({ input: child.stdout! }).on('line', (line) => waiting.shift()?.(line));
  child.once('exit', () => {
    for (const done of waiting.splice(0)) done(JSON.stringify({ error: 'the prober ended' }));
  });
  return {
    image: join(work, `probe-${number}`),
    ask: (request) =>
      new Promise((done) => {
        waiting.push((line) => done(JSON.parse(line)));
        child.stdin!.write(`${JSON.stringify(request)}\n`);
      }),
    async end() {
      const exit = new Promise((done) => child.once('exit', done));
      child.stdin!.end();
      await exit;
    },
  };
}

export interface ReplayOptions {
  disk: LoggedDisk;
  work: string;
  /** The state root, below disk.dir. */
  root: string;
  /** Appliances whose content is told apart. */
  apart: string[];
  /** Every how many different states gc runs, too. */
  gcEvery: number;
  /** Which cuts: passes over the log, in each of them ascending by `at`. */
  choose(records: LogRecord[]): Cut[][];
  /** No other pass begins after this time. */
  budgetMs: number;
}

/** The disk must be closed. Gives each result to `onResult`; returns how many states differed. */
export async function replay(options: ReplayOptions, onResult: (result: Replayed) => void): Promise<number> {
  const { disk, work } = options;
  const log = openSync(disk.logFile, 'r');
  const records = readLog(log, statSync(disk.logFile).size);
  const known = new Map<string, Promise<StateFound | string>>();
  const probers = [0, 1].map((number) => startProber(options, work, number));
  const began = performance.now();
  try {
    for (const [number, cuts] of options.choose(records).entries()) {
      if (number > 0 && performance.now() - began > options.budgetMs) break;
      const makeImage = imageMaker({ disk, log, records, file: join(work, 'synced') });
      const left = cuts.values();
      const tryAll = async (prober: Prober): Promise<void> => {
        for (const cut of left) {
          makeImage(cut, prober.image);
          onResult(await look(prober, cut));
        }
      };
      await Promise.all(probers.map(tryAll));
    }
  } finally {
    closeSync(log);
    await Promise.all(probers.map((prober) => prober.end()));
  }
  return known.size;

  async function look(prober: Prober, cut: Cut): Promise<Replayed> {
    const position = cut.at === 0 ? 0 : records[cut.at - 1]!.end;
    const { digest, error } = await prober.ask({ do: 'mount', image: prober.image });
    if (digest === undefined) return { cut, position, found: null, error: error ?? 'no digest' };
    const check = () =>
      prober
        .ask({ do: 'check', gc: known.size % options.gcEvery === 0 })
        .then((answer) => answer.found ?? answer.error ?? 'no answer');
    if (!known.has(digest)) known.set(digest, check());
    const found = await known.get(digest)!;
    const unmounted = await prober.ask({ do: 'unmount' });
    if (typeof found === 'string') return { cut, position, found: null, error: found };
    return { cut, position, found, error: unmounted.error ?? null };
  }
}

/** Makes images of cuts whose `at` ascends, beginning with the base image. */
function imageMaker(options: {
  disk: LoggedDisk;
  log: number;
  records: LogRecord[];
  /** For the image as of the last flush. */
  file: string;
}): (cut: Cut, imageFile: string) => void {
  const { disk, log, records, file } = options;
  execFileSync('cp', ['--sparse=always', disk.baseFile, file]);
  let syncedTo = 0;
  return ({ at, part }, imageFile) => {
    let flush = at;
    while (flush > 0 && records[flush - 1]!.offset !== SYNC) flush--;
    if (flush > syncedTo) applyRecords(file, log, records.slice(syncedTo, flush));
    syncedTo = Math.max(flush, syncedTo);
    execFileSync('cp', ['--sparse=always', file, imageFile]);
    const pick = part === 'all' ? () => 0 : random(part);
    applyRecords(imageFile, log, records.slice(flush, at), () => pick() < 0.5);
  };
}
