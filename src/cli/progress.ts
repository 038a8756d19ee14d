/**
 * Shows the progress of long work on stderr: one live line on a terminal, a plain line now and then elsewhere, nothing
 * with --json. It never writes to stdout.
 */
import { noProgress, type Progress, type ProgressEvent } from '../base/index.ts';
import { formatBytes, printable } from './format.ts';
import { fit } from './table.ts';

/** Between plain lines of the same phase. */
const PLAIN_INTERVAL_MS = 3_000;
const LIVE_INTERVAL_MS = 80;

export interface Reporter {
  progress: Progress;
  /** Removes the live line; must be called before anything else is printed. */
  done(): void;
}

export interface ReporterOptions {
  json: boolean;
  stream: { isTTY?: boolean; columns?: number; write(text: string): unknown };
}

export function createReporter({ json, stream }: ReporterOptions): Reporter {
  if (json) return { progress: noProgress, done: () => {} };
  return stream.isTTY ? liveReporter(stream) : plainReporter(stream);
}

/** `fetch 12/340 (3.1 of 80 MB): nginx-common`. */
export function describe(event: ProgressEvent): string {
  const count = event.total === undefined ? '' : ` ${event.done ?? 0}/${event.total}`;
  const bytes =
    event.doneBytes === undefined
      ? ''
      : event.totalBytes === undefined
        ? ` (${formatBytes(event.doneBytes)})`
        : ` (${formatBytes(event.doneBytes)} of ${formatBytes(event.totalBytes)})`;
  return printable(`${event.phase}${count}${bytes}${event.message ? `: ${event.message}` : ''}`);
}

function liveReporter(stream: ReporterOptions['stream']): Reporter {
  let shown = false;
  let at = 0;
  let phase = '';
  return {
    progress: (event) => {
      const now = performance.now();
      if (event.phase === phase && now - at < LIVE_INTERVAL_MS) return;
      phase = event.phase;
      at = now;
      shown = true;
      stream.write(`\r\x1b[K${fit(describe(event), (stream.columns || 80) - 1)}`);
    },
    done: () => {
      if (shown) stream.write('\r\x1b[K');
      shown = false;
    },
  };
}

function plainReporter(stream: ReporterOptions['stream']): Reporter {
  // Phases may run side by side: each has its own interval.
  const shownAt = new Map<string, number>();
  return {
    progress: (event) => {
      const now = performance.now();
      const at = shownAt.get(event.phase);
      if (at !== undefined && now - at < PLAIN_INTERVAL_MS) return;
      shownAt.set(event.phase, now);
      stream.write(`${describe(event)}\n`);
    },
    done: () => {},
  };
}
