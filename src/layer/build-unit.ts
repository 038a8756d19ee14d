/**
 * A layer unit from a directory that `make install DESTDIR=` filled (paper, 5.3): the tree is copied (never linked to), moved under
 * /usr where it must, and described by what the caller says and what its programs need.
 */
import { readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { Name } from '../base/index.ts';
import { asStrataError, StrataError } from '../base/index.ts';
import type { ArchiveEntry, ArchiveItem, EntryType } from '../formats/contract.ts';
import {
  AT_FDCWD,
  close,
  majorOf,
  minorOf,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  openat2,
  pread,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
} from '../sys/index.ts';
import { addBaseLinks } from './base-links.ts';
import { checked } from './checked.ts';
import type { BuildOptions, LayerUnit } from './contract.ts';
import { elfFiles, inferDepends, ownSharedLibs } from './infer.ts';
import { takeIn } from './intake.ts';
import { describedMetadata, makeUnit, UNIT_SCRIPTS, type UnitScript } from './make-unit.ts';
import { type Extent, fileExtents } from './sparse-extents.ts';
import { blocksFor, type TreeEntry } from './tree-index-build.ts';
import { scanTree } from './tree-scan.ts';
import { BASE_LAYER } from './usr-merge.ts';

/**
 * Builds a unit from the tree at `dir`. The whole tree is read once; it must not change meanwhile (then BAD_FORMAT). A unit of that name and version that is there
 * already is returned as it is, unless `replace`. With `inferFrom`: throws UNSATISFIABLE when a library is found nowhere.
 */
export async function buildUnit(dir: string, options: BuildOptions): Promise<LayerUnit> {
  const metadata = describedMetadata(options);
  const source = resolve(dir);
  const isConfig = metadata.category === 'config';
  const scripts = options.scriptsDir === undefined ? undefined : readScripts(options.scriptsDir);
  const rootFd = openat(AT_FDCWD, Buffer.from(source).toString('latin1'), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  checked(rootFd, 'open', source);
  try {
    const { layer, version, category } = metadata;
    const label = basename(source);
    return await makeUnit({ ...options, layer, version, category, label }, async (writer) => {
      const entries = await scanTree(source, { digests: false, overlay: isConfig });
      entries.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
      const files = isConfig ? [] : elfFiles(rootFd, entries);
      if (options.inferFrom !== undefined) {
        const inferred = inferDepends(files, libraryNames(entries), options.inferFrom);
        const depends = [metadata.depends, inferred].filter(Boolean).join(', ');
        if (depends !== '') metadata.depends = depends;
      }
      const intake = await takeIn(treeItems(rootFd, entries), writer, { label, debianOwners: false });
      if (layer === BASE_LAYER) addBaseLinks(writer, metadata.architecture ?? 'amd64', intake.newestSec);
      return {
        metadata,
        sharedLibs: ownSharedLibs(files, layer, version),
        ...(scripts === undefined ? {} : { scripts }),
      };
    });
  } finally {
    close(rootFd);
  }
}

/** Names under which the tree itself can satisfy a NEEDED. */
function libraryNames(entries: readonly TreeEntry[]): Set<string> {
  const names = new Set<string>();
  for (const { path, mode } of entries) {
    if ((mode & S_IFMT) !== S_IFDIR) names.add(path.slice(path.lastIndexOf('/') + 1));
  }
  return names;
}

function readScripts(dir: string): Map<UnitScript, Uint8Array> {
  const scripts = new Map<UnitScript, Uint8Array>();
  for (const name of UNIT_SCRIPTS) {
    try {
      scripts.set(name, readFileSync(join(dir, name)));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw asStrataError(error);
    }
  }
  if (scripts.size === 0) {
    throw new StrataError('NOT_FOUND', `${dir} holds none of the scripts ${UNIT_SCRIPTS.join(', ')}`);
  }
  return scripts;
}

/** The tree as the entries of an archive: parents before children, one name of each inode as a file, the others as hard links to it. */
async function* treeItems(rootFd: number, entries: readonly TreeEntry[]): AsyncGenerator<ArchiveItem> {
  const leaders = new Map<string | number, Name>();
  for (const found of entries) {
    const leader = found.inode === undefined ? undefined : leaders.get(found.inode);
    if (found.inode !== undefined && leader === undefined) leaders.set(found.inode, found.path);
    const entry = archiveEntry(found, leader);
    if (entry.type !== 'file') {
      yield { entry, data: nothing() };
      continue;
    }
    const flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    const fd = checked(
      openat2(rootFd, found.path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS),
      'open',
      found.path,
    );
    try {
      const isSparse = found.blocks !== undefined && found.blocks < blocksFor(found.size);
      const extents = isSparse ? fileExtents(fd, found.size) : null;
      if (extents !== null) entry.sparse = extents;
      yield { entry, data: readExtents(fd, found.path, extents ?? [{ offset: 0, length: found.size }]) };
    } finally {
      close(fd);
    }
  }
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

const TYPES = new Map<number, EntryType>([
  [S_IFDIR, 'directory'],
  [S_IFLNK, 'symlink'],
  [S_IFCHR, 'char'],
  [S_IFBLK, 'block'],
  [S_IFIFO, 'fifo'],
]);

function archiveEntry(found: TreeEntry, leader: Name | undefined): ArchiveEntry {
  const type = leader !== undefined ? 'hardlink' : (TYPES.get(found.mode & S_IFMT) ?? 'file');
  const { path, uid, gid, mtimeSec, mtimeNsec } = found;
  const sizeBytes = type === 'file' ? found.size : 0;
  const entry: ArchiveEntry = {
    path,
    type,
    mode: found.mode & 0o7777,
    uid,
    gid,
    sizeBytes,
    mtimeSec,
    mtimeNsec,
  };
  const target = leader ?? found.linkTarget;
  if (target !== undefined) entry.linkTarget = target;
  if (found.rdev !== undefined) {
    entry.devMajor = majorOf(found.rdev);
    entry.devMinor = minorOf(found.rdev);
  }
  if (found.xattrs !== undefined) entry.xattrs = new Map(found.xattrs);
  return entry;
}

const CHUNK_BYTES = 1 << 20;

/** The bytes of the extents; fewer when the file has become shorter, which the writer notices. */
async function* readExtents(
  fd: number,
  path: string,
  extents: readonly Extent[],
): AsyncGenerator<Uint8Array> {
  for (const { offset, length } of extents) {
    for (let at = 0; at < length; ) {
      const piece = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, length - at));
      const got = checked(pread(fd, piece, piece.length, offset + at), 'read', path);
      if (got === 0) return;
      yield piece.subarray(0, got);
      at += got;
    }
  }
}
