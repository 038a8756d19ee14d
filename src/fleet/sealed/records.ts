/**
 * Which generation the sealed mount of an appliance shows: appliances/NAME/sealed.json, written before the mount and removed when what the
 * mount wrote is absorbed (settle.ts). So a new stratad knows it, and nothing that the mount shows is removed meanwhile.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { FleetContext } from '../context.ts';
import { isThere, readJsonIfThere, replaceFile } from '../state/files.ts';
import { type Definition, type GenerationRecord, readGeneration } from '../templates/generations.ts';

export interface SealedRecord {
  format: 1;
  /** Whose generation: a template's, or `@NAME`. */
  owner: string;
  generation: number;
  readOnly: boolean;
  /** The private layer has no partial files; absent in records of older versions. */
  complete?: boolean;
}

function recordFile(context: FleetContext, name: string): string {
  return join(context.paths.appliances, name, 'sealed.json');
}

export function hasSealedRecord(context: FleetContext, name: string): boolean {
  return isThere(recordFile(context, name));
}

/** The record, or null when there is none that can be read. */
export function sealedRecord(context: FleetContext, name: string): SealedRecord | null {
  try {
    const record = readJsonIfThere(recordFile(context, name)) as SealedRecord | null;
    const isGood =
      record?.format === 1 && typeof record.owner === 'string' && Number.isSafeInteger(record.generation);
    return isGood ? record : null;
  } catch {
    return null;
  }
}

/** Once the private layer is complete. */
export function writeSealedRecord(
  context: FleetContext,
  name: string,
  definition: Definition,
  readOnly: boolean,
): void {
  const { owner, record } = definition;
  const content: SealedRecord = { format: 1, owner, generation: record.generation, readOnly, complete: true };
  replaceFile(recordFile(context, name), `${JSON.stringify(content)}\n`);
}

export function dropSealedRecord(context: FleetContext, name: string): void {
  rmSync(recordFile(context, name), { force: true });
}

/** The generation that a record names, or null when it is gone. */
export function sealedGeneration(context: FleetContext, record: SealedRecord): GenerationRecord | null {
  try {
    return readGeneration(context.paths, record.owner, record.generation);
  } catch {
    return null;
  }
}

/** Appliances with a sealed mount (or one that is not absorbed yet), and what it shows. */
export function sealedGenerations(context: FleetContext): { name: string; record: GenerationRecord }[] {
  const found: { name: string; record: GenerationRecord }[] = [];
  for (const { name } of context.catalog.all()) {
    const record = hasSealedRecord(context, name) ? sealedRecord(context, name) : null;
    const generation = record === null ? null : sealedGeneration(context, record);
    if (generation !== null) found.push({ name, record: generation });
  }
  return found;
}
