/**
 * A layer unit on disk:  REPO_DIR/NAME_VERSION/{metadata, filesystem/, scripts/, shared-libs, index}
 * and its binary tree index, opened in well under a millisecond whatever its size.
 */
import type { Digest, Name, Progress } from '../base/index.ts';
import type { UnitMetadata } from '../formats/contract.ts';

/** Number of an entry inside one TreeIndex. 0 is the root directory; the children of a directory are consecutive, sorted by bytes. */
export type EntryNumber = number;

/**
 * A read-only view over the bytes of an `index` file. All getters are O(1) (find: O(depth * log n)), allocate
 * nothing but returned strings, and are safe on entry numbers that this index gave out.
 */
export interface TreeIndex {
  readonly entryCount: number;
  /** Bytes of all regular files. */
  readonly totalBytes: number;
  /** Child of `directory` with exactly this name, or -1. */
  child(directory: EntryNumber, name: Name): EntryNumber;
  /** Entry at a path like 'usr/bin/perl' ('' is the root), or -1. Does not follow symlinks. */
  find(path: string): EntryNumber;
  firstChild(entry: EntryNumber): EntryNumber;
  childCount(entry: EntryNumber): number;
  parent(entry: EntryNumber): EntryNumber;
  name(entry: EntryNumber): Name;
  path(entry: EntryNumber): Name;
  /** The type alone: S_IFMT bits of the mode. */
  kind(entry: EntryNumber): number;
  /** Full st_mode: type and permission bits. */
  mode(entry: EntryNumber): number;
  uid(entry: EntryNumber): number;
  gid(entry: EntryNumber): number;
  size(entry: EntryNumber): number;
  blocks(entry: EntryNumber): number;
  mtimeSec(entry: EntryNumber): number;
  mtimeNsec(entry: EntryNumber): number;
  /** For device nodes, as the kernel's new_encode_dev (what st_rdev in FUSE is); else 0. */
  rdev(entry: EntryNumber): number;
  nlink(entry: EntryNumber): number;
  /** The lowest entry number of the same inode; the entry itself when it has one name. */
  hardLinkLeader(entry: EntryNumber): EntryNumber;
  /** Next entry of the same inode (a ring; itself when it has one name). */
  hardLinkNext(entry: EntryNumber): EntryNumber;
  symlinkTarget(entry: EntryNumber): Name;
  /** SHA-256 of a regular file's content. */
  digest(entry: EntryNumber): Digest | null;
  hasXattrs(entry: EntryNumber): boolean;
  xattrs(entry: EntryNumber): ReadonlyMap<Name, Uint8Array>;
}

/** One layer unit found on disk. */
export interface LayerUnit {
  /** Absolute path of NAME_VERSION/. */
  dir: string;
  metadata: UnitMetadata;
}

export interface ImportOptions {
  /** Directory of the repository that receives NAME_VERSION/. */
  repoDir: string;
  progress?: Progress;
  /** Replace an existing unit of the same name and version (default: keep the existing one and return it). */
  replace?: boolean;
  /** Default true: the unit survives a power loss when the import is done. false: call makeDurable(dirs) once for a batch; until
   * then a unit that a power loss caught counts as absent. */
  durable?: boolean;
}

/** What the metadata of a unit says that was not made from a package. */
export interface UnitDescription {
  name: string;
  version: string;
  category?: 'software' | 'config';
  depends?: string;
  preDepends?: string;
  conflicts?: string;
  provides?: string;
  replaces?: string;
  architecture?: string;
  description?: string;
}

export interface TarOptions extends ImportOptions, UnitDescription {}

export interface BuildOptions extends ImportOptions, UnitDescription {
  /** Directory with pre-install, post-install, pre-remove, post-remove. */
  scriptsDir?: string;
  /** Add the dependencies that the ELF files' NEEDED entries imply, by the shared-libs files of `inferFrom` units. */
  inferFrom?: LayerUnit[];
}

export interface VerifyProblem {
  path: string;
  problem: string;
}
