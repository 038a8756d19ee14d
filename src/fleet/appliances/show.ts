/** What is told of appliances: the list of all, and all about one. */
import { join } from 'node:path';
import { usageAside } from '../../vlfs/index.ts';
import { frozenDir } from '../clone/frozen.ts';
import { mergeState } from '../clone/merge.ts';
import type { FleetContext } from '../context.ts';
import type { ApplianceInfo } from '../contract.ts';
import { parentOf } from '../family/record.ts';
import { mountpoints } from '../mounts/mount-list.ts';
import { behindSealed } from '../sealed/settle.ts';
import { holdersOf, spaceOfAppliance } from '../space/sizes.ts';
import { readTextIfThere } from '../state/files.ts';
import { applianceDefinition } from '../templates/follow.ts';
import { applianceRow } from './appliances.ts';
import type { CatalogRow } from './catalog.ts';
import { applianceDirs } from './private-files.ts';

function infoOf(context: FleetContext, row: CatalogRow, mounts: Map<string, string[]>): ApplianceInfo {
  const template = context.templates.get(row.template);
  const own = context.ownDefinitions.get(row.name);
  return {
    name: row.name,
    mac: row.mac,
    template: row.template,
    mounts: mounts.get(row.name) ?? [],
    generation: template?.definition.record.generation ?? 0,
    ...(own ? { generation: own.record.refs[0]?.generation ?? own.record.generation } : {}),
    held_back: row.heldBack ?? template?.heldBack ?? null,
    ...(row.family.expires === null ? {} : { expires: row.family.expires }),
  };
}

/** As `mountpoints`; without them when strata-fs does not answer: a list is for that moment too. */
async function mountpointsIfKnown(context: FleetContext): Promise<Map<string, string[]>> {
  try {
    return await mountpoints(context);
  } catch {
    return new Map();
  }
}

export async function listAppliances(
  context: FleetContext,
  { sizes = false } = {},
): Promise<{ appliances: ApplianceInfo[] }> {
  const mounts = await mountpointsIfKnown(context);
  const behind = waitingSealed(context);
  const all = context.catalog.all().map((row) => infoOf(context, row, mounts));
  for (const info of all) info.held_back ??= behind.get(info.name) ?? null;
  if (sizes) await addSizes(context, all);
  return { appliances: all };
}

/** Appliances that are counted at a time. */
const COUNTED = 8;

async function addSizes(context: FleetContext, all: ApplianceInfo[]): Promise<void> {
  const holders = holdersOf(context);
  for (let at = 0; at < all.length; at += COUNTED) {
    const some = all.slice(at, at + COUNTED).map(async (info) => {
      const row = context.catalog.get(info.name);
      if (row === null) return;
      const { exclusive_bytes, shared_bytes } = await spaceOfAppliance(context, row, holders);
      Object.assign(info, { exclusive_bytes, shared_bytes });
    });
    await Promise.all(some);
  }
}

function waitingSealed(context: FleetContext): Map<string, string> {
  return behindSealed(context, (name) => {
    const row = context.catalog.get(name);
    return row === null ? null : applianceDefinition(context, row).record;
  });
}

export async function showAppliance(context: FleetContext, name: string): Promise<ApplianceInfo> {
  const row = applianceRow(context, name);
  const { dir } = applianceDirs(context.paths, name);
  const info = infoOf(context, row, await mountpointsIfKnown(context));
  return {
    ...info,
    held_back: info.held_back ?? waitingSealed(context).get(name) ?? null,
    private_bytes: await ownBytes(context, row),
    ...(await spaceOfAppliance(context, row, holdersOf(context))),
    layers: applianceDefinition(context, row).record.units.length,
    ...(row.frozen.length > 0 ? { frozen_layers: row.frozen.length } : {}),
    ...(row.family.snapshots.length > 0 ? { snapshots: row.family.snapshots.length } : {}),
    created_at: row.family.createdAt,
    parent: parentOf(row, (parent) => context.catalog.get(parent))?.name ?? null,
    ...mergingOf(context, name),
    ldf: readTextIfThere(join(dir, 'ldf')) ?? '',
    root: dir,
  };
}

function mergingOf(context: FleetContext, name: string): Pick<ApplianceInfo, 'merging'> {
  const state = mergeState(context, name);
  return state === undefined ? {} : { merging: state ?? { done: 0, total: 0 } };
}

/** Bytes of the private layer and of frozen ones. */
async function ownBytes(context: FleetContext, row: CatalogRow): Promise<number> {
  const { privateDir } = applianceDirs(context.paths, row.name);
  let bytes = 0;
  for (const dir of [privateDir, ...row.frozen.map((id) => join(frozenDir(context.paths, id), 'private'))])
    bytes += (await usageAside(dir)).bytes;
  return bytes;
}
