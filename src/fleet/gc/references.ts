/**
 * What must stay: for every owner of generations the newest N and the current one, what sealed and FUSE mounts show, and the config layers of
 * older generations that those refer to. Collected without a lock, in short turns; what commands have committed since is looked at under the
 * lock (`changedSince`). When something that stays cannot be read, its needs are unknown, and nothing may go.
 */
import { readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { asStrataError, type UnitId } from '../../base/index.ts';
import { basesOf } from '../../vlfs/index.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import { sealedRecord } from '../sealed/records.ts';
import { isThere, namesIn, readJsonIfThere } from '../state/files.ts';
import { applianceOwner, generationDir, type Owner, ownerDir } from '../state/paths.ts';
import {
  type ConfigRef,
  currentGeneration,
  type GenerationRecord,
  listGenerations,
  readGeneration,
} from '../templates/generations.ts';
import { generationKey, isGenerationPinned, pinnedUnits } from './pins.ts';
import { breather } from './trash.ts';

export interface References {
  /** Keys of generations that stay. */
  generations: Set<string>;
  units: Set<UnitId>;
  /** Directories of units and generations that mounts show. */
  mounted: Set<string>;
  /** All generations on disk that may go. */
  candidates: ConfigRef[];
  /** The current record of every owner in memory when this was collected. */
  seen: Map<Owner, GenerationRecord>;
  /** Why nothing may go, or null. */
  unknown: string | null;
}

/** Owners with generations, from the files: templates, and appliances with layers of their own. */
async function ownersOnDisk(context: FleetContext): Promise<{ owners: Owner[]; appliances: string[] }> {
  const breathe = breather();
  const { paths } = context;
  const owners = namesIn(paths.templates).filter((name) => !name.startsWith('.'));
  const appliances = namesIn(paths.appliances).filter((name) => !name.startsWith('.'));
  for (const name of appliances) {
    if (isThere(join(paths.appliances, name, 'generations'))) owners.push(applianceOwner(name));
    await breathe();
  }
  return { owners, appliances };
}

function recordsInMemory(context: FleetContext): Map<Owner, GenerationRecord> {
  const records = new Map<Owner, GenerationRecord>();
  for (const [name, { definition }] of context.templates) records.set(name, definition.record);
  for (const [name, { record }] of context.ownDefinitions) records.set(applianceOwner(name), record);
  return records;
}

/** Collects what must stay when `keep` generations of each owner are kept. */
export async function collectReferences(context: FleetContext, keep: number): Promise<References> {
  const { paths } = context;
  const references: References = {
    generations: new Set(),
    units: new Set(),
    mounted: mountedDirs(paths.root),
    candidates: [],
    seen: recordsInMemory(context),
    unknown: null,
  };
  const breathe = breather();
  const { owners, appliances } = await ownersOnDisk(context);
  const pending: ConfigRef[] = [];
  const others: ConfigRef[] = [];
  for (const owner of owners) {
    const current = currentGeneration(paths, owner);
    const numbers = listGenerations(paths, owner);
    const newest = numbers.filter((n) => n <= current).slice(-keep);
    for (const generation of numbers) {
      // Above the current one: a commit at work, or one that never came to be; the next opening knows. None: damaged.
      const stays = current === 0 || generation >= current || newest.includes(generation);
      (stays ? pending : others).push({ owner, generation });
    }
    await breathe();
  }
  for (const name of appliances) {
    const record = sealedRecord(context, name);
    if (record !== null) pending.push(record);
    for (const id of basesOf(applianceDirs(paths, name).privateDir).keys())
      references.units.add(id as UnitId);
    await breathe();
  }
  for (const name of namesIn(join(paths.root, 'frozen'))) {
    for (const id of basesOf(join(paths.root, 'frozen', name, 'private')).keys())
      references.units.add(id as UnitId);
    await breathe();
  }
  for (const ref of others)
    if (references.mounted.has(generationDir(paths, ref.owner, ref.generation))) pending.push(ref);
  for (let ref = pending.pop(); ref !== undefined; ref = pending.pop()) {
    const key = generationKey(ref);
    if (references.generations.has(key)) continue;
    references.generations.add(key);
    const record = readOrDoubt(context, ref, references);
    if (record === null) continue;
    for (const id of record.units) references.units.add(id);
    pending.push(...record.configs);
    await breathe();
  }
  references.candidates = others.filter((ref) => !references.generations.has(generationKey(ref)));
  return references;
}

function readOrDoubt(context: FleetContext, ref: ConfigRef, references: References): GenerationRecord | null {
  const dir = generationDir(context.paths, ref.owner, ref.generation);
  // Gone meanwhile, with its owner.
  if (!isThere(dir) && !isThere(ownerDir(context.paths, ref.owner))) return null;
  try {
    return readGeneration(context.paths, ref.owner, ref.generation);
  } catch (error) {
    references.unknown ??= asStrataError(error).message;
    return null;
  }
}

/** Under the commit lock: what must stay as well, because commands have committed or are running since. */
export function changedSince(
  context: FleetContext,
  references: References,
): { owners: Set<Owner>; generations: Set<string>; units: Set<UnitId> } {
  const owners = new Set<Owner>();
  const generations = new Set<string>();
  const units = pinnedUnits();
  const now = recordsInMemory(context);
  for (const owner of references.seen.keys()) if (!now.has(owner)) owners.add(owner);
  for (const [owner, record] of now) {
    const before = references.seen.get(owner);
    if (before === record) continue;
    owners.add(owner);
    const between = listGenerations(context.paths, owner).filter(
      (n) => n > (before?.generation ?? 0) || n >= record.generation,
    );
    const records = between.map((n) => (n === record.generation ? record : readIfGood(context, owner, n)));
    for (const one of [record, ...records]) {
      if (one === null) continue;
      for (const id of one.units) units.add(id);
      for (const ref of one.configs) generations.add(generationKey(ref));
    }
  }
  return { owners, generations, units };
}

function readIfGood(context: FleetContext, owner: Owner, generation: number): GenerationRecord | null {
  try {
    return readGeneration(context.paths, owner, generation);
  } catch {
    return null;
  }
}

/** Whether a candidate may still go. */
export function isStillFree(ref: ConfigRef, since: ReturnType<typeof changedSince>): boolean {
  return (
    !since.owners.has(ref.owner) && !since.generations.has(generationKey(ref)) && !isGenerationPinned(ref)
  );
}

/** Directories of the levels that FUSE mounts show (run/mounts, run/stacks): units and generations. */
export function mountedDirs(root: string): Set<string> {
  const dirs = new Set<string>();
  const stacks = new Set<string>();
  for (const record of mountRecords(root)) if (record.stack !== null) stacks.add(record.stack);
  for (const name of stacks) for (const dir of dirsOfStack(join(root, 'run/stacks', name))) dirs.add(dir);
  return dirs;
}

/** A stack's file is named by what it holds. */
const knownStacks = new Map<string, readonly string[]>();
const MOST_STACKS = 16_384;

function dirsOfStack(file: string): readonly string[] {
  const known = knownStacks.get(file);
  if (known !== undefined) return known;
  try {
    const stack = JSON.parse(readFileSync(file, 'utf8')) as { levels: { treeDir: string }[] };
    const dirs = [...new Set(stack.levels.map(({ treeDir }) => dirname(treeDir)))];
    if (knownStacks.size >= MOST_STACKS) knownStacks.clear();
    knownStacks.set(file, dirs);
    return dirs;
  } catch {
    // A mount without its stack shows what its appliance's definition says, which stays anyway.
    return [];
  }
}

export interface MountRecord {
  id: string;
  mountpoint: string;
  stack: string | null;
}

/** What was read of a record, and of which state of its file. Each change makes another file. */
interface KnownRecord {
  ino: number;
  ctimeMs: number;
  record: MountRecord | null;
}

const knownRecords = new Map<string, Map<string, KnownRecord>>();

/** What strata-fs remembers of its mounts: appliance, mountpoint, file name of the stack. */
export function mountRecords(root: string): MountRecord[] {
  const dir = join(root, 'run/mounts');
  const before = knownRecords.get(dir);
  const now = new Map<string, KnownRecord>();
  for (const name of namesIn(dir)) {
    if (!name.endsWith('.json')) continue;
    const file = statSync(join(dir, name), { throwIfNoEntry: false });
    if (file === undefined) continue;
    const { ino, ctimeMs } = file;
    const known = before?.get(name);
    const isKnown = known?.ino === ino && known.ctimeMs === ctimeMs;
    now.set(name, isKnown ? known : { ino, ctimeMs, record: readRecord(join(dir, name)) });
  }
  knownRecords.set(dir, now);
  return [...now.values()].flatMap(({ record }) => record ?? []);
}

const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

function readRecord(file: string): MountRecord | null {
  try {
    const record = readJsonIfThere(file) as {
      boot?: string;
      id?: string;
      mountpoint?: string;
      vlfs?: { stack?: string };
    } | null;
    if (record?.boot !== boot || typeof record.id !== 'string') return null;
    const stack = record.vlfs?.stack;
    const isName = typeof stack === 'string' && /^[0-9a-f]+\.json$/.test(stack);
    return { id: record.id, mountpoint: String(record.mountpoint), stack: isName ? stack : null };
  } catch {
    // strata-fs drops what it cannot read, too.
    return null;
  }
}
