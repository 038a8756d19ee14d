/** Records of the journal as they lie in ROOT/journal: files, or notes where the file system keeps these in order. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import { namesIn, readTextIfThere, removeTree, replaceFile } from './files.ts';
import type { JournalRecord } from './journal.ts';
import { dropStagedNote, putNote, readNote, removeNote, stageNote } from './note.ts';

/** How names of records end. */
export const FILE = '.json';
export const NOTE = '.note';

/** Names of the records in a journal, the oldest first. */
export function recordNames(dir: string): string[] {
  const isRecord = (name: string) => (name.endsWith(FILE) || name.endsWith(NOTE)) && !name.startsWith('.');
  return namesIn(dir).filter(isRecord).sort();
}

/** What a record says; null when it is gone. */
export function recordText(path: string): string | null {
  return path.endsWith(NOTE) ? readNote(path) : readTextIfThere(path);
}

/** Throws BAD_FORMAT when it is not JSON. */
export function readRecord(path: string): JournalRecord | null {
  const text = recordText(path);
  try {
    return text === null ? null : (JSON.parse(text) as JournalRecord | null);
  } catch (error) {
    throw new StrataError('BAD_FORMAT', `${path} is not JSON`, { cause: error });
  }
}

/** A record of which all is there but its name. */
export interface StagedRecord {
  put(): void;
  drop(): void;
}

/** Makes a record ready to be written, as its name says. */
export function stageRecord(path: string, record: JournalRecord): StagedRecord {
  const text = JSON.stringify(record);
  if (!path.endsWith(NOTE)) return { put: () => replaceFile(path, text), drop: () => {} };
  stageNote(path, text);
  return { put: () => putNote(path), drop: () => dropStagedNote(path) };
}

export function removeRecord(path: string): void {
  if (path.endsWith(NOTE)) removeNote(path);
  else rmSync(path, { force: true });
}

/** What a killed process left of records that it wrote or took away. */
export function removeParts(dir: string): void {
  for (const name of namesIn(dir)) if (/^\.(?:tmp|trash)-/.test(name)) removeTree(join(dir, name));
}
