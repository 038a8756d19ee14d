/**
 * What an apt suite offers: the host's package lists as OfferedUnits, parsed once and cached in repos/NAME (units.json; downloads.json says
 * where each comes from). The cache's key names every list file with size and mtime, so that apt-get update is noticed with a few stats. Only the
 * host's architecture and `all`. Must not fetch packages.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { noProgress, type Progress, StrataError } from '../base/index.ts';
import { DEB_FIELDS, metadataFromDebFields, scanStanzas } from '../formats/index.ts';
import type { OfferedUnit } from '../resolver/contract.ts';
import {
  hostArchitecture,
  type PackageList,
  packageLists,
  readPackageList,
  updatePackageLists,
} from './apt-commands.ts';
import { belongsToSuite, parseAptSource } from './apt-source.ts';
import type { RepositoryConfig } from './contract.ts';
import { readCache, writeCache } from './units-cache.ts';

export interface AptIndex {
  /** Names the state of the lists. */
  key: string;
  units: OfferedUnit[];
  /** Only when they could not be cached. */
  downloads?: AptDownloads;
}

/** Where packages come from; record i belongs to units[i]: `BASE SIZE SHA256 FILENAME`, BASE an index into bases. */
export interface AptDownloads {
  bases: string[];
  records: string[];
}

interface ListState {
  file: string;
  size: number;
  mtimeMs: number;
}

function listState(file: string): ListState | null {
  try {
    const { size, mtimeMs } = statSync(file);
    return { file, size, mtimeMs };
  } catch {
    return null;
  }
}

/** Whether the lists that a key names are as they were. */
function isCurrent(key: string): boolean {
  try {
    const states = JSON.parse(key) as ListState[];
    if (states.length === 0) return false;
    return states.every((s) => {
      const now = listState(s.file);
      return now !== null && now.size === s.size && now.mtimeMs === s.mtimeMs;
    });
  } catch {
    return false;
  }
}

const unitsFile = (dir: string): string => join(dir, 'units.json');
const downloadsFile = (dir: string): string => join(dir, 'downloads.json');

/** The index from the cache when the lists are as they were, else null. `known` is what the caller has in memory. */
export function cachedAptIndex(dir: string, known: AptIndex | null): AptIndex | null {
  if (known !== null && isCurrent(known.key)) return known;
  const cached = readCache<OfferedUnit[]>(unitsFile(dir));
  if (cached === null || !isCurrent(cached.key)) return null;
  return { key: cached.key, units: cached.content };
}

/** Where the units of an index come from, or null when the cache is of another state. */
export function downloadsOf(dir: string, index: AptIndex): AptDownloads | null {
  if (index.downloads !== undefined) return index.downloads;
  const { key } = index;
  const cached = readCache<AptDownloads>(downloadsFile(dir));
  return cached !== null && cached.key === key ? cached.content : null;
}

/** The package lists of a source. Runs apt-get update once when the host has no lists at all. Throws NOT_FOUND when the suite is not there. */
export async function listsOfSource(source: string, progress: Progress = noProgress): Promise<PackageList[]> {
  const wanted = parseAptSource(source);
  const architecture = await hostArchitecture();
  let lists = (await packageLists()).filter((l) => l.file !== null);
  if (lists.length === 0) {
    progress({ phase: 'sync', message: 'this host has no package lists yet: running apt-get update' });
    await updatePackageLists();
    lists = (await packageLists()).filter((l) => l.file !== null);
  }
  const found = lists.filter(
    (list) =>
      belongsToSuite(wanted, list.names) &&
      (wanted.component === null || list.component === wanted.component) &&
      (list.architecture === architecture || list.architecture === 'all'),
  );
  if (found.length > 0) return found;
  const suites = [...new Set(lists.map((l) => l.names[0]).filter((n) => n !== undefined))].sort().join(', ');
  throw new StrataError(
    'NOT_FOUND',
    `this host's apt sources have no lists of ${source.slice('apt:'.length)}`,
    {
      hint:
        suites === ''
          ? 'add the suite to /etc/apt/sources.list.d and run apt-get update'
          : `suites here: ${suites}; for another one add it to /etc/apt/sources.list.d and run apt-get update`,
    },
  );
}

const FIELDS = [...DEB_FIELDS, 'Filename', 'Size', 'SHA256'];
const FILENAME = FIELDS.indexOf('Filename');
const ARCHITECTURE = FIELDS.indexOf('Architecture');

/** A path below the archive's root, without tricks: packages are untrusted until their checksum is verified, and so is their place. */
function isSafeFilename(filename: string): boolean {
  return (
    filename.length < 4096 &&
    !filename.startsWith('/') &&
    !/[\x00-\x1f\x7f\\?#]/.test(filename) &&
    !filename.split('/').includes('..')
  );
}

/** Reads the host's lists anew and replaces the cache. */
export async function readAptIndex(
  dir: string,
  config: RepositoryConfig,
  progress: Progress = noProgress,
): Promise<AptIndex> {
  const lists = await listsOfSource(config.source, progress);
  const architecture = await hostArchitecture();
  const units: OfferedUnit[] = [];
  const downloads: AptDownloads = { bases: [], records: [] };
  const seen = new Set<string>();
  const states: ListState[] = [];
  let refused = 0;
  for (const [i, list] of lists.entries()) {
    const file = list.file!;
    progress({
      phase: 'sync',
      message: `reading ${list.names[0]}/${list.component}`,
      done: i,
      total: lists.length,
    });
    const state = listState(file);
    if (state === null)
      throw new StrataError('FETCH', `the package list ${file} has vanished`, { hint: 'run apt-get update' });
    states.push(state);
    let base = downloads.bases.indexOf(list.baseUri);
    if (base === -1) base = downloads.bases.push(list.baseUri) - 1;
    scanStanzas(
      await readPackageList(file),
      FIELDS,
      (values) => {
        if (values[ARCHITECTURE] !== architecture && values[ARCHITECTURE] !== 'all') return;
        const [filename, size, sha256] = values.slice(FILENAME);
        if (
          filename === undefined ||
          !isSafeFilename(filename) ||
          !/^\d{1,15}$/.test(size ?? '') ||
          !/^[0-9a-f]{64}$/.test(sha256 ?? '')
        ) {
          refused++;
          return;
        }
        let unit: OfferedUnit;
        try {
          unit = { ...metadataFromDebFields(values, file), repo: config.name };
        } catch {
          refused++;
          return;
        }
        const id = `${unit.layer} ${unit.version}`;
        if (seen.has(id)) return;
        seen.add(id);
        units.push(unit);
        downloads.records.push(`${base} ${size} ${sha256} ${filename}`);
      },
      { format: file },
    );
  }
  const key = JSON.stringify(states);
  const isCached = writeCache(downloadsFile(dir), key, downloads) && writeCache(unitsFile(dir), key, units);
  progress({
    phase: 'sync',
    message: `${units.length} units${refused === 0 ? '' : ` (${refused} records without checksum or with bad names left out)`}`,
    done: lists.length,
    total: lists.length,
  });
  return isCached ? { key, units } : { key, units, downloads };
}
