/**
 * From the entries of an archive to the tree of a unit: the merged /usr, owners, and what happens when the move brings two entries
 * to one name (what was under /usr already wins). Must not know what kind of archive it is.
 */
import type { Name } from '../base/index.ts';
import { FormatError } from '../base/index.ts';
import type { ArchiveEntry, ArchiveItem } from '../formats/contract.ts';
import { encodeDev, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT } from '../sys/index.ts';
import { turnKeeper } from './give-way.ts';
import { staticGid, staticUid } from './static-ids.ts';
import type { Attributes, TreeWriter } from './tree-writer.ts';
import { isMergeLink, isMoved, mergedLinkTarget, mergedPath } from './usr-merge.ts';

export interface IntakeOptions {
  label: string;
  /** Owners by Debian's fixed names where the archive names them; else by number only. */
  debianOwners: boolean;
  /** Paths (as in the archive) whose MD5 is wanted. */
  md5Of?: ReadonlySet<string>;
}

export interface Intake {
  /** Every path of the archive, in its order, as it was there; '' for the root. */
  paths: Name[];
  /** MD5 by path, for those of md5Of that are regular files. */
  md5: Map<string, string>;
  /** Newest time of any entry. */
  newestSec: number;
}

/** Writes all entries into the tree. Throws FormatError for what a package must not hold, IO and NO_SPACE. */
export async function takeIn(
  items: AsyncIterable<ArchiveItem>,
  writer: TreeWriter,
  options: IntakeOptions,
): Promise<Intake> {
  const intake: Intake = { paths: [], md5: new Map(), newestSec: 0 };
  /** Names that moved entries hold: an entry that belongs under /usr replaces them. */
  const moved = new Set<string>();
  const giveWay = turnKeeper();
  for await (const { entry, data } of items) {
    const turn = giveWay();
    if (turn !== undefined) await turn;
    intake.paths.push(entry.path);
    intake.newestSec = Math.max(intake.newestSec, entry.mtimeSec);
    const attributes = attributesOf(entry, options);
    if (entry.type === 'symlink' && isMergeLink(entry.path, entry.linkTarget!)) {
      writer.symlink(entry.path, attributes, entry.linkTarget!);
      continue;
    }
    const path = mergedPath(entry.path);
    if (entry.type === 'directory') {
      // The attributes that the archive gives the place under /usr count.
      if (path === entry.path || !writer.entries.has(path)) writer.directory(path, attributes);
      continue;
    }
    let target = entry.linkTarget;
    if (entry.type === 'symlink') {
      const rewritten = mergedLinkTarget(entry.path, entry.linkTarget!);
      if (rewritten === null) continue;
      target = rewritten;
    } else if (entry.type === 'hardlink') {
      target = mergedPath(entry.linkTarget!);
      if (target === path) continue;
    }
    const present = writer.entries.get(path);
    if (present !== undefined) {
      if (isMoved(entry.path) && (present.mode & S_IFMT) !== S_IFDIR && !moved.has(path)) {
        continue; // The one under /usr stays.
      }
      if (!moved.has(path)) {
        throw new FormatError(options.label, 0, `${JSON.stringify(entry.path)} stands twice`);
      }
      writer.remove(path);
      moved.delete(path);
    }
    if (isMoved(entry.path)) moved.add(path);
    switch (entry.type) {
      case 'file': {
        const md5 = options.md5Of?.has(entry.path) ?? false;
        const { sizeBytes, sparse } = entry;
        const content = { sizeBytes, data, md5, ...(sparse === undefined ? {} : { sparse }) };
        const written = await writer.file(path, attributes, content);
        if (written.md5 !== undefined) intake.md5.set(entry.path, written.md5);
        break;
      }
      case 'symlink':
        writer.symlink(path, attributes, target!);
        break;
      case 'hardlink':
        writer.hardLink(path, target!);
        break;
      default:
        writer.special(path, attributes, SPECIAL[entry.type], rdevOf(entry));
    }
  }
  return intake;
}

const SPECIAL = { char: S_IFCHR, block: S_IFBLK, fifo: S_IFIFO } as const;

function rdevOf(entry: ArchiveEntry): number {
  return entry.type === 'fifo' ? 0 : encodeDev(entry.devMajor ?? 0, entry.devMinor ?? 0);
}

function attributesOf(entry: ArchiveEntry, options: IntakeOptions): Attributes {
  const { mode, uid, gid, mtimeSec, mtimeNsec } = entry;
  return {
    mode,
    uid: options.debianOwners ? staticUid(entry.userName, uid) : uid,
    gid: options.debianOwners ? staticGid(entry.groupName, gid) : gid,
    mtimeSec,
    mtimeNsec,
    ...(entry.xattrs === undefined ? {} : { xattrs: entry.xattrs }),
  };
}
