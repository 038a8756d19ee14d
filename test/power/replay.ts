/** Replays power cuts: for each cut makes the image that the disk then holds and has a prober look at it; equal states are opened once. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
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
  /** Which cuts, ascending by `at`. */
  choose(records: LogRecord[]): Cut[];
}

/** The disk must be closed. Gives each result to `onResult`; returns how many states differed. */
export async function replay(options: ReplayOptions, onResult: (result: Replayed) => void): Promise<number> {
  const { disk, work } = options;
  const log = openSync(disk.logFile, 'r');
  const records = readLog(log, statSync(disk.logFile).size);
  const cuts = options.choose(records);
  const known = new Map<string, Promise<StateFound | string>>();
  const synced = join(work, 'synced');
  execFileSync('cp', ['--sparse=always', disk.baseFile, synced]);
  let syncedTo = 0;
  let next = 0;

  async function work1(prober: Prober): Promise<void> {
    for (;;) {
      const cut = cuts[next++];
      if (cut === undefined) return;
      // Up to here no turn of the event loop: images are made one after the other.
      let flush = cut.at;
      while (flush > 0 && records[flush - 1]!.offset !== SYNC) flush--;
      if (flush > syncedTo) applyRecords(synced, log, records.slice(syncedTo, flush));
      syncedTo = Math.max(flush, syncedTo);
      execFileSync('cp', ['--sparse=always', synced, prober.image]);
      const pick = cut.part === 'all' ? null : random(cut.part);
      applyRecords(
        prober.image,
        log,
        records.slice(flush, cut.at),
        pick === null ? undefined : () => pick() < 0.5,
      );
      const position = cut.at === 0 ? 0 : records[cut.at - 1]!.end;
      const result: Replayed = { cut, position, found: null, error: null };
      const { digest, error } = await prober.ask({ do: 'mount', image: prober.image });
      if (digest === undefined) result.error = error ?? 'no digest';
      else {
        if (!known.has(digest))
          known.set(
            digest,
            prober
              .ask({ do: 'check', gc: known.size % options.gcEvery === 0 })
              .then((answer) => answer.found ?? answer.error ?? 'no answer'),
          );
        const found = await known.get(digest)!;
        if (typeof found === 'string') result.error = found;
        else result.found = found;
        const unmounted = await prober.ask({ do: 'unmount' });
        result.error ??= unmounted.error ?? null;
      }
      onResult(result);
    }
  }

  const probers = [0, 1].map((number) => startProber(options, work, number));
  try {
    await Promise.all(probers.map(work1));
  } finally {
    closeSync(log);
    await Promise.all(probers.map((prober) => prober.end()));
    rmSync(synced, { force: true });
  }
  return known.size;
}
