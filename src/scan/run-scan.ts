/**
 * One run over layers and private layers: every layer once, whoever has it; every content to the scanner at most once, and only without a
 * kept verdict. It reads backing files, never a mount, so it neither waits for strata-fs nor fills its caches.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { asStrataError, type Digest, nameFromText, type Progress } from '../base/index.ts';
import { openTreeIndex } from '../layer/index.ts';
import * as sys from '../sys/index.ts';
import type { LevelSpec } from '../vlfs/contract.ts';
import { readQuarantine } from '../vlfs/index.ts';
import type { Outcome, ScanJob, ScanOutput, ScanResult } from './contract.ts';
import { createFindings, type Findings, type Holder } from './findings.ts';
import { changedMs, createJudge, type Judge, OLD_MS, sameContent } from './judge.ts';
import { markFile } from './marks.ts';
import { quarantineRecord } from './quarantine.ts';
import { openScanner } from './scanners/index.ts';
import { openVerdictStore, type VerdictStore } from './store.ts';
import { indexedFiles, type WalkedFile, walkedFiles } from './walk.ts';

/** Contents with the scanner at a time. */
const AT_ONCE = 8;
/** Files between two turns of the event loop. */
const BREATH = 512;
const PROGRESS_MS = 250;

interface Run {
  job: ScanJob;
  store: VerdictStore;
  judge: Judge;
  findings: Findings;
  /** Digest -> what it was called when it was put there. */
  quarantine: Map<Digest, string>;
  files: number;
  scanned: number;
  cached: number;
  bytesRead: number;
  /** Judgements under way, and how to wait for one of them to end. */
  underWay: number;
  ended: (() => void) | null;
}

export function verdictFile(dir: string): string {
  return join(dir, 'verdicts.sqlite');
}

/** Throws when the scanner is not there or the store cannot be written; what single files hold never throws. */
export async function runScan(job: ScanJob, progress: Progress): Promise<ScanOutput> {
  const started = performance.now();
  const scanner = await openScanner(job.scanner);
  const store = openVerdictStore(verdictFile(job.dir), scanner);
  try {
    if (job.fresh) store.forgetVerdicts();
    const judge = createJudge({ scanner, store, maxBytes: job.scanner.maxBytes });
    const root = join(job.dir, '..');
    const quarantine = new Map(
      readQuarantine(root).map((digest) => [digest, quarantineRecord(root, digest)?.name ?? 'unknown']),
    );
    const run: Run = {
      job,
      store,
      judge,
      findings: createFindings(),
      quarantine,
      files: 0,
      scanned: 0,
      cached: 0,
      bytesRead: 0,
      underWay: 0,
      ended: null,
    };
    const layers = await eachFile(run, progress);
    if (job.whole && run.findings.counts.failed === 0) store.forgetOld();
    else store.flush();
    const { findings } = run;
    const result: ScanResult = {
      scanner: { kind: scanner.kind, version: scanner.version },
      appliances: job.appliances.length,
      layers,
      files: run.files,
      scanned: run.scanned,
      cached: run.cached,
      bytes_read: run.bytesRead,
      infected: findings.report(job),
      infected_count: findings.counts.infected,
      failed: findings.failed,
      failed_count: findings.counts.failed,
      skipped: findings.skipped,
      skipped_count: findings.counts.skipped,
      elapsed_ms: Math.round(performance.now() - started),
    };
    return { result, fresh: findings.fresh() };
  } finally {
    store.close();
  }
}

/** Every layer of the job once. */
function levelsOf(job: ScanJob): Map<string, { level: LevelSpec; stacks: number[] }> {
  const levels = new Map<string, { level: LevelSpec; stacks: number[] }>();
  for (const [i, { levels: ofStack }] of job.stacks.entries()) {
    for (const level of ofStack) {
      const known = levels.get(level.treeDir);
      if (known === undefined) levels.set(level.treeDir, { level, stacks: [i] });
      else known.stacks.push(i);
    }
  }
  return levels;
}

async function eachFile(run: Run, progress: Progress): Promise<number> {
  const levels = levelsOf(run.job);
  const total = levels.size + run.job.appliances.length;
  let layers = 0;
  let told = 0;
  const tell = (message: string): void => {
    if (performance.now() - told < PROGRESS_MS) return;
    told = performance.now();
    progress({ phase: 'scan', message, done: layers, total, doneBytes: run.bytesRead });
  };
  for (const { level, stacks } of levels.values()) {
    const { id } = level;
    const holder: Holder = { layer: id, label: id, level: id, stacks, appliance: -1 };
    await eachOfLevel(run, level, holder, () => tell(id));
    layers++;
  }
  for (const [appliance, { name, privateDir }] of run.job.appliances.entries()) {
    const label = `private layer of ${name}`;
    const holder: Holder = { layer: 'private', label, level: null, stacks: [], appliance };
    await eachOf(run, holder, walked(run, holder, privateDir), () => tell(label));
    layers++;
  }
  while (run.underWay > 0) await oneEnds(run);
  return levels.size;
}

function walked(run: Run, holder: Holder, dir: string): Generator<WalkedFile> {
  return walkedFiles(dir, (path) =>
    run.findings.problem('failed', holder, path, 'the directory lies too deep'),
  );
}

async function eachOfLevel(run: Run, level: LevelSpec, holder: Holder, tell: () => void): Promise<void> {
  const { indexFile, treeDir } = level;
  if (indexFile === '' || !existsSync(indexFile)) {
    await eachOf(run, holder, walked(run, holder, treeDir), tell);
    return;
  }
  const flags = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;
  const rootFd = sys.openat(sys.AT_FDCWD, nameFromText(treeDir), flags);
  // Removed meanwhile: then nobody shows it.
  if (rootFd < 0) return;
  try {
    await eachOf(run, holder, indexedFiles(openTreeIndex(indexFile), rootFd), tell);
    while (run.underWay > 0) await oneEnds(run);
  } catch (error) {
    run.findings.problem('failed', holder, '', asStrataError(error).message);
  } finally {
    while (run.underWay > 0) await oneEnds(run);
    sys.close(rootFd);
  }
}

async function eachOf(
  run: Run,
  holder: Holder,
  files: Iterable<WalkedFile>,
  tell: () => void,
): Promise<void> {
  let looked = 0;
  for (const file of files) {
    run.files++;
    if (++looked % BREATH === 0) {
      tell();
      await breathe();
    }
    const digest = file.digest ?? (file.stat === null ? null : run.store.digestOf(file.stat));
    const kept = digest === null ? null : run.store.verdict(digest);
    if (digest !== null && kept !== null) {
      run.cached++;
      settle(run, holder, file, digest, kept, null);
      continue;
    }
    while (run.underWay >= AT_ONCE) await oneEnds(run);
    begin(run, holder, file);
    tell();
  }
}

/** Opens the file and lets it be judged beside the others. */
function begin(run: Run, holder: Holder, file: WalkedFile): void {
  // What is too large is not put together either.
  const shown = file.size > run.job.scanner.maxBytes ? null : file.openShown();
  const own = file.open();
  const fd = shown ?? own;
  const path = file.path();
  if (fd < 0 && own >= 0) sys.close(own);
  // It went, or another took its name, which is not this run's.
  if (fd === -sys.E.NOENT || fd === -sys.E.LOOP) return;
  if (fd < 0) {
    run.findings.problem('failed', holder, path, `cannot be opened (${sys.errnoName(-fd)})`);
    return;
  }
  const { digest: known, size } = file;
  const was = file.stat === null ? null : { ...file.stat };
  const isOwn = file.stat !== null;
  run.underWay++;
  void run.judge
    .judge(fd, known)
    .then((judged) => {
      run.bytesRead += judged.bytesRead;
      if (judged.scanned) run.scanned++;
      else if (judged.digest !== null) run.cached++;
      const held = { path: () => path, size, isOwn };
      const { outcome } = judged;
      if (outcome.kind === 'failed' || outcome.kind === 'skipped')
        run.findings.problem(outcome.kind, holder, path, outcome.reason);
      if (judged.digest !== null && shown !== null && was !== null)
        rememberShown(run, own, was, judged.digest);
      if (judged.digest !== null) settle(run, holder, held, judged.digest, outcome, own);
    })
    .catch((error: unknown) => run.findings.problem('failed', holder, path, asStrataError(error).message))
    .finally(() => {
      sys.close(fd);
      if (own !== fd && own >= 0) sys.close(own);
      run.underWay--;
      run.ended?.();
    });
}

/** A partial file and the unit below it are as they were, for long enough that no page of it is dirty: it shows what it showed. */
function rememberShown(run: Run, own: number, was: sys.Stat, digest: Digest): void {
  const now = sys.newStat();
  if (sys.fstat(own, now) < 0 || !sameContent(was, now)) return;
  if (changedMs(now) < Date.now() - OLD_MS) run.store.remember(now, digest);
}

function oneEnds(run: Run): Promise<void> {
  return new Promise((resolve) => {
    run.ended = () => {
      run.ended = null;
      resolve();
    };
  });
}

/** A content's verdict is known: notes it, and hides own files of content that is in quarantine. */
function settle(
  run: Run,
  holder: Holder,
  file: Pick<WalkedFile, 'path' | 'size'> & ({ isOwn: boolean } | WalkedFile),
  digest: Digest,
  outcome: Outcome,
  fd: number | null,
): void {
  const before = run.quarantine.get(digest);
  if (outcome.kind !== 'infected' && before === undefined) return;
  const name = outcome.kind === 'infected' ? outcome.name : (before ?? '');
  const verdict = outcome.kind === 'infected' ? 'infected' : 'clean';
  const of = { name, verdict, bytes: file.size, quarantined: before !== undefined } as const;
  run.findings.infected(digest, of, holder, file.path());
  const isOwn = 'isOwn' in file ? file.isOwn : file.stat !== null;
  if (before === undefined || !isOwn) return;
  const opened = fd ?? ('open' in file ? file.open() : -1);
  if (opened < 0) return;
  markFile(opened, digest, run.store);
  if (fd === null) sys.close(opened);
}
