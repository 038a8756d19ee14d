/**
 * The records that the codecs of formats/ give. Pure: bytes in, records out; no file system, no network.
 * Parsers of untrusted bytes throw FormatError and check every length before they use it.
 */
import type { Digest, Name } from '../base/index.ts';

/** One stanza of deb822: field name (as written) to value; continuation lines joined by '\n' without their first space. */
export type Stanza = Map<string, string>;

/** `layer (>= 1.2)`; op and version are both present or both absent. `arch` is the qualifier after ':' (any, native, amd64). */
export interface Relation {
  name: string;
  op?: '<<' | '<=' | '=' | '>=' | '>>';
  version?: string;
  arch?: string;
}
/** Alternatives, preferred first: `a | b`. */
export type Alternatives = Relation[];

export type Category = 'software' | 'config' | 'private';

/** What the metadata of one layer unit says (paper, figure 5, and Debian's additional fields). Relations stay raw text
 * (parsed by parseRelations when wanted), because a repository has 63,000 of these. */
export interface UnitMetadata {
  layer: string;
  version: string;
  category: Category;
  architecture?: string;
  multiArch?: string;
  essential?: boolean;
  priority?: string;
  section?: string;
  description?: string;
  installedBytes?: number;
  depends?: string;
  preDepends?: string;
  recommends?: string;
  conflicts?: string;
  breaks?: string;
  provides?: string;
  replaces?: string;
  /** Source package name, for explanations. */
  source?: string;
}

export type EntryType = 'file' | 'directory' | 'symlink' | 'hardlink' | 'char' | 'block' | 'fifo';

/** One entry of an archive, its path already normalised and checked: relative, no '.', '..' or empty components; '' is the root. */
export interface ArchiveEntry {
  path: Name;
  type: EntryType;
  /** Permission bits incl. setuid, setgid, sticky: 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  userName?: string;
  groupName?: string;
  sizeBytes: number;
  mtimeSec: number;
  mtimeNsec: number;
  /** Target of a symlink (any bytes) or, for a hard link, the normalised path of the entry it links to. */
  linkTarget?: Name;
  devMajor?: number;
  devMinor?: number;
  xattrs?: Map<Name, Uint8Array>;
  /** Data extents of a sparse file, in order; absent means one extent over the whole file. */
  sparse?: { offset: number; length: number }[];
}

/** An entry with its data. `data` must be consumed or left before the next entry is asked for; it yields exactly the
 * stored bytes (for a sparse file: its extents one after the other). */
export interface ArchiveItem {
  entry: ArchiveEntry;
  data: AsyncIterable<Uint8Array>;
}

/** An opened .deb: control files read (bounded), data as a stream. */
export interface DebPackage {
  /** The control stanza. */
  control: Stanza;
  /** All files of control.tar by name: preinst, postinst, prerm, postrm, conffiles, md5sums, shlibs, symbols, triggers, templates, config ... */
  controlFiles: Map<string, { mode: number; bytes: Uint8Array }>;
  /** The entries of data.tar, streaming. */
  entries(): AsyncIterable<ArchiveItem>;
}

export interface ContentDigest {
  sha256: Digest;
  sizeBytes: number;
}
