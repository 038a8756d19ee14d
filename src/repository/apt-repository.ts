/**
 * Kind apt: an on-demand mirror of the host's own apt sources. Everything the lists offer is offered; only what `ensure` names is fetched, verified
 * and converted, once, and kept in repos/NAME. Keeps true: a unit directory is whole or absent; concurrent calls for one unit share the work.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { noProgress, type Progress, StrataError } from '../base/index.ts';
import {
  cleanRepoDir,
  findUnit,
  type LayerUnit,
  listUnits,
  makeDurable,
  removeUnit,
} from '../layer/index.ts';
import type { OfferedUnit } from '../resolver/contract.ts';
import { packageUri } from './apt-commands.ts';
import { type FetchJob, fetchUnits } from './apt-fetch.ts';
import { type AptIndex, cachedAptIndex, downloadsOf, readAptIndex } from './apt-index.ts';
import { countChanges } from './changes.ts';
import { repositoryDir } from './config.ts';
import type { Repository, RepositoryConfig, UnitRef } from './contract.ts';
import { layerFilter } from './glob.ts';

/** Units being fetched by this process, by directory and unit: every caller joins. */
const inFlight = new Map<string, Promise<LayerUnit>>();

/** Opens a repository of kind apt. Reads nothing yet. */
export function openAptRepository(root: string, config: RepositoryConfig): Repository {
  const dir = repositoryDir(root, config.name);
  const filter = layerFilter(config.allow, config.deny);
  let index: AptIndex | null = null;
  let filtered: { of: AptIndex; units: OfferedUnit[] } | null = null;
  let reading: Promise<AptIndex> | null = null;
  let isClean = false;

  const keyOf = (ref: UnitRef): string => join(dir, `${ref.layer} ${ref.version}`);

  /** Concurrent readings join. */
  function read(progress: Progress): Promise<AptIndex> {
    reading ??= readAptIndex(dir, config, progress).finally(() => {
      reading = null;
    });
    return reading;
  }

  async function current(progress: Progress = noProgress): Promise<AptIndex> {
    index = cachedAptIndex(dir, index) ?? (await read(progress));
    return index;
  }

  function offeredOf(of: AptIndex): OfferedUnit[] {
    if (filtered?.of !== of)
      filtered = { of, units: filter === null ? of.units : of.units.filter((u) => filter(u.layer)) };
    return filtered.units;
  }

  function local(ref: UnitRef): LayerUnit | null {
    return findUnit(dir, ref.layer, ref.version);
  }

  /** The downloads of units that are not here. Throws DENIED or NOT_FOUND before anything is fetched. */
  async function jobsOf(refs: readonly UnitRef[], progress: Progress): Promise<FetchJob[]> {
    let of = await current(progress);
    let downloads = downloadsOf(dir, of);
    if (downloads === null) {
      of = await read(progress);
      index = of;
      downloads = downloadsOf(dir, of);
      if (downloads === null)
        throw new StrataError('IO', `the cache of repository ${config.name} cannot be read`);
    }
    const places = new Map<string, number>();
    const wanted = new Set(refs.map((r) => r.layer));
    for (const [i, unit] of of.units.entries())
      if (wanted.has(unit.layer)) places.set(`${unit.layer} ${unit.version}`, i);
    return refs.map((ref) => {
      const what = `${config.name}/${ref.layer} ${ref.version}`;
      if (filter !== null && !filter(ref.layer)) {
        throw new StrataError(
          'DENIED',
          `${what} is not allowed by the filters of repository ${config.name}`,
          {
            hint: `its filters are: ${filterText(config)}`,
          },
        );
      }
      const record = downloads.records[places.get(`${ref.layer} ${ref.version}`) ?? -1];
      const m = /^(\d+) (\d+) ([0-9a-f]{64}) (.+)$/.exec(record ?? '');
      if (m === null) {
        throw new StrataError('NOT_FOUND', `${what} is offered no more`, {
          hint: `run apt-get update, then strata repo sync ${config.name}; strata update moves to what is offered now`,
        });
      }
      return {
        ref,
        uri: packageUri(downloads.bases[Number(m[1])] ?? '', m[4]!),
        sha256: m[3]!,
        sizeBytes: Number(m[2]),
      };
    });
  }

  /** Fetches units that nobody fetches yet; each is in `inFlight` meanwhile. */
  async function fetchMissing(refs: readonly UnitRef[], progress: Progress): Promise<void> {
    const done = new Map<string, { resolve: (unit: LayerUnit) => void; reject: (error: unknown) => void }>();
    for (const ref of refs) {
      const key = keyOf(ref);
      const promise = new Promise<LayerUnit>((resolve, reject) => done.set(key, { resolve, reject }));
      promise.catch(() => {});
      inFlight.set(key, promise);
    }
    const settle = (
      ref: UnitRef,
      how: (d: { resolve: (u: LayerUnit) => void; reject: (e: unknown) => void }) => void,
    ) => {
      const key = keyOf(ref);
      const waiting = done.get(key);
      if (waiting === undefined) return;
      done.delete(key);
      inFlight.delete(key);
      how(waiting);
    };
    try {
      if (!isClean) await cleanRepoDir(dir);
      isClean = true;
      await fetchUnits(await jobsOf(refs, progress), {
        unitsDir: dir,
        repoName: config.name,
        progress,
        onUnit: (ref, unit) => settle(ref, (d) => d.resolve(unit)),
      });
    } catch (error) {
      for (const ref of refs) settle(ref, (d) => d.reject(error));
      throw error;
    }
  }

  return {
    config,
    unitsDir: dir,
    offered: async () => offeredOf(await current()),
    async stamp() {
      const { key } = await current();
      return createHash('sha256')
        .update(JSON.stringify([config, key]))
        .digest('hex');
    },
    local,
    async ensure(refs, progress = noProgress) {
      const result = new Map<string, Promise<LayerUnit>>();
      const missing = new Map<string, UnitRef>();
      const unsynced: string[] = [];
      for (const ref of refs) {
        const key = keyOf(ref);
        if (result.has(key) || missing.has(key)) continue;
        const joined = inFlight.get(key);
        if (joined !== undefined) {
          result.set(key, joined);
          continue;
        }
        const unit = local(ref);
        if (unit === null) {
          missing.set(key, ref);
          continue;
        }
        // An earlier process was killed between conversion and flush (layer/staging.ts).
        if (existsSync(join(unit.dir, '.unsynced'))) unsynced.push(unit.dir);
        result.set(key, Promise.resolve(unit));
      }
      makeDurable(unsynced);
      const fetching = missing.size === 0 ? null : fetchMissing([...missing.values()], progress);
      for (const key of missing.keys()) result.set(key, inFlight.get(key)!);
      await fetching;
      return Promise.all(refs.map((ref) => result.get(keyOf(ref))!));
    },
    localUnits: async () => listUnits(dir),
    async sync(progress = noProgress) {
      const before = index ?? cachedAptIndex(dir, null);
      const old = before === null ? [] : offeredOf(before);
      index = await read(progress);
      const units = offeredOf(index);
      return { units: units.length, ...countChanges(old, units) };
    },
    async remove(ref) {
      const unit = local(ref);
      if (unit === null) {
        throw new StrataError('NOT_FOUND', `${config.name}/${ref.layer} ${ref.version} is not on this host`, {
          hint: `strata layer list ${config.name} shows what is`,
        });
      }
      await removeUnit(unit);
    },
  };
}

/** The filters as the user wrote them. */
export function filterText(config: RepositoryConfig): string {
  const parts = [...config.allow.map((p) => `--allow ${p}`), ...config.deny.map((p) => `--deny ${p}`)];
  return parts.join(' ');
}
