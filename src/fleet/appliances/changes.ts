/** What an appliance changed, and taking it back: diff, revert, reset; and why a path or a layer is there. */
import { parseUnitId, StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import type { SolvedUnit } from '../../resolver/contract.ts';
import type { Differences, VlfsSpec } from '../../vlfs/contract.ts';
import { diffAside, diffPairAside, ownerAside, resetAside, revertAside } from '../../vlfs/index.ts';
import { setFrozenList } from '../clone/frozen-list.ts';
import { type FleetContext, unitsInUse } from '../context.ts';
import type { WhyResult } from '../contract.ts';
import { viewSpec } from '../family/places.ts';
import { snapshotOf, splitPlace } from '../family/record.ts';
import { refuseLingering } from '../mounts/mount-list.ts';
import { hasSealedRecord, sealedGeneration, sealedRecord } from '../sealed/records.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { syncFileSystemAside } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { layerNames, refExplicitLayers } from '../templates/definitions.ts';
import { applianceDefinition, stackOfAppliance, vlfsSpec } from '../templates/follow.ts';
import { explicitLayers, ldfRefs } from '../templates/ldf.ts';
import { applianceLock, applianceRow } from './appliances.ts';
import type { CatalogRow } from './catalog.ts';
import { applianceDirs } from './private-files.ts';

export async function diffAppliance(
  context: FleetContext,
  options: { name: string; other?: string; path?: string },
): Promise<Differences> {
  const path = options.path ?? '/';
  const { snapshot } = splitPlace(options.name);
  if (options.other !== undefined || snapshot !== null) {
    // A snapshot alone is compared with what its appliance is now.
    const other = options.other ?? splitPlace(options.name).name;
    const specs = [await placeSpec(context, options.name), await placeSpec(context, other)] as const;
    return diffPairAside(...specs, path);
  }
  const spec = await shownSpec(context, applianceRow(context, options.name));
  const found = await diffAside(spec, path);
  if (found.entries.length === 0) await refuseUnknown(spec, [path]);
  return found;
}

/** What an appliance, or a snapshot of one, shows. */
async function placeSpec(context: FleetContext, place: string): Promise<VlfsSpec> {
  const { name, snapshot } = splitPlace(place);
  const row = applianceRow(context, name);
  if (snapshot === null) return shownSpec(context, row);
  return viewSpec(context, row, snapshotOf(row, snapshot).frozen);
}

/** Throws NOT_FOUND for a path that neither the appliance nor a layer of it has: a slip of the hand. */
async function refuseUnknown(spec: VlfsSpec, paths: string[]): Promise<void> {
  for (const path of paths) {
    const { unit, private: isPrivate } = await ownerAside(spec, path);
    if (unit !== null || isPrivate) continue;
    throw new StrataError('NOT_FOUND', `appliance ${spec.name} has no ${path}, and no layer of it either`, {
      hint: 'links are not followed: /bin/sh is /usr/bin/sh',
    });
  }
}

/** What the appliance shows now: a sealed mount keeps its stack; when one has ended, what it left is settled first. */
async function shownSpec(context: FleetContext, row: CatalogRow): Promise<VlfsSpec> {
  const { name } = row;
  if (!hasSealedRecord(context, name)) return vlfsSpec(context, row);
  return context.locks.with([applianceLock(name), COMMIT], async () => {
    try {
      settleSealed(context, name, applianceDefinition(context, row).record);
    } catch (error) {
      if (!(error instanceof StrataError)) throw error;
    }
    const record = sealedRecord(context, name);
    const shown = record === null ? null : sealedGeneration(context, record);
    const spec = vlfsSpec(context, row);
    return shown === null ? spec : { ...spec, stack: stackOfAppliance(context, name, shown) };
  });
}

/** Runs one of two ways to change an appliance's private layer: through the data plane when it is mounted, on the files when not. */
async function changePrivate<T>(
  context: FleetContext,
  name: string,
  ways: {
    /** Throws before anything is changed. */
    check?: (row: CatalogRow) => Promise<void>;
    mounted: (plane: Awaited<ReturnType<FleetContext['dataPlane']>>) => Promise<T>;
    offline: (row: CatalogRow) => Promise<T>;
    after?: (row: CatalogRow, plane: DataPlane | null) => Promise<void>;
  },
): Promise<T> {
  await refuseLingering(context, [name]);
  return context.locks.with([applianceLock(name), COMMIT], async () => {
    const row = applianceRow(context, name);
    refuseSealed(context, name);
    settleSealed(context, name, applianceDefinition(context, row).record);
    await ways.check?.(row);
    const plane = await context.runningDataPlane();
    const isMounted = plane !== null && (await plane.status()).mounts.some((mount) => mount.id === name);
    const result = isMounted ? await ways.mounted(plane) : await ways.offline(row);
    await ways.after?.(row, isMounted ? plane : null);
    // What the command has answered survives a power loss, also where a serving thread did not wait for the disk.
    await syncFileSystemAside(applianceDirs(context.paths, name).dir);
    return result;
  });
}

function absolute(path: string): string {
  if (path.split('/').includes('..')) throw new StrataError('USAGE', `${path} leads out of itself`);
  return path.startsWith('/') ? path : `/${path}`;
}

export function revertPaths(
  context: FleetContext,
  options: { name: string; paths: string[] },
): Promise<{ reverted: string[] }> {
  const paths = options.paths.map(absolute);
  if (paths.length === 0) throw new StrataError('USAGE', 'no path to revert');
  return changePrivate(context, options.name, {
    mounted: async (plane) => ({ reverted: await plane.revert(options.name, paths) }),
    offline: async (row) => ({ reverted: await revertAside(vlfsSpec(context, row), paths) }),
  });
}

export function resetAppliance(
  context: FleetContext,
  options: { name: string; keep: string[] },
): Promise<{ name: string; kept: string[] }> {
  const keep = options.keep.map(absolute);
  return changePrivate(context, options.name, {
    // Without the path that was meant, its data would be lost.
    check: (row) => refuseUnknown(vlfsSpec(context, row), keep),
    mounted: async (plane) => {
      await plane.reset(options.name, keep);
      return { name: options.name, kept: keep };
    },
    offline: async (row) => {
      await resetAside(vlfsSpec(context, row), keep);
      return { name: options.name, kept: keep };
    },
    // Nothing of them shows any more.
    after: async (row, plane) => {
      if (keep.length === 0 && row.frozen.length > 0) await setFrozenList(context, row, [], { plane });
    },
  });
}

export async function explainWhy(
  context: FleetContext,
  options: { name: string; what: string },
): Promise<WhyResult> {
  const row = applianceRow(context, options.name);
  return options.what.startsWith('/')
    ? whyPath(context, row, absolute(options.what))
    : whyLayer(context, row, options.what);
}

async function whyPath(context: FleetContext, row: CatalogRow, path: string): Promise<WhyResult> {
  const spec = await shownSpec(context, row);
  const moved = /^\/(bin|sbin|lib|lib32|lib64|libx32)\//.test(path) ? `/usr${path}` : path;
  let owner = await ownerAside(spec, path);
  if (owner.unit === null && !owner.private && moved !== path) owner = await ownerAside(spec, moved);
  if (owner.unit === null && !owner.private) {
    throw new StrataError('NOT_FOUND', `appliance ${row.name} has no ${path}, and no layer of it either`);
  }
  const unit = owner.unit !== null && parseUnitId(owner.unit) ? owner.unit : null;
  const chain: string[] = [];
  if (owner.private) chain.push(`${path} is private to appliance ${row.name}`);
  if (unit !== null) {
    chain.push(`${path} ${owner.private ? 'hides the one that comes from' : 'comes from'} ${unit}`);
    chain.push(...(await layerChain(context, row, parseUnitId(unit)!.layer)));
  } else if (owner.unit?.startsWith('policy/')) {
    chain.push(`${path} ${owner.private ? 'hides what' : 'is what'} the appliance's policy puts there`);
  } else if (owner.unit !== null) {
    const from = owner.unit.replace(/^config\/@/, 'appliance ').replace(/^config\//, 'template ');
    chain.push(`${path} ${owner.private ? 'hides the one of' : 'comes from'} the config layer of ${from}`);
  }
  return { path, unit, private: owner.private, chain };
}

async function whyLayer(context: FleetContext, row: CatalogRow, what: string): Promise<WhyResult> {
  const layer = what.slice(what.indexOf('/') + 1).split(/[\s=]/)[0]!;
  const { record } = applianceDefinition(context, row);
  const unit = record.units.find((id) => parseUnitId(id)!.layer === layer);
  if (unit === undefined) {
    throw new StrataError('NOT_FOUND', `appliance ${row.name} has no layer ${layer}`, {
      hint: `strata template show ${row.template} lists the layers; a path begins with /`,
    });
  }
  return { layer, unit, private: false, chain: await layerChain(context, row, layer) };
}

/** The chain of relations from an explicit layer to this one, as lines for people. */
async function layerChain(context: FleetContext, row: CatalogRow, layer: string): Promise<string[]> {
  const definition = applianceDefinition(context, row);
  const { universe } = await context.repositories.world(unitsInUse(context));
  const explicit = layerNames([
    ...explicitLayers(definition.ldf),
    ...refExplicitLayers(context, ldfRefs(definition.ldf)),
  ]);
  const solution: SolvedUnit[] = [];
  for (const id of definition.record.units) {
    const { repo, layer: name, version } = parseUnitId(id)!;
    const unit = universe.versions(name, repo).find((one) => one.version === version);
    if (unit) solution.push({ unit, explicit: explicit.has(name), reason: null });
  }
  return universe.why(solution, layer);
}
