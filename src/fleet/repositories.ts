/**
 * The repositories of one state root and the world they make together: every offered unit, indexed once for each state of the
 * repositories (their stamps) and kept in memory. Units that stacks use but no repository offers any more stay in the world, so that
 * what exists can always be resolved again.
 */
import { type Progress, parseUnitId, StrataError, type UnitId, unitId } from '../base/index.ts';
import type { LayerUnit } from '../layer/contract.ts';
import { listRepositories, openRepository, type Repository } from '../repository/index.ts';
import { buildUniverse, type OfferedUnit, type Universe } from '../resolver/index.ts';

export interface World {
  /** Changes whenever what is offered changes. */
  key: string;
  universe: Universe;
  offered: Map<string, OfferedUnit[]>;
}

export interface Repositories {
  names(): string[];
  /** Throws NOT_FOUND. */
  get(name: string): Repository;
  all(): Repository[];
  /** Reads repos/ again after repoAdd or repoRemove. */
  reload(): void;
  /** Forgets the world (after a change whose stamp could be too coarse to show it). */
  invalidate(): void;
  world(inUse: Iterable<UnitId>): Promise<World>;
  /** The unit on disk, or null. */
  local(id: UnitId): LayerUnit | null;
  /** Directory of a unit on disk; throws NOT_FOUND when it is not there. */
  unitDir(id: UnitId): string;
  /** Fetches what is missing. Result in the order of ids. */
  ensure(ids: UnitId[], progress: Progress): Promise<LayerUnit[]>;
}

export function openRepositories(root: string): Repositories {
  let open = new Map<string, Repository>();
  let cached: World | null = null;
  let building: { key: string; world: Promise<World> } | null = null;
  let index: { base: string; ids: Set<UnitId> } | null = null;
  const units = new Map<UnitId, LayerUnit>();

  function reload(): void {
    const next = new Map<string, Repository>();
    for (const config of listRepositories(root)) {
      const before = open.get(config.name);
      const same = before !== undefined && JSON.stringify(before.config) === JSON.stringify(config);
      next.set(config.name, same ? before : openRepository(root, config));
    }
    open = next;
    units.clear();
  }
  reload();

  function get(name: string): Repository {
    const repository = open.get(name);
    if (repository) return repository;
    const known = [...open.keys()].join(', ');
    throw new StrataError('NOT_FOUND', `there is no repository ${name}`, {
      hint: known === '' ? 'add one with: strata repo add NAME SOURCE' : `repositories here: ${known}`,
    });
  }

  function parts(id: UnitId): { repo: string; layer: string; version: string } {
    const unit = parseUnitId(id);
    if (unit === null) throw new StrataError('BAD_FORMAT', `${JSON.stringify(id)} is not a unit`);
    return unit;
  }

  function local(id: UnitId): LayerUnit | null {
    const known = units.get(id);
    if (known) return known;
    const { repo, layer, version } = parts(id);
    const unit = open.get(repo)?.local({ layer, version }) ?? null;
    if (unit !== null) units.set(id, unit);
    return unit;
  }

  async function build(
    key: string,
    offered: Map<string, OfferedUnit[]>,
    strays: OfferedUnit[],
  ): Promise<World> {
    const all: OfferedUnit[] = [];
    for (const list of offered.values()) for (const unit of list) all.push(unit);
    for (const unit of strays) all.push(unit);
    return { key, universe: buildUniverse(all), offered };
  }

  return {
    names: () => [...open.keys()].sort(),
    get,
    all: () => [...open.values()],
    reload,
    invalidate() {
      cached = null;
      building = null;
      index = null;
      units.clear();
    },
    async world(inUse) {
      const repositories = [...open.values()].sort((a, b) => (a.config.name < b.config.name ? -1 : 1));
      const offered = new Map<string, OfferedUnit[]>();
      const stamps: string[] = [];
      for (const repository of repositories) {
        offered.set(repository.config.name, await repository.offered());
        stamps.push(`${repository.config.name} ${await repository.stamp()}`);
      }
      const base = stamps.join('\n');
      if (index?.base !== base) index = { base, ids: idsOf(offered) };
      const strays = straysOf(inUse, index.ids, offered, local);
      const key = `${base}\n${strays.map((unit) => `${unit.repo}/${unit.layer} ${unit.version}`).join('\n')}`;
      if (cached?.key === key) return cached;
      if (building?.key !== key) building = { key, world: build(key, offered, strays) };
      cached = await building.world;
      return cached;
    },
    local,
    unitDir(id) {
      const unit = local(id);
      if (unit) return unit.dir;
      throw new StrataError('NOT_FOUND', `layer unit ${id} is not on this host any more`, {
        hint: 'strata update fetches what is missing',
      });
    },
    async ensure(ids, progress) {
      const missing = new Map<string, { layer: string; version: string }[]>();
      for (const id of ids) {
        if (local(id)) continue;
        const { repo, layer, version } = parts(id);
        missing.set(repo, [...(missing.get(repo) ?? []), { layer, version }]);
      }
      await Promise.all([...missing].map(([repo, refs]) => get(repo).ensure(refs, progress)));
      return ids.map((id) => {
        const unit = local(id);
        if (unit === null) throw new StrataError('NOT_FOUND', `layer unit ${id} is not to be had`);
        return unit;
      });
    },
  };
}

function idsOf(offered: Map<string, OfferedUnit[]>): Set<UnitId> {
  const ids = new Set<UnitId>();
  for (const [repo, list] of offered)
    for (const unit of list) ids.add(unitId(repo, unit.layer, unit.version));
  return ids;
}

/** Units in use that no repository offers, as the units on disk describe themselves; sorted. */
function straysOf(
  inUse: Iterable<UnitId>,
  offeredIds: Set<UnitId>,
  offered: Map<string, OfferedUnit[]>,
  local: (id: UnitId) => LayerUnit | null,
): OfferedUnit[] {
  const strays: OfferedUnit[] = [];
  for (const id of [...new Set(inUse)].sort()) {
    const { repo } = parseUnitId(id)!;
    if (offeredIds.has(id) || !offered.has(repo)) continue;
    const unit = local(id);
    if (unit !== null) strays.push({ ...unit.metadata, repo });
  }
  return strays;
}
