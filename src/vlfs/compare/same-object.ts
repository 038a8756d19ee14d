/** How two objects of two VLFSs differ, as a program would see it. */
import {
  newStat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  splitXattrList,
} from '../../sys/index.ts';
import type { Attr } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { fillAttr, indexAttr, newAttr, statAttr, statNode } from '../nodes/attributes.ts';
import { readlink } from '../operations/readlink.ts';
import { getxattr, listxattr } from '../operations/xattrs.ts';
import { NOTHING_HIDDEN } from '../stack/merged-directory.ts';
import { sameContent } from './content.ts';

export type Likeness = 'same' | 'metadata' | 'changed';

const stat = newStat();

/** What a program sees of an object, but for link count and number; null: it is gone. */
export function attrOf(core: Core, node: Node): Attr | null {
  const attr = newAttr();
  if (node.children !== null) return fillAttr(core, node, attr) < 0 ? null : attr;
  if (!node.priv) {
    if (node.unit === null) return null;
    indexAttr(node.unit, node.entry, NOTHING_HIDDEN, -1, attr);
    return attr;
  }
  if (statNode(core, node, stat) < 0) return null;
  statAttr(stat, node.ino, attr);
  return attr;
}

/** Whether both are the same inode on disk, or the same file of the same layer: then nothing need be compared. */
export function isSameFile(left: Core, a: Node, right: Core, b: Node): boolean {
  const one = diskInode(left, a);
  const two = diskInode(right, b);
  if (one !== null || two !== null) return one === two;
  return a.unit === b.unit && a.entry === b.entry;
}

/** Names the inode on disk of a private or frozen file; null for one of another layer. */
export function diskInode(core: Core, node: Node): string | null {
  if (node.priv) return statNode(core, node, stat) < 0 ? null : `${stat.dev}:${stat.ino}`;
  const frozen = node.unit?.frozen;
  if (!frozen) return null;
  const { dev, ino } = frozen.stat(node.entry);
  return `${dev}:${ino}`;
}

/** How `b` differs from `a`. Times of directories do not count: they change with what is in them. `times`: those of files do. */
export function likeness(left: Core, a: Node, right: Core, b: Node, times = true): Likeness {
  if (a.kind !== b.kind) return 'changed';
  if (a.children === null && isSameFile(left, a, right, b)) return 'same';
  const one = attrOf(left, a);
  const two = attrOf(right, b);
  if (one === null || two === null) return one === two ? 'same' : 'changed';
  if ((one.mode & S_IFMT) !== (two.mode & S_IFMT)) return 'changed';
  const isContentSame = sameWithin(left, a, one, right, b, two);
  if (!isContentSame) return 'changed';
  const sameTimes =
    !times || a.kind === S_IFDIR || (one.mtimeSec === two.mtimeSec && one.mtimeNsec === two.mtimeNsec);
  const same =
    one.mode === two.mode &&
    one.uid === two.uid &&
    one.gid === two.gid &&
    sameTimes &&
    sameXattrs(left, a, right, b);
  return same ? 'same' : 'metadata';
}

function sameWithin(left: Core, a: Node, one: Attr, right: Core, b: Node, two: Attr): boolean {
  switch (a.kind) {
    case S_IFREG:
      return one.size === two.size && sameContent(left, a, right, b, one.size);
    case S_IFLNK:
      return readlink(left, a) === readlink(right, b);
    case S_IFCHR:
    case S_IFBLK:
      return one.rdev === two.rdev;
    default:
      return true;
  }
}

function xattrNames(core: Core, node: Node): string[] {
  const list = listxattr(core, node);
  return typeof list === 'number' ? [] : splitXattrList(list).sort();
}

function sameXattrs(left: Core, a: Node, right: Core, b: Node): boolean {
  const names = xattrNames(left, a);
  if (names.join('\0') !== xattrNames(right, b).join('\0')) return false;
  return names.every((name) => {
    const one = getxattr(left, a, name);
    const two = getxattr(right, b, name);
    return typeof one !== 'number' && typeof two !== 'number' && Buffer.compare(one, two) === 0;
  });
}
