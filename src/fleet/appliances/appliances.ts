/**
 * Appliances: create (one or thousands in one step), delete. An appliance is a directory with an LDF, its state and an
 * empty private layer: nothing of its template is copied. One with layers of its own has generations of its own as well.
 */
import { mkdirSync, symlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { asStrataError, checkObjectName, LIMITS, type Progress, StrataError } from '../../base/index.ts';
import { onOpenFile } from '../../vlfs/index.ts';
import { frozenList } from '../clone/frozen.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, operationId, templateState } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { familyOf } from '../family/record.ts';
import { endOf } from '../family/ttl.ts';
import { type BaseId, baseOf, dropUnusedBases, stageBase } from '../import/base.ts';
import { mountpoints, refuseLingering } from '../mounts/mount-list.ts';
import { type PolicyRecord, policyText } from '../policy/record.ts';
import { stageQuota, stageUsage } from '../quota/quotas.ts';
import {
  isThere,
  namesIn,
  readJsonIfThere,
  removeTree,
  syncFileSystem,
  writeNewFile,
} from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import type { Definition } from '../templates/generations.ts';
import { createLdf, formatLdf } from '../templates/ldf.ts';
import { elapsed, parseLayers, templateLock } from '../templates/templates.ts';
import type { CatalogRow } from './catalog.ts';
import { allocateMacs, normalizeMac } from './macs.ts';
import { makeOwnGenerations } from './own-layers.ts';

export const applianceLock = (name: string) => `appliance:${name}`;

/** Throws NOT_FOUND. */
export function applianceRow(context: FleetContext, name: string): CatalogRow {
  const row = context.catalog.get(name);
  if (row) return row;
  throw new StrataError('NOT_FOUND', `there is no appliance ${JSON.stringify(name)}`, {
    hint: 'strata list shows all appliances',
  });
}

/** What state.json holds. */
export interface ApplianceState {
  format: 1;
  name: string;
  mac: string;
  template: string;
  own: boolean;
  heldBack: string | null;
  createdAt: string;
  /** Its frozen layers, newest first; none when it is missing. */
  frozen?: string[];
  /** The appliance that it was cloned from, and when that one was created. */
  parent?: string;
  parentCreatedAt?: string;
  /** Frozen layers that both showed when they parted. */
  base?: string[];
  /** Merges with the parent, oldest first. */
  merges?: { into: 'clone' | 'parent'; layer: string; base: string[] }[];
  snapshots?: { name: string; createdAt: string; frozen: string[] }[];
  /** When `strata expire` deletes it. */
  expires?: string;
}

/** What an appliance has below everything else, and what comes with it. */
export interface Imported {
  base: BaseId;
  /** Bring it into its place. */
  steps: JournalStep[];
  policy?: PolicyRecord;
  /** How contents are judged before they are opened, as on-open.json says it. */
  onOpen?: string | null;
}

type CreateOptions = Parameters<Fleet['create']>[0];
type Created = Awaited<ReturnType<Fleet['create']>>;

function namesFor(options: CreateOptions): string[] {
  const name = checkObjectName('appliance', options.name);
  if (options.count === undefined) return [name];
  const { count } = options;
  if (!Number.isInteger(count) || count < 1)
    throw new StrataError('USAGE', '--count must be a whole number above 0');
  if (count > LIMITS.createCount) {
    throw new StrataError('LIMIT', `one command creates at most ${LIMITS.createCount} appliances`);
  }
  const names = Array.from({ length: count }, (_, i) => `${name}-${i + 1}`);
  checkObjectName('appliance', names.at(-1)!);
  return names;
}

/** All appliances of one command appear together or not at all; with them what `imported` says. */
export async function createAppliances(
  context: FleetContext,
  options: CreateOptions,
  progress: Progress,
  imported: Imported | null = null,
): Promise<Created> {
  const started = performance.now();
  const names = namesFor(options);
  endOf(options.ttlSeconds);
  const own = parseLayers(options.layers ?? []);
  const mac = options.mac === undefined ? null : normalizeMac(options.mac);
  if (mac !== null && names.length > 1)
    throw new StrataError('USAGE', '--mac and --count do not go together');
  // An update may wait long for a repository: only who resolves layers anew waits for it. Whether the template is there is looked at again at the commit.
  const locked = [...(own.length > 0 ? [templateLock(options.template)] : []), ...names.map(applianceLock)];
  return context.locks.with(locked, async () => {
    templateState(context, options.template);
    refuseExisting(context, names, mac);
    const stage = join(context.paths.appliances, `.tmp-${operationId()}`);
    mkdirSync(stage, { mode: 0o700 });
    try {
      const definitions =
        own.length > 0
          ? await makeOwnGenerations(context, {
              template: options.template,
              layers: own,
              names,
              stage,
              progress,
            })
          : new Map<string, Definition>();
      return await context.locks.with([COMMIT], async () => {
        templateState(context, options.template);
        refuseExisting(context, names, mac);
        const macs =
          mac === null ? allocateMacs(names.length, (m) => context.catalog.nameOfMac(m) !== null) : [mac];
        const rows = await stageAppliances(context, options, { names, macs, stage, definitions, imported });
        await commitAppliances(context, rows, stage, definitions, imported?.steps ?? []);
        const appliances = rows.map((row) => ({ name: row.name, mac: row.mac, template: row.template }));
        return { appliances, elapsed_ms: elapsed(started) };
      });
    } catch (error) {
      removeTree(stage);
      throw error;
    }
  });
}

export function refuseExisting(context: FleetContext, names: string[], mac: string | null): void {
  for (const name of names) {
    if (context.catalog.get(name) === null) continue;
    throw new StrataError('EXISTS', `appliance ${name} exists already`, {
      hint: `choose another name, or remove it: strata delete ${name}`,
    });
  }
  const owner = mac === null ? null : context.catalog.nameOfMac(mac);
  if (owner !== null) throw new StrataError('EXISTS', `MAC address ${mac} belongs to appliance ${owner}`);
}

/** Writes the appliances' directories and machine links into the staging directory; one sync for all. */
async function stageAppliances(
  context: FleetContext,
  options: CreateOptions,
  o: {
    names: string[];
    macs: string[];
    stage: string;
    definitions: Map<string, Definition>;
    imported: Imported | null;
  },
): Promise<CatalogRow[]> {
  const { names, macs, stage, definitions, imported } = o;
  const { template } = options;
  const createdAt = new Date().toISOString();
  const expires = endOf(options.ttlSeconds);
  const ldf = formatLdf(createLdf({ refs: [template], explicit: [], implicit: [] }));
  const machines = join(stage, '.machines');
  mkdirSync(machines);
  const rows: CatalogRow[] = [];
  for (const [i, name] of names.entries()) {
    if (i % 256 === 255) await breathe();
    const mac = macs[i]!;
    const definition = definitions.get(name);
    const dir = join(stage, name);
    if (!definition) {
      mkdirSync(dir, { mode: 0o755 });
      writeNewFile(join(dir, 'ldf'), ldf, false);
    }
    mkdirSync(join(dir, 'private'), { mode: 0o755 });
    if (imported !== null) stageImported(dir, imported);
    stageQuota(dir, options, null, false);
    stageUsage(dir, { bytes: 0, inodes: 0, state: 'exact' }, false);
    const own = definition !== undefined;
    const state: ApplianceState = {
      format: 1,
      name,
      mac,
      template,
      own,
      heldBack: null,
      createdAt,
      ...(expires === null ? {} : { expires }),
    };
    writeNewFile(join(dir, 'state.json'), `${JSON.stringify(state)}\n`, false);
    symlinkSync(`../appliances/${name}`, join(machines, mac));
    rows.push({
      name,
      mac,
      template,
      own,
      generation: definition?.record.generation ?? null,
      heldBack: null,
      frozen: [],
      family: familyOf(state)!,
    });
  }
  syncFileSystem(stage);
  context.onStep('appliances-staged');
  return rows;
}

function stageImported(dir: string, { base, policy, onOpen }: Imported): void {
  stageBase(dir, base);
  if (policy !== undefined) writeNewFile(join(dir, 'policy.json'), policyText(policy));
  if (onOpen != null) writeNewFile(onOpenFile(join(dir, 'private')), onOpen);
}

async function commitAppliances(
  context: FleetContext,
  rows: CatalogRow[],
  stage: string,
  definitions: Map<string, Definition>,
  first: JournalStep[],
): Promise<void> {
  const from = join('appliances', stage.slice(context.paths.appliances.length + 1));
  const steps: JournalStep[] = [...first];
  for (const { name, mac } of rows) {
    steps.push({ do: 'rename', from: join(from, name), to: join('appliances', name) });
    steps.push({ do: 'rename', from: join(from, '.machines', mac), to: join('machines', mac) });
  }
  steps.push({ do: 'remove', path: from });
  const id = await context.journal.commit('create', steps);
  for (const [name, definition] of definitions) context.ownDefinitions.set(name, definition);
  try {
    context.catalog.put(rows);
    context.onStep('catalog');
  } finally {
    context.journal.finish(id);
  }
}

/** Every appliance on disk as a catalog row: the truth the catalog is rebuilt from. Directories that are none are left out; damaged ones are named in `notes`. */
export function* rowsOnDisk(
  context: Pick<FleetContext, 'paths'>,
  notes: string[] = [],
): Generator<CatalogRow> {
  for (const name of namesIn(context.paths.appliances).sort()) {
    if (name.startsWith('.')) continue;
    const state = readState(join(context.paths.appliances, name, 'state.json'), notes);
    if (state === null || typeof state.mac !== 'string' || typeof state.template !== 'string') continue;
    const own = isThere(join(context.paths.appliances, name, 'current'));
    const heldBack = typeof state.heldBack === 'string' ? state.heldBack : null;
    const frozen = frozenList(state.frozen);
    if (frozen === null) {
      notes.push(`appliance ${name} cannot be used: the list of its frozen layers is damaged`);
      continue;
    }
    const family = familyOf(state);
    if (family === null) {
      notes.push(`appliance ${name} cannot be used: what its state.json says of its family is damaged`);
      continue;
    }
    yield { name, mac: state.mac, template: state.template, own, generation: null, heldBack, frozen, family };
  }
}

function readState(file: string, notes: string[]): ApplianceState | null {
  try {
    return readJsonIfThere(file) as ApplianceState | null;
  } catch (error) {
    notes.push(`an appliance cannot be used: ${asStrataError(error).message}`);
    return null;
  }
}

/** Deletes appliances: all of those named, or none when one is missing, mounted, or not among `only`. */
export async function deleteAppliances(
  context: FleetContext,
  names: string[],
  { only = () => true }: { only?: (row: CatalogRow) => boolean } = {},
): Promise<{ deleted: string[] }> {
  const unique = [...new Set(names)];
  await refuseLingering(context, unique);
  return context.locks.with([...unique.map(applianceLock), COMMIT], async () => {
    const rows = unique.map((name) => applianceRow(context, name));
    if (!rows.every(only)) return { deleted: [] };
    const mounts = await mountpoints(context);
    for (const { name } of rows) {
      const places = mounts.get(name);
      if (places === undefined) continue;
      throw new StrataError('BUSY', `appliance ${name} is mounted at ${places.join(', ')}`, {
        hint: `strata umount ${name}, then delete it`,
      });
    }
    const hadBase = rows.some(({ name }) => baseOf(context.paths, name) !== null);
    const steps: JournalStep[] = [];
    const trash = join('appliances', `.trash-${operationId()}`);
    for (const { name, mac } of rows) {
      steps.push({ do: 'remove', path: join('machines', mac) });
      steps.push({ do: 'rename', from: join('appliances', name), to: `${trash}-${name}` });
    }
    const id = await context.journal.commit('delete', steps);
    try {
      context.catalog.remove(unique);
      for (const name of unique) context.ownDefinitions.delete(name);
      dropUnusedFrozen(context);
      if (hadBase) dropUnusedBases(context);
    } finally {
      context.journal.finish(id);
    }
    await Promise.all(rows.map(({ name }) => removeTrash(join(context.root, `${trash}-${name}`))));
    context.catalog.remove([]);
    return { deleted: unique };
  });
}

/** The appliance is gone already, so nothing here fails the command: what is left is removed at the next start. */
async function removeTrash(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
  } catch {
    // Deeper than a path is long: one directory at a time.
    try {
      removeTree(dir);
    } catch (error) {
      if (!(error instanceof StrataError)) throw error;
    }
  }
}
