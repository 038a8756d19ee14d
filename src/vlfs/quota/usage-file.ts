/**
 * The two files of a quota beside the private layer: `quota.json`, the limits, which the fleet writes, and `usage`, what the appliance takes, which strata-fs writes
 * at every change of the numbers. `usage` is synced only when it is opened and closed: after the end of a process its numbers are right but for one operation, after a power
 * cut they may be old. Both cases show in its state, and then everything is counted again in the background.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fdatasync,
  O_CLOEXEC,
  O_CREAT,
  O_NOFOLLOW,
  O_RDWR,
  openat,
  pwrite,
} from '../../sys/index.ts';

/** null: no limit. */
export interface QuotaLimits {
  bytes: number | null;
  inodes: number | null;
}

export interface Usage {
  bytes: number;
  inodes: number;
  /** `exact`: counted, and nobody has it open. `open`: somebody changes it, or ended without a close. `stale`: to be counted again. */
  state: 'exact' | 'open' | 'stale';
}

/** Bytes of the usage file, whatever the numbers are: one write replaces them. */
const RECORD_BYTES = 128;
const STATES = ['exact', 'open', 'stale'];
/** Raise it when other things count: numbers of another format are counted again. */
const FORMAT = 2;

export function quotaFile(privateDir: string): string {
  return join(dirname(privateDir), 'quota.json');
}

export function usageFile(privateDir: string): string {
  return join(dirname(privateDir), 'usage');
}

function parse(file: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(readFileSync(file, 'latin1'));
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** The limits of an appliance, or null when it has none. What cannot be read is no limit: fsck tells. */
export function readLimits(privateDir: string): QuotaLimits | null {
  const known = parse(quotaFile(privateDir));
  if (known === null) return null;
  const bytes = isCount(known.bytes) ? known.bytes : null;
  const inodes = isCount(known.inodes) ? known.inodes : null;
  return bytes === null && inodes === null ? null : { bytes, inodes };
}

export function formatLimits({ bytes, inodes }: QuotaLimits): string {
  return `${JSON.stringify({ format: 1, bytes, inodes })}\n`;
}

/** What was written last, or null when nothing that can be read was. */
export function readUsage(privateDir: string): Usage | null {
  const known = parse(usageFile(privateDir));
  if (known === null || !isCount(known.bytes) || !isCount(known.inodes)) return null;
  const isKnown = known.format === FORMAT && STATES.includes(known.state as string);
  const state = isKnown ? (known.state as Usage['state']) : 'stale';
  return { bytes: known.bytes, inodes: known.inodes, state };
}

export function formatUsage({ bytes, inodes, state }: Usage): string {
  return `${JSON.stringify({ format: FORMAT, bytes, inodes, state }).padEnd(RECORD_BYTES - 1)}\n`;
}

/** Opens the usage file for writeUsage; a negative errno. The caller closes it. */
export function openUsage(privateDir: string): number {
  const flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
  return openat(AT_FDCWD, nameFromText(usageFile(privateDir)), flags, 0o600);
}

const record = Buffer.allocUnsafeSlow(RECORD_BYTES);

export function writeUsage(fd: number, usage: Usage): void {
  if (fd < 0) return;
  record.write(formatUsage(usage), 'latin1');
  pwrite(fd, record, RECORD_BYTES, 0);
}

/** The last write, on the disk; closes the file. */
export function endUsage(fd: number, usage: Usage): void {
  if (fd < 0) return;
  writeUsage(fd, usage);
  fdatasync(fd);
  close(fd);
}

/** What a private layer that nobody has mounted takes is not known any more. */
export function forgetUsage(privateDir: string): void {
  const known = readUsage(privateDir);
  if (known !== null && known.state !== 'stale') replaceUsage(privateDir, { ...known, state: 'stale' });
}

/** Writes the usage of an appliance that nobody has mounted. */
export function replaceUsage(privateDir: string, usage: Usage): void {
  const file = usageFile(privateDir);
  writeFileSync(`${file}.new`, formatUsage(usage), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
