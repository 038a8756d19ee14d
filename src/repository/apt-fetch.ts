/**
 * Fetches packages and makes layer units of them: batches of downloads run side by side, what has arrived is verified (size and SHA-256) and
 * converted meanwhile, two at a time. A unit appears by one rename (importDeb), so whatever fails or is killed leaves whole units and a
 * `.fetch-PID-*` directory that the next call deletes. Must not decide what is fetched.
 */
import { createHash, hash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { asStrataError, type Progress, StrataError } from '../base/index.ts';
import { type LayerUnit, makeDurable, sharedImportPool } from '../layer/index.ts';
import { type Download, downloadFiles } from './apt-commands.ts';
import type { UnitRef } from './contract.ts';

export interface FetchJob {
  ref: UnitRef;
  uri: string;
  sha256: string;
  sizeBytes: number;
}

export interface FetchOptions {
  /** Receives the units. */
  unitsDir: string;
  /** For hints. */
  repoName: string;
  progress: Progress;
  /** Called for each unit that is there for good. */
  onUnit: (ref: UnitRef, unit: LayerUnit) => void;
}

const BATCH_FILES = 16;
const BATCH_BYTES = 24 * 2 ** 20;
const PARALLEL_BATCHES = 3;
const PARALLEL_CONVERSIONS = 2;
/** Downloads wait while this much waits for conversion. */
const BACKLOG_BYTES = 256 * 2 ** 20;
const POLL_MS = 200;
const SMALL_BYTES = 8 * 2 ** 20;

function batches(jobs: readonly FetchJob[]): FetchJob[][] {
  const all: FetchJob[][] = [];
  let batch: FetchJob[] = [];
  let bytes = 0;
  for (const job of jobs) {
    if (batch.length > 0 && (batch.length >= BATCH_FILES || bytes + job.sizeBytes > BATCH_BYTES)) {
      all.push(batch);
      batch = [];
      bytes = 0;
    }
    batch.push(job);
    bytes += job.sizeBytes;
  }
  if (batch.length > 0) all.push(batch);
  return all;
}

async function fileSha256(file: string, sizeBytes: number): Promise<string> {
  if (sizeBytes <= SMALL_BYTES) return hash('sha256', await readFile(file));
  const digest = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) digest.update(chunk);
  return digest.digest('hex');
}

function sizeOf(file: string): number {
  try {
    return statSync(file).size;
  } catch {
    return 0;
  }
}

/** What is wrong with a job's file, or null. `errors` are apt's lines. */
async function problemOf(
  job: FetchJob,
  file: string,
  errors: readonly string[],
  repoName: string,
): Promise<StrataError | null> {
  const what = `${job.ref.layer} ${job.ref.version}`;
  const stale = `run apt-get update, then strata repo sync ${repoName}`;
  const line = errors.find((e) => e.includes(job.uri));
  if (!existsSync(file)) {
    const all = errors.join('; ');
    if (/No space left on device/.test(all)) {
      return new StrataError('NO_SPACE', `no space left on the device while fetching ${what}`, {
        hint: 'free some space and repeat the command; what is complete is kept',
      });
    }
    if (line !== undefined && /Hash Sum mismatch|unexpected size|Size mismatch/i.test(line))
      return new StrataError('CHECKSUM', `the checksum of ${what} from ${job.uri} is wrong`, { hint: stale });
    const why = (line ?? all).replace(/^Failed to fetch \S+\s*/, '').trim();
    return new StrataError(
      'FETCH',
      `cannot fetch ${what} from ${job.uri}: ${why === '' ? 'nothing came' : why}`,
      {
        hint: `check the network; if the package is gone, ${stale}`,
      },
    );
  }
  const size = sizeOf(file);
  if (size === job.sizeBytes && (await fileSha256(file, size)) === job.sha256) return null;
  return new StrataError(
    'CHECKSUM',
    size === job.sizeBytes
      ? `the checksum of ${what} from ${job.uri} is wrong`
      : `${what} from ${job.uri} has ${size} bytes, the package list says ${job.sizeBytes}`,
    { hint: stale },
  );
}

/** Deletes the download directories of processes that are no more. */
export function removeDeadDownloads(unitsDir: string, activeDirs: ReadonlySet<string>): void {
  let names: string[];
  try {
    names = readdirSync(unitsDir);
  } catch {
    return;
  }
  for (const name of names) {
    const pid = Number(/^\.fetch-(\d+)-[0-9a-f]+$/.exec(name)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid)) continue;
    if (pid === process.pid ? activeDirs.has(join(unitsDir, name)) : existsSync(`/proc/${pid}`)) continue;
    rmSync(join(unitsDir, name), { recursive: true, force: true });
  }
}

const activeDirs = new Set<string>();

/**
 * Fetches and converts all jobs. Returns when all units are there and survive a power loss. Throws the first failure (FETCH, CHECKSUM,
 * BAD_FORMAT, NO_SPACE ...) when what was running has ended; units that were complete by then stay and were told to onUnit.
 */
export async function fetchUnits(jobs: readonly FetchJob[], options: FetchOptions): Promise<void> {
  const { unitsDir, repoName, progress, onUnit } = options;
  mkdirSync(unitsDir, { recursive: true });
  removeDeadDownloads(unitsDir, activeDirs);
  const workDir = join(unitsDir, `.fetch-${process.pid}-${randomBytes(6).toString('hex')}`);
  activeDirs.add(workDir);
  mkdirSync(workDir, { mode: 0o700 });

  const fileOf = (job: FetchJob): string => join(workDir, `${job.sha256}.deb`);
  const totalBytes = jobs.reduce((sum, job) => sum + job.sizeBytes, 0);
  const queue: FetchJob[] = [];
  const finished: { ref: UnitRef; unit: LayerUnit }[] = [];
  const running = new Set<FetchJob>();
  let failure: StrataError | null = null;
  let fetchedBytes = 0;
  let fetched = 0;
  let converted = 0;
  let backlogBytes = 0;
  let downloading = true;
  let wake: (() => void)[] = [];
  const wait = (): Promise<void> => new Promise((resolve) => wake.push(resolve));
  const changed = (): void => {
    const waiting = wake;
    wake = [];
    for (const resolve of waiting) resolve();
  };
  const fail = (error: unknown): void => {
    failure ??= asStrataError(error);
    changed();
  };

  let told = { fetched: -1, bytes: 0 };
  const tellFetched = (): void => {
    let bytes = fetchedBytes;
    for (const job of running) bytes += Math.min(job.sizeBytes, sizeOf(fileOf(job)));
    if (fetched === told.fetched && bytes === told.bytes) return;
    told = { fetched, bytes };
    progress({ phase: 'fetch', done: fetched, total: jobs.length, doneBytes: bytes, totalBytes });
  };

  async function fetchBatch(batch: FetchJob[]): Promise<void> {
    for (const job of batch) running.add(job);
    const downloadOf = (job: FetchJob): Download => ({ uri: job.uri, file: fileOf(job), sha256: job.sha256 });
    const { errors, isStalled } = await downloadFiles(batch.map(downloadOf));
    for (const job of batch) {
      // What a server that was given up had begun to send has no right size.
      if (isStalled && sizeOf(fileOf(job)) !== job.sizeBytes) rmSync(fileOf(job), { force: true });
      let problem = await problemOf(job, fileOf(job), errors, repoName);
      if (problem !== null && problem.code !== 'NO_SPACE' && !isStalled && failure === null) {
        // Once more, alone: a connection may have broken, or another's failure stopped the batch.
        rmSync(fileOf(job), { force: true });
        const again = await downloadFiles([downloadOf(job)]);
        problem = await problemOf(job, fileOf(job), again.errors, repoName);
      }
      running.delete(job);
      if (problem !== null) {
        fail(problem);
        continue;
      }
      fetched++;
      fetchedBytes += job.sizeBytes;
      backlogBytes += job.sizeBytes;
      queue.push(job);
      changed();
    }
    tellFetched();
  }

  const todo = batches(jobs);
  async function download(): Promise<void> {
    for (;;) {
      while (failure === null && backlogBytes > BACKLOG_BYTES) await wait();
      const batch = failure === null ? todo.shift() : undefined;
      if (batch === undefined) return;
      await fetchBatch(batch);
    }
  }

  async function convert(): Promise<void> {
    for (;;) {
      while (failure === null && queue.length === 0 && downloading) await wait();
      const job = failure === null ? queue.shift() : undefined;
      if (job === undefined) return;
      try {
        const unit = await sharedImportPool().importDeb(fileOf(job), { repoDir: unitsDir, durable: false });
        if (unit.metadata.layer !== job.ref.layer || unit.metadata.version !== job.ref.version) {
          throw new StrataError(
            'CHECKSUM',
            `the package list says ${job.ref.layer} ${job.ref.version}, but the package at ${job.uri} is ${unit.metadata.layer} ${unit.metadata.version}`,
            { hint: `run apt-get update, then strata repo sync ${repoName}` },
          );
        }
        finished.push({ ref: job.ref, unit });
      } catch (error) {
        fail(error);
      }
      rmSync(fileOf(job), { force: true });
      backlogBytes -= job.sizeBytes;
      converted++;
      progress({
        phase: 'import',
        message: `${job.ref.layer} ${job.ref.version}`,
        done: converted,
        total: jobs.length,
      });
      changed();
    }
  }

  const timer = setInterval(tellFetched, POLL_MS);
  timer.unref();
  try {
    const downloads = Promise.all(
      Array.from({ length: PARALLEL_BATCHES }, () => download().catch(fail)),
    ).finally(() => {
      downloading = false;
      changed();
    });
    const conversions = Array.from({ length: PARALLEL_CONVERSIONS }, () => convert().catch(fail));
    await Promise.all([downloads, ...conversions]);
    makeDurable(finished.map((f) => f.unit.dir));
    for (const { ref, unit } of finished) onUnit(ref, unit);
  } finally {
    clearInterval(timer);
    activeDirs.delete(workDir);
    rmSync(workDir, { recursive: true, force: true });
  }
  if (failure !== null) throw failure;
}
