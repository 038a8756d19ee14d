/**
 * Databases in private layers that an appliance and its template both write: dpkg's status, accounts. The appliance's own copy would hide
 * what the template adds, so after a change of the template both are merged. What stands in a private layer belongs to the appliance: paths
 * are opened beneath it without following any link, only plain files of bounded size are read.
 */
import { join } from 'node:path';
import type { PrivateFile } from '../../vlfs/contract.ts';
import { MERGED_PATHS, mergePrivateFile } from '../configure/index.ts';
import { replaceBeneath } from '../merge-layers/replace-beneath.ts';
import { readPlainFile } from '../merge-layers/untrusted-tree.ts';
import type { FleetPaths } from '../state/paths.ts';
import { type GenerationRecord, readConfigFile } from '../templates/generations.ts';

/** A database that differs between two generations. */
export interface DatabaseChange {
  path: string;
  from: string;
  to: string;
}

export function databaseChanges(
  paths: FleetPaths,
  from: GenerationRecord,
  to: GenerationRecord,
): DatabaseChange[] {
  const changes: DatabaseChange[] = [];
  for (const path of MERGED_PATHS) {
    const before = readConfigFile(paths, from, path);
    const after = readConfigFile(paths, to, path);
    if (before !== null && after !== null && before !== after)
      changes.push({ path, from: before, to: after });
  }
  return changes;
}

/** The appliance's own databases, merged with the change; [] when it has none of its own. `trees`: private and frozen layers, newest first. */
export function mergedDatabases(trees: string[], changes: DatabaseChange[]): PrivateFile[] {
  const files: PrivateFile[] = [];
  for (const { path, from, to } of changes) {
    let mine: string | null | undefined;
    for (const tree of trees) mine = mine === undefined ? readPlainFile(tree, path) : mine;
    // Bytes that are no text would not survive; such a file stays as the appliance made it.
    if (typeof mine !== 'string' || mine.includes('\ufffd')) continue;
    const merged = mergePrivateFile(path, from, to, mine);
    if (merged !== mine) files.push({ path, content: Buffer.from(merged, 'utf8') });
  }
  return files;
}

/** Replaces files in the private layer of an appliance that is not mounted; each in one step. */
export function writePrivateFiles(privateDir: string, files: PrivateFile[]): void {
  for (const file of files) if (file.content !== null) replaceBeneath(privateDir, file.path, file.content);
}

/** Where an appliance's parts stand. */
export function applianceDirs(
  paths: FleetPaths,
  name: string,
): { dir: string; privateDir: string; whiteoutsDir: string } {
  const dir = join(paths.appliances, name);
  return { dir, privateDir: join(dir, 'private'), whiteoutsDir: join(dir, 'whiteouts') };
}
