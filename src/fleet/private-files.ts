/**
 * Databases in private layers that an appliance and its template both write: dpkg's status, accounts. The appliance's own copy would hide
 * what the template adds, so after a change of the template both are merged. What stands in a private layer belongs to the appliance: paths
 * are opened beneath it without following any link, only plain files of bounded size are read.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS } from '../base/index.ts';
import * as sys from '../sys/index.ts';
import type { PrivateFile } from '../vlfs/contract.ts';
import { MERGED_PATHS, mergePrivateFile } from './configure/index.ts';
import { type GenerationRecord, readConfigFile } from './generations.ts';
import type { FleetPaths } from './paths.ts';
import { copyAttributes, latin1, must } from './tree-copy.ts';

const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS;

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

/** The appliance's own databases, merged with the change; [] when it has none of its own. */
export function mergedDatabases(privateDir: string, changes: DatabaseChange[]): PrivateFile[] {
  const files: PrivateFile[] = [];
  for (const { path, from, to } of changes) {
    const mine = readPrivateFile(privateDir, path);
    // Bytes that are no text would not survive; such a file stays as the appliance made it.
    if (mine === null || mine.includes('\ufffd')) continue;
    const merged = mergePrivateFile(path, from, to, mine);
    if (merged !== mine) files.push({ path, content: Buffer.from(merged, 'utf8') });
  }
  return files;
}

function readPrivateFile(privateDir: string, path: string): string | null {
  const root = sys.openat(sys.AT_FDCWD, latin1(privateDir), sys.O_PATH | sys.O_DIRECTORY | sys.O_CLOEXEC);
  if (root < 0) return null;
  try {
    const flags = sys.O_RDONLY | sys.O_NONBLOCK | sys.O_NOFOLLOW | sys.O_CLOEXEC;
    const fd = sys.openat2(root, path, flags, 0, BENEATH);
    if (fd < 0) return null;
    try {
      const stat = sys.newStat();
      const isPlain = sys.fstat(fd, stat) >= 0 && (stat.mode & sys.S_IFMT) === sys.S_IFREG;
      return isPlain && stat.size <= LIMITS.controlBytes ? readFileSync(fd, 'utf8') : null;
    } finally {
      closeSync(fd);
    }
  } finally {
    sys.close(root);
  }
}

/** Replaces files in the private layer of an appliance that is not mounted; each in one step. */
export function writePrivateFiles(privateDir: string, files: PrivateFile[]): void {
  const root = must(
    sys.openat(sys.AT_FDCWD, latin1(privateDir), sys.O_PATH | sys.O_DIRECTORY | sys.O_CLOEXEC),
    'open the private layer',
  );
  try {
    for (const file of files) if (file.content !== null) replaceBeneath(root, file.path, file.content);
  } finally {
    sys.close(root);
  }
}

function replaceBeneath(root: number, path: string, content: Uint8Array): void {
  const slash = path.lastIndexOf('/');
  const name = path.slice(slash + 1);
  const parent = must(
    sys.openat2(
      root,
      slash < 0 ? '.' : path.slice(0, slash),
      sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC,
      0,
      BENEATH,
    ),
    `open ${path}`,
  );
  const temporary = `.tmp-strata-${randomBytes(6).toString('hex')}`;
  try {
    const old = sys.newStat();
    must(sys.statAt(parent, name, old), `stat ${path}`);
    const fd = must(
      sys.openat(
        parent,
        temporary,
        sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW | sys.O_CLOEXEC,
        0o600,
      ),
      `create ${path}`,
    );
    try {
      for (let at = 0; at < content.length; ) {
        const rest = content.subarray(at);
        at += must(sys.pwrite(fd, rest, rest.length, at), `write ${path}`);
      }
      copyAttributes(parent, name, parent, temporary, old);
      must(sys.fsync(fd), `write ${path}`);
    } finally {
      sys.close(fd);
    }
    must(sys.renameat2(parent, temporary, parent, name), `replace ${path}`);
    must(sys.fsync(parent), `write ${path}`);
  } catch (error) {
    sys.unlinkat(parent, temporary);
    throw error;
  } finally {
    sys.close(parent);
  }
}

/** Where an appliance's parts stand. */
export function applianceDirs(
  paths: FleetPaths,
  name: string,
): { dir: string; privateDir: string; whiteoutsDir: string } {
  const dir = join(paths.appliances, name);
  return { dir, privateDir: join(dir, 'private'), whiteoutsDir: join(dir, 'whiteouts') };
}
