/**
 * Making a unit: staging directory, tree, index, the files beside the tree, commit. Whatever goes wrong, and wherever the process is
 * killed, the repository has the whole unit or nothing of it (but a .tmp-* directory, which cleanRepoDir deletes).
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { asStrataError, noProgress } from '../base/index.ts';
import type { UnitMetadata } from '../formats/contract.ts';
import { formatUnitMetadata } from '../formats/index.ts';
import {
  close,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  S_IFMT,
  S_IFREG,
} from '../sys/index.ts';
import { checked } from './checked.ts';
import type { ImportOptions, LayerUnit, UnitDescription } from './contract.ts';
import { formatSharedLibs, type SharedLib } from './shared-libs.ts';
import {
  cleanRepoDir,
  commitStaging,
  createStaging,
  discardStaging,
  makeDurable,
  UNSYNCED,
} from './staging.ts';
import { buildTreeIndex, type TreeEntry } from './tree-index-build.ts';
import { openTreeWriter, type TreeWriter } from './tree-writer.ts';
import { findUnit, openUnit, unitDirName } from './unit.ts';

/** The scripts that a unit may have (paper, 5.1). */
export const UNIT_SCRIPTS = ['pre-install', 'post-install', 'pre-remove', 'post-remove'] as const;
export type UnitScript = (typeof UNIT_SCRIPTS)[number];

/** What stands beside the tree. */
export interface UnitFiles {
  metadata: UnitMetadata;
  scripts?: ReadonlyMap<UnitScript, Uint8Array>;
  sharedLibs?: readonly SharedLib[];
  /** The package's control stanza, as it was. */
  control?: Uint8Array | string;
  /** `path md5` by line. */
  conffiles?: string;
}

export interface MakeUnitOptions extends ImportOptions {
  layer: string;
  version: string;
  /** For messages: the package's file name. */
  label: string;
  category: UnitMetadata['category'];
}

/** Makes the unit unless it is there. `fill` writes the tree and says what goes beside it. */
export async function makeUnit(
  options: MakeUnitOptions,
  fill: (writer: TreeWriter) => Promise<UnitFiles>,
): Promise<LayerUnit> {
  const { repoDir, layer, version, label, replace = false, durable = true, progress = noProgress } = options;
  const dirName = unitDirName(layer, version);
  const present = replace ? null : findUnit(repoDir, layer, version);
  if (present !== null) {
    // An earlier batch may have been killed before its flush.
    if (durable && existsSync(join(present.dir, UNSYNCED))) makeDurable([present.dir]);
    return present;
  }
  await cleanOnce(repoDir);
  progress({ phase: 'import', message: `${layer} ${version}` });
  const staging = createStaging(repoDir);
  try {
    const tree = join(staging.dir, 'filesystem');
    mkdirSync(tree, { mode: 0o700 });
    const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    const rootFd = checked(openat(staging.fd, 'filesystem', flags), 'open', tree);
    const writer = openTreeWriter({ rootFd, label, overlay: options.category === 'config' });
    let files: UnitFiles;
    let entries: TreeEntry[];
    try {
      files = await fill(writer);
      entries = writer.finish();
    } finally {
      writer.close();
      close(rootFd);
    }
    files.metadata.installedBytes ??= contentBytes(entries);
    writeFileSync(join(staging.dir, 'index'), buildTreeIndex(entries));
    writeUnitFiles(staging.dir, files);
  } catch (error) {
    await discardStaging(staging);
    throw asStrataError(error);
  }
  await commitStaging(staging, dirName, { replace, durable });
  return openUnit(join(staging.repoDir, dirName));
}

/** Directories whose leftovers of dead imports this process has deleted. */
const cleaned = new Set<string>();

async function cleanOnce(repoDir: string): Promise<void> {
  const dir = resolve(repoDir);
  if (cleaned.has(dir)) return;
  cleaned.add(dir);
  await cleanRepoDir(dir);
}

function contentBytes(entries: readonly TreeEntry[]): number {
  const inodes = new Set<string | number>();
  let bytes = 0;
  for (const { mode, size, inode } of entries) {
    if ((mode & S_IFMT) !== S_IFREG || (inode !== undefined && inodes.has(inode))) continue;
    if (inode !== undefined) inodes.add(inode);
    bytes += size;
  }
  return bytes;
}

function writeUnitFiles(dir: string, files: UnitFiles): void {
  writeFileSync(join(dir, 'metadata'), formatUnitMetadata(files.metadata), { mode: 0o644 });
  if (files.control !== undefined) writeFileSync(join(dir, 'control'), files.control, { mode: 0o644 });
  if (files.conffiles)
    writeFileSync(join(dir, 'conffiles'), files.conffiles, { encoding: 'latin1', mode: 0o644 });
  if (files.sharedLibs !== undefined && files.sharedLibs.length > 0) {
    writeFileSync(join(dir, 'shared-libs'), formatSharedLibs(files.sharedLibs), { mode: 0o644 });
  }
  if (files.scripts !== undefined && files.scripts.size > 0) {
    mkdirSync(join(dir, 'scripts'), { mode: 0o755 });
    for (const [name, bytes] of files.scripts)
      writeFileSync(join(dir, 'scripts', name), bytes, { mode: 0o755 });
  }
}

/** The metadata of a unit that was not made from a package. */
export function describedMetadata(description: UnitDescription): UnitMetadata {
  const {
    name,
    version,
    category = 'software',
    depends,
    preDepends,
    conflicts,
    provides,
    replaces,
  } = description;
  const metadata: UnitMetadata = { layer: name, version, category };
  const text = { depends, preDepends, conflicts, provides, replaces };
  for (const [key, value] of Object.entries(text)) if (value) metadata[key as keyof typeof text] = value;
  if (description.architecture) metadata.architecture = description.architecture;
  if (description.description) metadata.description = description.description;
  return metadata;
}
