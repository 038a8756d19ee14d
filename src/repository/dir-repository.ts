/**
 * Kind dir: the units stand in the source directory itself, on a local disk, NFS or a SAN, and may be shared by hosts (paper, section 5.4). Its `Layers` file is
 * the flat database of their metadata; it is used when its stamp is that of the directory, and rebuilt when not. A cache in repos/NAME makes the
 * usual reading one stat. A source that cannot be written works the same, with the cache alone.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError, noProgress, type Progress, StrataError } from '../base/index.ts';
import { compareVersions } from '../formats/index.ts';
import { findUnit, type LayerUnit, listUnits, openUnit, removeUnit } from '../layer/index.ts';
import type { OfferedUnit } from '../resolver/contract.ts';
import { countChanges } from './changes.ts';
import { repositoryDir } from './config.ts';
import type { Repository, RepositoryConfig, UnitRef } from './contract.ts';
import { layerFilter } from './glob.ts';
import { readLayersFile, writeLayersFile } from './layers-file.ts';
import { readCache, writeCache } from './units-cache.ts';

/** A changed directory may keep its mtime for this long where the clock of the file system is coarse. */
const MTIME_GRAIN_MS = 2000;

interface DirIndex {
  /** Identity and mtime of the directory when it was read; '' when that was too fresh to be trusted. */
  dirKey: string;
  /** Names and metadata files of all units. */
  stamp: string;
  units: OfferedUnit[];
}

/** Opens a repository of kind dir. Reads nothing yet. */
export function openDirRepository(root: string, config: RepositoryConfig): Repository {
  const source = config.source;
  const cacheFile = join(repositoryDir(root, config.name), 'units.json');
  const filter = layerFilter(config.allow, config.deny);
  let index: DirIndex | null = null;
  let filtered: { of: DirIndex; units: OfferedUnit[] } | null = null;

  /** Identity of the directory's present state. Throws NOT_FOUND when the source is gone. */
  function dirKey(): string {
    try {
      const { dev, ino, mtimeNs, mtimeMs } = statSync(source, { bigint: true });
      return Date.now() - Number(mtimeMs) < MTIME_GRAIN_MS ? '' : `${dev} ${ino} ${mtimeNs}`;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT' && code !== 'ENOTDIR' && code !== 'ESTALE') throw asStrataError(error);
      throw new StrataError('NOT_FOUND', `the directory ${source} of repository ${config.name} is gone`, {
        hint: 'mount or restore it, or remove the repository',
        cause: error,
      });
    }
  }

  /** All unit directories and the stamp of the whole. */
  function listing(): { names: string[]; stamp: string } {
    const names: string[] = [];
    const digest = createHash('sha256');
    try {
      for (const name of readdirSync(source).sort()) {
        if (name.startsWith('.') || !name.includes('_')) continue;
        const metadata = statSync(join(source, name, 'metadata'), { bigint: true, throwIfNoEntry: false });
        if (metadata === undefined) continue;
        names.push(name);
        digest.update(`${name} ${metadata.size} ${metadata.mtimeNs}\n`);
      }
    } catch (error) {
      throw asStrataError(error);
    }
    return { names, stamp: digest.digest('hex') };
  }

  /** Reads the metadata of every unit and writes the Layers file and the cache. Damaged units are left out and told. */
  function rebuild(names: string[], stamp: string, progress: Progress): DirIndex {
    const units: OfferedUnit[] = [];
    for (const name of names) {
      try {
        units.push({ ...openUnit(join(source, name)).metadata, repo: config.name });
      } catch (error) {
        progress({
          phase: 'sync',
          message: `left out ${join(source, name)}: ${asStrataError(error).message}`,
        });
      }
    }
    units.sort((a, b) =>
      a.layer === b.layer ? compareVersions(a.version, b.version) : a.layer < b.layer ? -1 : 1,
    );
    writeLayersFile(source, stamp, units);
    // The Layers file changed the directory's time; another process may have, too, since the names were read.
    const key = dirKey();
    return remember({ dirKey: listing().stamp === stamp ? key : '', stamp, units });
  }

  function remember(fresh: DirIndex): DirIndex {
    index = fresh;
    writeCache(cacheFile, `${fresh.stamp} ${fresh.dirKey}`, fresh.units);
    return fresh;
  }

  function cachedIndex(): DirIndex | null {
    const cached = readCache<OfferedUnit[]>(cacheFile);
    if (cached === null) return null;
    const space = cached.key.indexOf(' ');
    return { stamp: cached.key.slice(0, space), dirKey: cached.key.slice(space + 1), units: cached.content };
  }

  function current(progress: Progress = noProgress): DirIndex {
    const key = dirKey();
    index ??= cachedIndex();
    if (index !== null && key !== '' && index.dirKey === key) return index;
    const { names, stamp } = listing();
    if (index !== null && index.stamp === stamp) {
      if (key !== '') return remember({ ...index, dirKey: key });
      return index;
    }
    const shared = readLayersFile(source, stamp, config.name);
    if (shared !== null) return remember({ dirKey: key, stamp, units: shared });
    return rebuild(names, stamp, progress);
  }

  function offeredOf(of: DirIndex): OfferedUnit[] {
    if (filtered?.of !== of)
      filtered = { of, units: filter === null ? of.units : of.units.filter((u) => filter(u.layer)) };
    return filtered.units;
  }

  function local(ref: UnitRef): LayerUnit | null {
    return findUnit(source, ref.layer, ref.version);
  }

  function present(ref: UnitRef): LayerUnit {
    const unit = local(ref);
    if (unit !== null) return unit;
    dirKey();
    throw new StrataError('NOT_FOUND', `${config.name}/${ref.layer} ${ref.version} is not in ${source}`, {
      hint: `strata layer list ${config.name} shows what is; strata layer import FILE --repo ${config.name} adds to it`,
    });
  }

  return {
    config,
    unitsDir: source,
    offered: async () => offeredOf(current()),
    async stamp() {
      const { stamp } = current();
      return createHash('sha256')
        .update(JSON.stringify([config, stamp]))
        .digest('hex');
    },
    local,
    ensure: async (refs) => refs.map(present),
    async localUnits() {
      dirKey();
      return listUnits(source);
    },
    async sync(progress = noProgress) {
      const before = index ?? cachedIndex();
      const old = before === null ? [] : offeredOf(before);
      dirKey();
      const { names, stamp } = listing();
      const units = offeredOf(rebuild(names, stamp, progress));
      progress({ phase: 'sync', message: `${units.length} units` });
      return { units: units.length, ...countChanges(old, units) };
    },
    async remove(ref) {
      const unit = present(ref);
      try {
        await removeUnit(unit);
      } catch (error) {
        if (!existsSync(source)) dirKey();
        throw error;
      }
    },
  };
}
