/**
 * After a template's (or an appliance's own) generation has changed: every appliance follows. Mounted ones are relayered in one call,
 * each atomically; in the others only what belongs to units that are gone is dropped. A sealed door keeps its stack until its next mount. Idempotent: recovery does it again.
 */
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { DataPlane, FoundMounts } from '../../fuse/contract.ts';
import type { CacheMode, PrivateFile, StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { pruneAside } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import {
  applianceDirs,
  databaseChanges,
  mergedDatabases,
  writePrivateFiles,
} from '../appliances/private-files.ts';
import { frozenDir, withFrozen } from '../clone/frozen.ts';
import { type FleetContext, templateState } from '../context.ts';
import { silentAppliances } from '../mounts/silent-disks.ts';
import { denialsFile } from '../policy/denials.ts';
import { type PolicyRecord, policedStack } from '../policy/record.ts';
import { sealedMounts } from '../sealed/door.ts';
import { hasSealedRecord } from '../sealed/records.ts';
import { settleSealed } from '../sealed/settle.ts';
import { namesIn } from '../state/files.ts';
import { stackOf } from './compose.ts';
import { type Definition, type GenerationRecord, readGeneration } from './generations.ts';

/** What an appliance's stack is at this moment. */
export function applianceDefinition(context: FleetContext, row: CatalogRow): Definition {
  return context.ownDefinitions.get(row.name) ?? templateState(context, row.template).definition;
}

export function applianceStack(context: FleetContext, row: CatalogRow): StackSpec {
  return stackOfAppliance(context, row.name, applianceDefinition(context, row).record);
}

/** The stack of an appliance that is to have other frozen layers, as `row` says, and another policy. */
export function nextStack(context: FleetContext, row: CatalogRow, policy: PolicyRecord | null): StackSpec {
  const { paths, repositories } = context;
  const layers = stackOf(paths, repositories, applianceDefinition(context, row).record);
  return policedStack(paths, row.name, withFrozen(paths, layers, row.frozen), policy);
}

/** What an appliance shows of a generation: its policy is part of it. */
export function stackOfAppliance(
  context: FleetContext,
  name: string,
  record: Pick<GenerationRecord, 'units' | 'configs'>,
): StackSpec {
  const layers = stackOf(context.paths, context.repositories, record);
  const frozen = context.catalog.get(name)?.frozen ?? [];
  return policedStack(context.paths, name, withFrozen(context.paths, layers, frozen));
}

export function vlfsSpec(
  context: FleetContext,
  row: CatalogRow,
  { readOnly = false, cache }: { readOnly?: boolean | undefined; cache?: CacheMode | undefined } = {},
): VlfsSpec {
  const { privateDir, whiteoutsDir } = applianceDirs(context.paths, row.name);
  const stack = applianceStack(context, row);
  return {
    name: row.name,
    privateDir,
    whiteoutsDir,
    stack,
    unitsStamp: context.repositories.unitsStamp(),
    readOnly,
    denialsFile: denialsFile(context.paths, row.name),
    ...(cache === undefined ? {} : { cache }),
  };
}

interface Move {
  row: CatalogRow;
  from: GenerationRecord | null;
  to: GenerationRecord;
}

/** Lets the appliances of a template that have no layers of their own follow it from generation `from`. Returns how many did. */
export async function followTemplate(context: FleetContext, template: string, from: number): Promise<number> {
  const { record } = templateState(context, template).definition;
  const before = readIfThere(context, template, from);
  const rows = context.catalog.ofTemplate(template).filter((row) => !context.ownDefinitions.has(row.name));
  await followAll(
    context,
    rows.map((row) => ({ row, from: before, to: record })),
  );
  return rows.length;
}

/** Lets one appliance with layers of its own follow its own new generation. */
export async function followOwn(
  context: FleetContext,
  row: CatalogRow,
  from: GenerationRecord | null,
): Promise<void> {
  const definition = context.ownDefinitions.get(row.name);
  if (definition) await followAll(context, [{ row, from, to: definition.record }]);
}

function readIfThere(context: FleetContext, template: string, generation: number): GenerationRecord | null {
  try {
    return readGeneration(context.paths, template, generation);
  } catch (error) {
    if (error instanceof StrataError && error.code === 'NOT_FOUND') return null;
    throw error;
  }
}

async function followAll(context: FleetContext, moves: Move[]): Promise<void> {
  if (moves.length === 0) return;
  // They take the new stack at their next mount.
  const silent = await silentAppliances(
    context.paths,
    moves.map(({ row }) => row.name),
  );
  const plane = await context.runningDataPlane();
  const mounted = plane ? await mountedStacks(plane) : new Map<string, string>();
  const sealed = new Set(sealedMounts(context.paths).map(({ name }) => name));
  const stacks = new Map<GenerationRecord, StackSpec>();
  const databases = new Map<GenerationRecord, ReturnType<typeof databaseChanges>>();
  const relayers: { id: string; stack: StackSpec; privateFiles?: PrivateFile[] }[] = [];
  for (const { row, from, to } of moves) {
    if (sealed.has(row.name) || silent.has(row.name)) continue;
    if (hasSealedRecord(context, row.name)) {
      settleWhenUnused(context, row.name, to);
      continue;
    }
    const layers = stacks.get(to) ?? stackOf(context.paths, context.repositories, to);
    stacks.set(to, layers);
    const stack = policedStack(context.paths, row.name, withFrozen(context.paths, layers, row.frozen));
    const changes = databases.get(to) ?? (from ? databaseChanges(context.paths, from, to) : []);
    databases.set(to, changes);
    const { privateDir, whiteoutsDir } = applianceDirs(context.paths, row.name);
    const trees = [privateDir, ...row.frozen.map((id) => join(frozenDir(context.paths, id), 'private'))];
    const privateFiles = changes.length > 0 ? mergedDatabases(trees, changes) : [];
    const key = mounted.get(row.name);
    if (key !== undefined) {
      if (key === stack.key && privateFiles.length === 0) continue;
      relayers.push({ id: row.name, stack, ...(privateFiles.length > 0 ? { privateFiles } : {}) });
      continue;
    }
    if (row.frozen.length > 0 || namesIn(whiteoutsDir).length > 0)
      await pruneAside({ name: row.name, privateDir, whiteoutsDir, stack, readOnly: false });
    if (privateFiles.length > 0) writePrivateFiles(privateDir, privateFiles);
  }
  context.onStep('followed-unmounted');
  if (plane && relayers.length > 0) await plane.relayer(relayers);
  context.onStep('followed');
}

/** An appliance whose sealed mount is gone comes to the new generation by that; one whose mount is not in sight, later. */
function settleWhenUnused(context: FleetContext, name: string, to: GenerationRecord): void {
  try {
    settleSealed(context, name, to);
  } catch (error) {
    if (!(error instanceof StrataError) || error.code !== 'BUSY') throw error;
  }
}

/** Appliances that are mounted, with the key of the stack they show. */
export async function mountedStacks(plane: DataPlane): Promise<Map<string, string>> {
  const { mounts } = await plane.status();
  return new Map(mounts.map((mount) => [mount.id, mount.stackKey]));
}

/** Relayers every mount that shows another stack than the files say (after a crash of either process). */
export async function reconcileMounts(context: FleetContext): Promise<void> {
  const plane = await context.runningDataPlane();
  if (!plane) return;
  const relayers: { id: string; stack: StackSpec }[] = [];
  const { mounts, pid } = await plane.status();
  for (const [id, key] of new Map(mounts.map((mount) => [mount.id, mount.stackKey]))) {
    const row = context.catalog.get(id);
    if (row === null) continue;
    const stack = applianceStack(context, row);
    if (stack.key !== key) relayers.push({ id, stack });
  }
  if (relayers.length > 0) await plane.relayer(relayers);
  reconciled.set(context, pid);
}

/** Whose mounts all showed what the files say: a strata-fs that goes on in its place may not have heard of all. */
const reconciled = new WeakMap<FleetContext, number>();

/** The same for one appliance, when strata-fs is the one that was asked for all: the cost does not grow with what else is mounted. */
export async function reconcileMount(
  context: FleetContext,
  name: string,
  found: FoundMounts | null,
): Promise<void> {
  if (found === null) return;
  if (reconciled.get(context) !== found.pid) return reconcileMounts(context);
  const shown = found.mounts.find(({ id }) => id === name);
  const row = context.catalog.get(name);
  if (shown === undefined || row === null) return;
  const stack = applianceStack(context, row);
  if (stack.key !== shown.stackKey) await (await context.dataPlane()).relayer([{ id: name, stack }]);
}
