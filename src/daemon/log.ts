/**
 * stratad's log: one line an event in ROOT/run/stratad.log, bounded. When the file reaches its limit it is copied to
 * stratad.log.1 and emptied in place, so that the descriptors which a starting daemon inherited go on pointing at it.
 * A log that cannot be written never stops the daemon.
 */
import { appendFileSync, copyFileSync, statSync, truncateSync } from 'node:fs';

export type LogLevel = 'info' | 'warn' | 'error';
export type Log = (level: LogLevel, message: string, fields?: Record<string, unknown>) => void;

export interface LogOptions {
  file: string;
  /** Bytes after which the file is rotated; 10 MiB. */
  maxBytes?: number;
}

/** A writer of `TIME LEVEL MESSAGE key=value...` lines; control characters are escaped, so one event is one line. */
export function openLog(options: LogOptions): Log {
  const { file, maxBytes = 10 * 2 ** 20 } = options;
  let written = sizeOf(file);
  return (level, message, fields = {}) => {
    const pairs = Object.entries(fields).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
    const text = [new Date().toISOString(), level, oneLine(message), ...pairs].join(' ');
    const line = `${text.slice(0, 16_384)}\n`;
    try {
      if (written + line.length > maxBytes) {
        copyFileSync(file, `${file}.1`);
        truncateSync(file, 0);
        written = 0;
      }
      appendFileSync(file, line, { mode: 0o600 });
      written += line.length;
    } catch {
      // A full disk must not turn a log line into a failed request.
    }
  };
}

function sizeOf(file: string): number {
  try {
    return statSync(file).size;
  } catch {
    return 0;
  }
}

function oneLine(text: string): string {
  return text.replace(/[\x00-\x1f\x7f]/g, (c) => (c === '\n' ? ' | ' : ' '));
}
