/**
 * A streamed answer: one JSON value a line. Progress is thinned out (at most one line in 40 ms while the phase stays
 * the same) and dropped while the client does not read, so a slow or vanished client costs no memory; the last line always goes.
 */
import type { ServerResponse } from 'node:http';
import type { Progress, ProgressEvent } from '../base/index.ts';
import type { StreamLine } from './contract.ts';

const MIN_INTERVAL_MS = 40;

export interface JsonStream {
  progress: Progress;
  /** The result or error, then the end. */
  end(line: StreamLine): void;
}

export function openStream(response: ServerResponse, headers: Record<string, string>): JsonStream {
  let lastPhase = '';
  let lastAt = 0;
  let waiting: ProgressEvent | null = null;
  let gone = false;
  response.on('close', () => {
    gone = true;
  });
  response.on('error', () => {
    gone = true;
  });
  response.writeHead(200, headers);
  response.flushHeaders();
  const write = (line: StreamLine) => response.write(`${JSON.stringify(line)}\n`);
  return {
    progress: (event) => {
      if (gone) return;
      const now = performance.now();
      const complete = event.total !== undefined && event.done === event.total;
      if (event.phase === lastPhase && !complete && now - lastAt < MIN_INTERVAL_MS) {
        waiting = event;
        return;
      }
      if (response.writableNeedDrain) return;
      waiting = null;
      lastPhase = event.phase;
      lastAt = now;
      write({ progress: event });
    },
    end: (line) => {
      if (gone) return;
      if (waiting && !response.writableNeedDrain) write({ progress: waiting });
      response.end(`${JSON.stringify(line)}\n`);
    },
  };
}
