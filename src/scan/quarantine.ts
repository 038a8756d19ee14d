/**
 * ROOT/scan/quarantine/DIGEST: one file for each content that no VLFS shows, named by its SHA-256. The name alone counts; what is written in
 * it is for people. Each is written durably in one step, so a kill leaves it there or not.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Digest } from '../base/index.ts';
import { syncDirectory, writeFileDurably } from '../layer/index.ts';
import { quarantineDir } from '../vlfs/index.ts';
import type { QuarantineRecord } from './contract.ts';

const DIGEST = /^[0-9a-f]{64}$/;

export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** The record of a digest; null when it cannot be read, and the content is in quarantine all the same. */
export function quarantineRecord(root: string, digest: Digest): QuarantineRecord | null {
  try {
    const value = JSON.parse(
      readFileSync(join(quarantineDir(root), digest), 'utf8'),
    ) as Partial<QuarantineRecord> | null;
    const isWhole =
      value?.format === 1 &&
      value.digest === digest &&
      typeof value.name === 'string' &&
      typeof value.scanner === 'string' &&
      typeof value.since === 'string' &&
      Number.isSafeInteger(value.bytes);
    return isWhole ? (value as QuarantineRecord) : null;
  } catch {
    return null;
  }
}

function makeDirectories(root: string): void {
  const dir = quarantineDir(root);
  if (mkdirSync(dir, { recursive: true, mode: 0o700 }) === undefined) return;
  syncDirectory(dirname(dir));
  syncDirectory(root);
}

const markingFile = (root: string): string => join(root, 'scan', 'marking');

/** From here until `endMarking` private files may lack marks of what is in quarantine; who is killed meanwhile goes on at the next start. */
export function beginMarking(root: string): void {
  makeDirectories(root);
  writeFileDurably(markingFile(root), '', 0o600);
}

export function endMarking(root: string): void {
  rmSync(markingFile(root), { force: true });
}

export function isMarking(root: string): boolean {
  return existsSync(markingFile(root));
}

/** Durable when it returns. */
export function addQuarantine(root: string, record: QuarantineRecord): void {
  const dir = quarantineDir(root);
  makeDirectories(root);
  writeFileDurably(join(dir, record.digest), `${JSON.stringify(record)}\n`, 0o600);
}

/** Durable when it returns; false: it was not there. */
export function removeQuarantine(root: string, digest: Digest): boolean {
  const dir = quarantineDir(root);
  try {
    rmSync(join(dir, digest));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  syncDirectory(dir);
  return true;
}
