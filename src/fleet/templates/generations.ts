/**
 * Generations of templates, and of appliances with layers of their own: OWNER_DIR/generations/N/{ldf, stack.json, config/,
 * config.index, whiteouts/} and OWNER_DIR/current -> generations/N, OWNER_DIR/ldf -> current/ldf. Keeps true: a generation's stack and
 * config layer never change once it is current; the switch is one rename. A generation whose config layer is the same as an
 * earlier one's names that one instead of holding a copy.
 */
import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { parseUnitId, StrataError, type UnitId } from '../../base/index.ts';
import { readPlainFile } from '../merge-layers/untrusted-tree.ts';
import { namesIn, readJsonIfThere, readTextIfThere } from '../state/files.ts';
import { type FleetPaths, generationDir, type Owner, ownerDir } from '../state/paths.ts';
import { type Ldf, parseLdf } from './ldf.ts';

/** One config layer: generation `generation` of `owner` holds the tree. */
export interface ConfigRef {
  owner: Owner;
  generation: number;
}

/** stack.json: what an LDF resolved to at one moment. */
export interface GenerationRecord {
  format: 1;
  generation: number;
  /** Software units, top first. */
  units: UnitId[];
  /** Config layers, top first; the owner's own is first when it has one. */
  configs: ConfigRef[];
  /** Generations of the templates that the LDF refers to, as they were. */
  refs: { template: string; generation: number }[];
  /** Recommended layers were wished for. */
  recommends: boolean;
  /** False: maintainer scripts are not run for it. */
  configure: boolean;
  /** What made it: create, add, remove, update, rollback, freeze. */
  reason: string;
  createdAt: string;
}

/** The current state of a template or an appliance with layers of its own. */
export interface Definition {
  owner: Owner;
  record: GenerationRecord;
  ldf: Ldf;
  ldfText: string;
}

/** Number of the current generation; 0 when there is none. */
export function currentGeneration(paths: FleetPaths, owner: Owner): number {
  try {
    const target = readlinkSync(join(ownerDir(paths, owner), 'current'));
    const match = /^generations\/([1-9][0-9]{0,8})$/.exec(target);
    return match ? Number(match[1]) : 0;
  } catch {
    return 0;
  }
}

/** Reads one generation's stack.json. Throws NOT_FOUND or BAD_FORMAT. */
export function readGeneration(paths: FleetPaths, owner: Owner, generation: number): GenerationRecord {
  const file = join(generationDir(paths, owner, generation), 'stack.json');
  const record = readJsonIfThere(file) as GenerationRecord | null;
  if (record === null)
    throw new StrataError('NOT_FOUND', `generation ${generation} of ${describeOwner(owner)} does not exist`);
  const isGood =
    record.format === 1 &&
    Array.isArray(record.units) &&
    record.units.every((unit) => typeof unit === 'string' && parseUnitId(unit) !== null) &&
    Array.isArray(record.configs) &&
    Array.isArray(record.refs);
  if (!isGood) throw new StrataError('BAD_FORMAT', `${file} is not a stack of this version of Strata`);
  return { ...record, generation };
}

/** The text of one generation's LDF. */
export function readGenerationLdf(paths: FleetPaths, owner: Owner, generation: number): string {
  const text = readTextIfThere(join(generationDir(paths, owner, generation), 'ldf'));
  if (text === null)
    throw new StrataError('NOT_FOUND', `generation ${generation} of ${describeOwner(owner)} has no LDF`);
  return text;
}

/** The current definition, or null when the owner has no generation. The LDF is OWNER_DIR/ldf, which a person may have edited. */
export function readDefinition(paths: FleetPaths, owner: Owner): Definition | null {
  const generation = currentGeneration(paths, owner);
  if (generation === 0) return null;
  const record = readGeneration(paths, owner, generation);
  const file = join(ownerDir(paths, owner), 'ldf');
  const ldfText = readTextIfThere(file) ?? readGenerationLdf(paths, owner, generation);
  return { owner, record, ldfText, ldf: parseLdf(ldfText, file) };
}

/** All generation numbers on disk, ascending. */
export function listGenerations(paths: FleetPaths, owner: Owner): number[] {
  return namesIn(join(ownerDir(paths, owner), 'generations'))
    .filter((name) => /^[1-9][0-9]{0,8}$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}

/** Paths of one config layer. */
export function configPaths(
  paths: FleetPaths,
  ref: ConfigRef,
): { tree: string; index: string; whiteouts: string } {
  const dir = generationDir(paths, ref.owner, ref.generation);
  return { tree: join(dir, 'config'), index: join(dir, 'config.index'), whiteouts: join(dir, 'whiteouts') };
}

/** The definition's own config layer, or null. */
export function ownConfig(record: GenerationRecord, owner: Owner): ConfigRef | null {
  return record.configs.find((ref) => ref.owner === owner) ?? null;
}

/**
 * Text of a file in the topmost config layer that has it, or null; for plain files at fixed paths such as dpkg's status. A config layer
 * may come from an appliance (freeze), so what is no plain file there is not looked through, nor followed.
 */
export function readConfigFile(paths: FleetPaths, record: GenerationRecord, path: string): string | null {
  for (const ref of record.configs) {
    const text = readPlainFile(configPaths(paths, ref).tree, path);
    if (text !== undefined) return text;
  }
  return null;
}

export function describeOwner(owner: Owner): string {
  return owner.startsWith('@') ? `appliance ${owner.slice(1)}` : `template ${owner}`;
}
