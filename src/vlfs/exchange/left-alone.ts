/**
 * Whether what the private layer has at a name is what the stack shows below it: a file that the freeze left to who has it open, a copy that nobody changed, a directory that only leads to
 * something. Told by attributes and times, as the freeze does; where times may not tell, it counts as changed.
 */
import {
  dirtyPages,
  fgetxattr,
  flistxattr,
  fstat,
  getxattrAt,
  listxattrAt,
  newStat,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  type Stat,
  splitXattrList,
  statAt,
} from '../../sys/index.ts';
import type { Attr } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { FINE_TIMES } from '../freeze/copies.ts';
import { isMappedAbove } from '../freeze/open-files.ts';
import { indexAttr, newAttr } from '../nodes/attributes.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { isOpaque } from '../stack/child-directories.ts';
import { entryOf, NOTHING_HIDDEN, OPAQUE, REDIRECT, topOf, unitOf } from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import type { Unit } from '../stack/stack.ts';

const stat = newStat();

export function isWhiteout({ mode, rdev }: Stat): boolean {
  return (mode & S_IFMT) === S_IFCHR && rdev === 0;
}

/** Whether an open private directory says of itself what the directory of the stack does that `node` is; the root has none. */
export function looksLike(core: Core, node: Node, fd: number): boolean {
  if (node.merged === null || fstat(fd, stat) < 0) return false;
  const ref = topOf(node.merged);
  if (ref < 0) return false;
  const unit = unitOf(core.stack, ref);
  return (
    isAlike(unit, entryOf(ref), stat) &&
    hasAttributes(unit, entryOf(ref), (name) => fgetxattr(fd, name), flistxattr(fd))
  );
}

/** `parent`: the directory, `dirfd`: its private copy, which has the name. */
export function wasLeftAlone(core: Core, parent: Node, dirfd: number, name: string): boolean {
  if (parent.merged === null || statAt(dirfd, name, stat) !== 0 || isWhiteout(stat)) return false;
  const ref = visibleOf(namesOf(parent.merged).get(name), core.hidden);
  if (ref < 0) return false;
  const unit = unitOf(core.stack, ref);
  const entry = leaderOf(unit, entryOf(ref));
  if (!isAlike(unit, entry, stat)) return false;
  const list = listxattrAt(dirfd, name);
  if (!hasAttributes(unit, entry, (attribute) => getxattrAt(dirfd, name, attribute), list)) return false;
  if ((stat.mode & S_IFMT) !== S_IFDIR) return !mayBeWritten(core, parent.children?.get(name));
  const opaque = getxattrAt(dirfd, name, OPAQUE);
  const isOpen = typeof opaque === 'number' || !isOpaque(opaque);
  return isOpen && typeof getxattrAt(dirfd, name, REDIRECT) === 'number';
}

function leaderOf({ index }: Unit, entry: number): number {
  return index.nlink(entry) > 1 && index.kind(entry) !== S_IFDIR ? index.hardLinkLeader(entry) : entry;
}

const attr: Attr = newAttr();

function isAlike(unit: Unit, entry: number, now: Stat): boolean {
  indexAttr(unit, entry, NOTHING_HIDDEN, -1, attr);
  const kind = now.mode & S_IFMT;
  if (now.mode !== attr.mode || now.uid !== attr.uid || now.gid !== attr.gid) return false;
  if (kind === S_IFDIR) return true;
  const isSameTime = now.mtimeSec === attr.mtimeSec && now.mtimeNsec === attr.mtimeNsec;
  return isSameTime && now.rdev === attr.rdev && (kind !== S_IFREG || now.size === attr.size);
}

/** Whether an object has the attributes of the entry, of those that programs see. */
function hasAttributes(
  { index }: Unit,
  entry: number,
  get: (name: string) => Uint8Array | number,
  list: Uint8Array | number,
): boolean {
  const names = typeof list === 'number' ? [] : splitXattrList(list).filter((name) => !isInternal(name));
  const before = new Map<string, Uint8Array>(index.hasXattrs(entry) ? index.xattrs(entry) : []);
  for (const name of before.keys()) if (isInternal(name)) before.delete(name);
  if (names.length !== before.size) return false;
  return names.every((name) => {
    const value = get(name);
    const was = before.get(name);
    return typeof value !== 'number' && was !== undefined && Buffer.compare(value, was) === 0;
  });
}

/** Whether programs may have stored something that the times do not tell. */
function mayBeWritten(core: Core, node: Node | undefined): boolean {
  const backing = node?.backing ?? null;
  if (node === undefined || backing === null || backing.shared || backing.fd < 0) return false;
  const cached = backing.cached || !core.passthrough;
  if (isMappedAbove({ node, cached })) return true;
  if (!FINE_TIMES && !cached && node.writers > 0) return true;
  return node.mappers > 0 && dirtyPages(backing.fd) !== 0;
}
