/**
 * What the inodes of a frozen layer said of themselves before other layers linked to them: frozen/ID/inodes. A further hard link changes link count and
 * change time of an inode for everybody who shows it; both are noted here before the first such link, and count for ever. A layer that was merged has such
 * a table of its own, for directories too.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  mapFile,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
} from '../../sys/index.ts';

export interface KeptInode {
  nlink: number;
  ctimeSec: number;
  ctimeNsec: number;
}

/** What is kept of an inode; null: nothing. */
export type KeptInodes = (ino: number) => KeptInode | null;

const MAGIC = 'STRINO1\n';
const RECORD_BYTES = 24;

/** The table of the frozen layer whose tree is `treeDir`. */
export function keptInodesFile(treeDir: string): string {
  return join(dirname(treeDir), 'inodes');
}

export function encodeKeptInodes(records: ReadonlyMap<number, KeptInode>): Uint8Array {
  const bytes = Buffer.alloc(MAGIC.length + records.size * RECORD_BYTES);
  bytes.write(MAGIC, 'latin1');
  let at = MAGIC.length;
  for (const [ino, { nlink, ctimeSec, ctimeNsec }] of [...records].sort((a, b) => a[0] - b[0])) {
    bytes.writeDoubleLE(ino, at);
    bytes.writeDoubleLE(ctimeSec, at + 8);
    bytes.writeUInt32LE(ctimeNsec, at + 16);
    bytes.writeUInt32LE(nlink, at + 20);
    at += RECORD_BYTES;
  }
  return bytes;
}

/** The table of a frozen layer, or null while it has none (or a damaged one). */
export function openKeptInodes(treeDir: string): KeptInodes | null {
  const fd = openat(AT_FDCWD, nameFromText(keptInodesFile(treeDir)), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return null;
  const stat = newStat();
  const known = fstat(fd, stat);
  const bytes = known < 0 || stat.size < MAGIC.length ? -1 : mapFile(fd, stat.size);
  close(fd);
  if (typeof bytes === 'number') return null;
  if (Buffer.from(bytes, 0, MAGIC.length).toString('latin1') !== MAGIC) return null;
  const view = new DataView(bytes, MAGIC.length);
  const count = Math.floor(view.byteLength / RECORD_BYTES);
  return (ino) => {
    let low = 0;
    let high = count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const at = middle * RECORD_BYTES;
      const found = view.getFloat64(at, true);
      if (found === ino) {
        return {
          ctimeSec: view.getFloat64(at + 8, true),
          ctimeNsec: view.getUint32(at + 16, true),
          nlink: view.getUint32(at + 20, true),
        };
      }
      if (found < ino) low = middle + 1;
      else high = middle - 1;
    }
    return null;
  };
}

/** Beside a merged layer: names that its hard-linked files had in what it was merged from, a list of groups. */
export const FORMER_NAMES = 'former.json';

/** One file. */
export interface FormerGroup {
  /** Its names in the layer. */
  names: string[];
  former: string[];
}

/** What is kept there of the frozen layer whose tree is `treeDir`, by name; all names of a file have the same list. Empty for nearly every layer. */
export function readFormerNames(treeDir: string): ReadonlyMap<string, readonly string[]> {
  let text: string;
  try {
    text = readFileSync(join(dirname(treeDir), FORMER_NAMES), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
    throw error;
  }
  const groups = JSON.parse(text) as FormerGroup[];
  return new Map(
    groups.flatMap(({ names, former }) => names.map((name): [string, string[]] => [name, former])),
  );
}
