/**
 * What appliances take: exclusive is what deleting one gives back, shared is what it has together with others (frozen layers of clones and snapshots, imports), and with
 * whom. What never changes is counted once, until layers come or go; the appliance's own directory each time. Layers of templates belong to nobody.
 */
import { join } from 'node:path';
import { freedBytes, type Space, spaceAside, takenBytes } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { frozenDir } from '../clone/frozen.ts';
import type { FleetContext } from '../context.ts';
import type { SpaceInfo } from '../contract.ts';
import { baseDir, baseOf } from '../import/base.ts';
import { namesIn } from '../state/files.ts';

/** Names of appliances that are told for a layer. */
const NAMED = 100;

interface Known {
  /** Which layers there were: links between them count. */
  there: string;
  spaces: Map<string, Promise<Space>>;
}

const known = new WeakMap<FleetContext, Known>();

/** What is known of layers, which never change. */
function knownSpaces(context: FleetContext): Known['spaces'] {
  const { frozen, imports } = context.paths;
  const there = [...namesIn(frozen), ...namesIn(imports)].sort().join();
  let cache = known.get(context);
  if (cache?.there !== there) {
    cache = { there, spaces: new Map() };
    known.set(context, cache);
  }
  return cache.spaces;
}

function spaceOfLayer(spaces: Known['spaces'], dir: string): Promise<Space> {
  let space = spaces.get(dir);
  if (space === undefined) {
    space = spaceAside(dir);
    spaces.set(dir, space);
    space.catch(() => spaces.delete(dir));
  }
  return space;
}

/** Who has each shared layer, by its directory. */
export function holdersOf(context: FleetContext): Map<string, string[]> {
  const holders = new Map<string, string[]>();
  for (const row of context.catalog.all()) {
    for (const dir of layersOf(context, row)) {
      const list = holders.get(dir);
      if (list === undefined) holders.set(dir, [row.name]);
      else list.push(row.name);
    }
  }
  return holders;
}

/** Directories of the layers that an appliance may share. */
function layersOf(context: FleetContext, row: CatalogRow): Set<string> {
  const ids = [...row.frozen, ...row.family.snapshots.flatMap(({ frozen }) => frozen)];
  const dirs = new Set(ids.map((id) => frozenDir(context.paths, id)));
  let base: string | null = null;
  try {
    base = baseOf(context.paths, row.name);
  } catch {
    // fsck tells.
  }
  if (base !== null) dirs.add(baseDir(context.paths, base));
  return dirs;
}

export async function spaceOfAppliance(
  context: FleetContext,
  row: CatalogRow,
  holders: ReadonlyMap<string, readonly string[]>,
): Promise<SpaceInfo> {
  const own: Space[] = [await spaceAside(join(context.paths.appliances, row.name))];
  const all = [...own];
  const shared: SpaceInfo['shared_with'] = [];
  const spaces = knownSpaces(context);
  for (const dir of layersOf(context, row)) {
    const space = await spaceOfLayer(spaces, dir);
    all.push(space);
    const others = (holders.get(dir) ?? []).filter((name) => name !== row.name);
    if (others.length === 0) own.push(space);
    else {
      const layer = dir.slice(context.paths.root.length + 1);
      shared.push({ layer, bytes: space.bytes, count: others.length, appliances: others.slice(0, NAMED) });
    }
  }
  const exclusive = freedBytes(own);
  return { exclusive_bytes: exclusive, shared_bytes: takenBytes(all) - exclusive, shared_with: shared };
}
