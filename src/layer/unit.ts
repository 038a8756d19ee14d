/**
 * Layer units as directories: names, opening, listing, removing. A directory NAME_VERSION is a unit when its metadata says the
 * same name and version; it appears and vanishes by one rename, so a reader never sees half of one. Names that begin with '.' are
 * work in progress (staging.ts). Must not build or change the content of a unit.
 */
import { readdirSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { asStrataError, checkObjectName, checkVersion, StrataError } from '../base/index.ts';
import type { UnitMetadata } from '../formats/contract.ts';
import { parseUnitMetadata } from '../formats/index.ts';
import type { LayerUnit, TreeIndex } from './contract.ts';
import { readPlainFile } from './plain-file.ts';
import { isUnsynced, removeUnitDir } from './staging.ts';
import { openTreeIndex } from './tree-index.ts';

/** Directory name of a unit: NAME_VERSION. Throws BAD_NAME when one of them cannot be part of a file name. */
export function unitDirName(layer: string, version: string): string {
  const name = `${checkObjectName('layer', layer)}_${checkVersion(version)}`;
  if (name.length > 255) {
    throw new StrataError('BAD_NAME', `the layer's name and version are too long: ${name}`, {
      hint: 'together they may have 254 characters',
    });
  }
  return name;
}

/** The metadata of the unit at `dir`. Throws NOT_FOUND when there is none, BAD_FORMAT when it cannot be read. */
export function readMetadata(dir: string): UnitMetadata {
  let bytes: Buffer;
  try {
    bytes = readPlainFile(join(dir, 'metadata'));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw asStrataError(error);
    throw new StrataError('NOT_FOUND', `there is no layer unit at ${dir}`, { cause: error });
  }
  return parseUnitMetadata(bytes, `${basename(dir)}/metadata`);
}

/** Opens the unit at `dir`. Throws NOT_FOUND when there is none (or it did not survive a power loss), BAD_FORMAT when its metadata
 * does not belong to its directory. */
export function openUnit(dir: string): LayerUnit {
  const metadata = readMetadata(dir);
  const wanted = unitDirName(metadata.layer, metadata.version);
  if (basename(resolve(dir)) !== wanted) {
    throw new StrataError(
      'BAD_FORMAT',
      `${dir} holds the metadata of ${metadata.layer} ${metadata.version}`,
      {
        hint: `its directory must be called ${wanted}`,
      },
    );
  }
  if (isUnsynced(dir)) {
    throw new StrataError(
      'NOT_FOUND',
      `the layer unit ${wanted} was not completely written when the machine went down`,
      {
        hint: 'it will be imported again when it is needed',
      },
    );
  }
  return { dir: resolve(dir), metadata };
}

/** All units that stand in a repository directory, sorted by directory name; [] when it does not exist. Directories that are not (whole) units
 * are left out, and named to `onProblem`. */
export function listUnits(repoDir: string, onProblem: (error: StrataError) => void = () => {}): LayerUnit[] {
  let names: string[];
  try {
    names = readdirSync(repoDir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw asStrataError(error);
  }
  const units: LayerUnit[] = [];
  for (const name of names.sort()) {
    if (name.startsWith('.') || !name.includes('_')) continue;
    try {
      units.push(openUnit(join(repoDir, name)));
    } catch (error) {
      onProblem(asStrataError(error));
    }
  }
  return units;
}

/** The unit of that name and version in `repoDir`, or null. */
export function findUnit(repoDir: string, layer: string, version: string): LayerUnit | null {
  try {
    return openUnit(join(repoDir, unitDirName(layer, version)));
  } catch (error) {
    if (error instanceof StrataError && error.code === 'NOT_FOUND') return null;
    throw error;
  }
}

/** The unit's file tree. */
export function unitTreeDir(unit: LayerUnit): string {
  return join(unit.dir, 'filesystem');
}

/** The unit's index file. */
export function unitIndexFile(unit: LayerUnit): string {
  return join(unit.dir, 'index');
}

/** The unit's tree index. Throws FormatError when it is damaged. */
export function openUnitIndex(unit: LayerUnit): TreeIndex {
  return openTreeIndex(unitIndexFile(unit));
}

/** Deletes a unit: it is gone from its repository in one step. Files of it that are open stay readable. Throws NOT_FOUND. */
export async function removeUnit(unit: LayerUnit): Promise<void> {
  await removeUnitDir(dirname(unit.dir), basename(unit.dir));
}
