/**
 * The repositories of one state root and the world they make together: every offered unit, indexed once for each state of the
 * repositories (their stamps) and kept in memory. Units that stacks use but no repository offers any more stay in the world, so that
 * what exists can always be resolved again.
 */
import { randomBytes } from 'node:crypto';
import { type Progress, parseUnitId, StrataError, type UnitId } from '../base/index.ts';
import type { LayerUnit } from '../layer/contract.ts';
import { listRepositories, openRepository, type Repository } from '../repository/index.ts';
import { joinUniverse, type OfferedUnit, type Universe } from '../resolver/index.ts';
import { pinUnits } from './gc/pins.ts';

/** Layers import with /bin, /sbin and /lib* below /usr, so the package that merges a tree (and brings perl for it) is not needed. */
const PREFERRED: ReadonlySet<string> = new Set(['usr-is-merged']);

/** Rest after a change before the world is built again. */
const WARM_MS = 30;

export interface World {
  /** Changes whenever what is offered changes. */
  key: string;
  universe: Universe;
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
  /** Units at these directories are gone from the disk. */
  forget(dirs: ReadonlySet<string>): void;
  /** Changes whenever units on the disk may have changed or gone (VlfsSpec.unitsStamp). */
  unitsStamp(): string;
  /** Builds the world in a moment of rest, so that the next command finds it; many calls in a row build it once. */
  warm(inUse: () => Iterable<UnitId>, restMs?: number): void;
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
  const idsOfList = new WeakMap<OfferedUnit[], Set<string>>();
  let warming: NodeJS.Timeout | null = null;
  const units = new Map<UnitId, LayerUnit>();
  const life = randomBytes(6).toString('hex');
  let changes = 0;

  function reload(): void {
    const next = new Map<string, Repository>();
    for (const config of listRepositories(root)) {
      const before = open.get(config.name);
      const same = before !== undefined && JSON.stringify(before.config) === JSON.stringify(config);
      next.set(config.name, same ? before : openRepository(root, config));
    }
    open = next;
    units.clear();
    changes++;
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

  /** Ids of a repository's units, made once for each list that it gives. */
  function isOffered(id: UnitId, repo: string, offered: Map<string, OfferedUnit[]>): boolean {
    const list = offered.get(repo)!;
    const known = idsOfList.get(list);
    const ids = known ?? new Set(list.map((unit) => `${unit.layer} ${unit.version}`));
    if (!known) idsOfList.set(list, ids);
    return ids.has(id.slice(repo.length + 1));
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
    const universe = joinUniverse([...offered.values(), strays], { preferredLayers: PREFERRED });
    return { key, universe };
  }

  async function world(inUse: Iterable<UnitId>): Promise<World> {
    const repositories = [...open.values()].sort((a, b) => (a.config.name < b.config.name ? -1 : 1));
    const offered = new Map<string, OfferedUnit[]>();
    const stamps: string[] = [];
    for (const repository of repositories) {
      // In this order: a unit that appears in between must not be missing from a world that has its stamp.
      stamps.push(`${repository.config.name} ${await repository.stamp()}`);
      offered.set(repository.config.name, await repository.offered());
    }
    const base = stamps.join('\n');
    const strays = straysOf(inUse, (id, repo) => isOffered(id, repo, offered), offered, local);
    const key = `${base}\n${strays.map((unit) => `${unit.repo}/${unit.layer} ${unit.version}`).join('\n')}`;
    if (cached?.key === key) return cached;
    if (building?.key !== key) building = { key, world: build(key, offered, strays) };
    cached = await building.world;
    return cached;
  }

  return {
    names: () => [...open.keys()].sort(),
    get,
    all: () => [...open.values()],
    reload,
    invalidate() {
      cached = null;
      building = null;
      units.clear();
      changes++;
    },
    forget(dirs) {
      for (const [id, unit] of units) if (dirs.has(unit.dir)) units.delete(id);
      changes++;
    },
    unitsStamp: () => `${life} ${changes}`,
    warm(inUse, restMs = WARM_MS) {
      if (warming !== null) clearTimeout(warming);
      warming = setTimeout(() => {
        warming = null;
        // A failure shows itself to the command that needs the world.
        world(inUse()).catch(() => {});
      }, restMs);
      warming.unref();
    },
    world,
    local,
    unitDir(id) {
      const unit = local(id);
      if (unit) return unit.dir;
      throw new StrataError('NOT_FOUND', `layer unit ${id} is not on this host any more`, {
        hint: 'strata update fetches what is missing',
      });
    },
    async ensure(ids, progress) {
      pinUnits(ids);
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

/** Units in use that no repository offers, as the units on disk describe themselves; sorted. */
function straysOf(
  inUse: Iterable<UnitId>,
  isOffered: (id: UnitId, repo: string) => boolean,
  offered: Map<string, OfferedUnit[]>,
  local: (id: UnitId) => LayerUnit | null,
): OfferedUnit[] {
  const strays: OfferedUnit[] = [];
  for (const id of [...new Set(inUse)].sort()) {
    const { repo } = parseUnitId(id)!;
    if (!offered.has(repo) || isOffered(id, repo)) continue;
    const unit = local(id);
    if (unit !== null) strays.push({ ...unit.metadata, repo });
  }
  return strays;
}
