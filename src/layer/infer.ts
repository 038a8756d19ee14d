/**
 * Dependencies that the programs of a tree imply (paper, 5.3): every NEEDED library that the tree does not hold itself is looked up in
 * the shared-libs files of the given units, then among their files. Also the shared-libs lines of a tree's own libraries.
 */
import type { Name } from '../base/index.ts';
import { nameToText, StrataError } from '../base/index.ts';
import { type ElfDynamic, parseElfDynamic } from '../formats/index.ts';
import {
  close,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_RDONLY,
  openat2,
  pread,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from '../sys/index.ts';
import { checked } from './checked.ts';
import type { LayerUnit, TreeIndex } from './contract.ts';
import { readSharedLibs, type SharedLib, splitSoname } from './shared-libs.ts';
import type { TreeEntry } from './tree-index-build.ts';
import { openUnitIndex } from './unit.ts';

export interface ElfFile {
  path: Name;
  elf: ElfDynamic;
}

/** Directories that the dynamic linker searches, besides multiarch ones below them. */
const LIBRARY_DIR = /^(usr\/)?(local\/)?lib(32|64|x32)?(\/[a-z0-9_]+-linux-gnu[a-z0-9_]*)?\//;

/** The dynamic ELF files among the entries of the tree that `rootFd` is the root of. Damaged ones are left out: they are data. */
export function elfFiles(rootFd: number, entries: readonly TreeEntry[]): ElfFile[] {
  const found: ElfFile[] = [];
  for (const { path, mode, size } of entries) {
    if ((mode & S_IFMT) !== S_IFREG || size < 52) continue;
    const flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    const fd = checked(openat2(rootFd, path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), 'open', path);
    try {
      const elf = parseElfDynamic((offset, length) => {
        const bytes = Buffer.allocUnsafe(Math.min(length, Math.max(0, size - offset)));
        if (bytes.length === 0) return bytes;
        return bytes.subarray(0, checked(pread(fd, bytes, bytes.length, offset), 'read', path));
      });
      if (elf !== null) found.push({ path, elf });
    } catch (error) {
      if (!(error instanceof StrataError) || error.code !== 'BAD_FORMAT') throw error;
    } finally {
      close(fd);
    }
  }
  return found;
}

/** shared-libs lines for the libraries a unit holds in the linker's directories. */
export function ownSharedLibs(files: readonly ElfFile[], layer: string, version: string): SharedLib[] {
  const libs = new Map<string, SharedLib>();
  for (const { path, elf } of files) {
    if (elf.soname === null || !LIBRARY_DIR.test(path)) continue;
    const split = splitSoname(elf.soname);
    if (split !== null) libs.set(elf.soname, { ...split, dependency: `${layer} (>= ${version})` });
  }
  return [...libs.values()];
}

/**
 * The Depends text that the files need. Throws UNSATISFIABLE naming the libraries that no unit declares or holds, and who needs them.
 */
export function inferDepends(
  files: readonly ElfFile[],
  ownNames: ReadonlySet<string>,
  units: readonly LayerUnit[],
): string {
  const needed = new Map<string, string>();
  for (const { path, elf } of files) {
    for (const soname of elf.needed) if (!needed.has(soname)) needed.set(soname, nameToText(path));
  }
  const declared = new Map<string, string>();
  for (const unit of units) {
    for (const { library, version, dependency } of readSharedLibs(unit))
      declared.set(`${library} ${version}`, dependency);
  }
  const dependencies = new Set<string>();
  const missing: string[] = [];
  let holders: ((soname: string) => string | null) | null = null;
  for (const [soname, user] of [...needed].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (ownNames.has(soname)) continue;
    const split = splitSoname(soname);
    let dependency = split === null ? undefined : declared.get(`${split.library} ${split.version}`);
    if (dependency === undefined) {
      holders ??= holderLookup(units);
      dependency = holders(soname) ?? undefined;
    }
    if (dependency === undefined) missing.push(`${soname} (needed by ${user})`);
    else for (const one of dependency.split(/\s*,\s*/)) if (one !== '') dependencies.add(one);
  }
  if (missing.length > 0) {
    throw new StrataError('UNSATISFIABLE', `no layer holds ${missing.join(', ')}`, {
      hint: 'import the layers with these libraries into a repository first, or leave out --infer and name the dependencies with --depends',
      data: { unresolved: missing },
    });
  }
  return [...dependencies].sort().join(', ');
}

/** Finds a unit that has a library of that name in one of the linker's directories, though it declares none. */
function holderLookup(units: readonly LayerUnit[]): (soname: string) => string | null {
  const byName = new Map<string, string>();
  for (const unit of units) {
    const index = openUnitIndex(unit);
    for (const path of libraryPaths(index)) {
      const name = path.slice(path.lastIndexOf('/') + 1);
      if (!byName.has(name)) byName.set(name, unit.metadata.layer);
    }
  }
  return (soname) => byName.get(soname) ?? null;
}

function* libraryPaths(index: TreeIndex): Generator<string> {
  for (let entry = 0; entry < index.entryCount; entry++) {
    const type = index.mode(entry) & S_IFMT;
    if (type !== S_IFREG && type !== S_IFLNK) continue;
    const name = index.name(entry);
    if (!name.includes('.so')) continue;
    const path = index.path(entry);
    if (LIBRARY_DIR.test(path) && path.replace(LIBRARY_DIR, '') === name) yield path;
  }
}
