/**
 * The check at open, on a thread of strata-fs's blocking pool: from an open file to an errno. Verdicts that are kept answer at once; the
 * scanner is asked with a time limit. Infected is EPERM, no verdict in time ETIMEDOUT, no verdict for another reason EIO.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../base/index.ts';
import { writeFileDurably } from '../layer/index.ts';
import { E, fstat, newStat } from '../sys/index.ts';
import type { Outcome, ScannerConfig } from './contract.ts';
import { createJudge, type Judge } from './judge.ts';
import { verdictFile } from './run-scan.ts';
import { openScanner } from './scanners/index.ts';
import { openVerdictStore, type VerdictStore } from './store.ts';

/** What `on-open.json` beside a private layer holds. */
export interface OnOpenSettings {
  format: 1;
  /** ROOT/scan. */
  dir: string;
  scanner: ScannerConfig;
}

/** A scanner is asked for its version and signatures again after so long. */
const TRUSTED_MS = 60_000;
/** Contents with scanners at a time, for this thread; others wait within their time. */
const AT_ONCE = 16;

interface Ready {
  openedMs: number;
  text: string;
  settings: OnOpenSettings;
  judge: Judge;
  store: VerdictStore;
}

const ready = new Map<string, Promise<Ready>>();
let underWay = 0;
const waiting: (() => void)[] = [];

/** Durable when it returns. */
export function writeOnOpen(file: string, settings: OnOpenSettings): void {
  writeFileDurably(file, `${JSON.stringify(settings)}\n`, 0o600);
}

/** The settings in a file; null: it is not there or not of this version. */
export function readOnOpen(file: string): OnOpenSettings | null {
  try {
    const settings = JSON.parse(readFileSync(file, 'utf8')) as Partial<OnOpenSettings> | null;
    return settings?.format === 1 && settings.scanner !== undefined ? (settings as OnOpenSettings) : null;
  } catch {
    return null;
  }
}

/** Judges the content of an open file as the settings in `file` say. 0: clean; else a negative errno. Never throws. */
export async function judgeForOpen(fd: number, digest: Digest | null, file: string): Promise<number> {
  const settings = readOnOpen(file);
  if (settings === null) return -E.IO;
  const late = Promise.withResolvers<number>();
  const timer = setTimeout(() => late.resolve(-E.TIMEDOUT), settings.scanner.timeoutMs);
  const judged = judgedBy(settings, file, fd, digest).catch(() => -E.IO);
  try {
    return await Promise.race([judged, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function judgedBy(
  settings: OnOpenSettings,
  file: string,
  fd: number,
  known: Digest | null,
): Promise<number> {
  const { judge, store } = await readyFor(file, settings);
  const stat = newStat();
  if (fstat(fd, stat) < 0) return -E.IO;
  const digest = known ?? store.digestOf(stat);
  const kept = digest === null ? null : store.verdict(digest);
  if (kept !== null) return errnoOf(kept);
  if (underWay >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
  underWay++;
  try {
    const { outcome } = await judge.judge(fd, known);
    store.flush();
    return errnoOf(outcome);
  } finally {
    underWay--;
    waiting.shift()?.();
  }
}

function errnoOf(outcome: Outcome): number {
  if (outcome.kind === 'clean') return 0;
  return outcome.kind === 'infected' ? -E.PERM : -E.IO;
}

async function readyFor(file: string, settings: OnOpenSettings): Promise<Ready> {
  const text = JSON.stringify(settings);
  const known = ready.get(file);
  const found = known === undefined ? null : await known.catch(() => null);
  if (found !== null && found.text === text && found.openedMs + TRUSTED_MS > performance.now()) return found;
  // Somebody else may have begun anew meanwhile.
  const other = ready.get(file);
  if (other !== undefined && other !== known) return other;
  const fresh = open(settings, text);
  ready.set(file, fresh);
  fresh.catch(() => {
    if (ready.get(file) === fresh) ready.delete(file);
  });
  const opened = await fresh;
  // Judgements of before may still write to it.
  if (found !== null) setTimeout(() => found.store.close(), settings.scanner.timeoutMs + 1000).unref();
  return opened;
}

async function open(settings: OnOpenSettings, text: string): Promise<Ready> {
  const scanner = await openScanner(settings.scanner);
  const store = openVerdictStore(verdictFile(settings.dir), scanner);
  const { maxBytes } = settings.scanner;
  const judge = createJudge({ scanner, store, maxBytes, mayChange: true });
  return { openedMs: performance.now(), text, settings, judge, store };
}

/** Settings with this scanner. */
export function onOpenSettings(root: string, scanner: ScannerConfig): OnOpenSettings {
  return { format: 1, dir: join(root, 'scan'), scanner };
}
