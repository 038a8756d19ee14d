/**
 * Attributes of nodes: shared ones come from the index without a system call, private ones from one statx. st_ino is the node's.
 */
import { E, fstat, newStat, S_IFLNK, S_IFMT, S_ISGID, S_ISUID, type Stat, statAt } from '../../sys/index.ts';
import type { Attr, EntryOut } from '../contract.ts';
import { placesOf } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { partialOf } from '../delta/partial-file.ts';
import { blocksShown } from '../delta/partial-io.ts';
import { confirm, PRIVATE, refresh } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { entryOf, type HiddenEntries, mergedTimes, topOf, unitOf } from '../stack/merged-directory.ts';
import type { Unit } from '../stack/stack.ts';
import { hasMoves } from './moved-directories.ts';

/** This process is the only authority over the tree, so the kernel may keep what it was told. */
const LONG_MS = 24 * 3_600_000;
/** Of files that are open for writing: mmap and passthrough change their times without asking. */
const WRITTEN_MS = 1000;

const stat = newStat();

export function newAttr(): Attr {
  return {
    ino: 0,
    size: 0,
    blocks: 0,
    atimeSec: 0,
    atimeNsec: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    ctimeSec: 0,
    ctimeNsec: 0,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
  };
}

/** Fills `out` for a node with a name, or one that is open; 0 or a negative errno (-ESTALE: it is gone). */
export function fillAttr(core: Core, node: Node, out: Attr): number {
  if (node.children !== null) return directoryAttr(core, node, out);
  if (node.gone !== null && (node.backing === null || node.backing.shared)) {
    Object.assign(out, node.gone);
    return 0;
  }
  if (node.successor !== null) return successorAttr(core, node, out);
  if (!node.priv && node.unit === null) return orphanAttr(node, out);
  if (!node.priv) {
    indexAttr(node.unit!, node.entry, core.hidden, levelIn(core, node.unit!), out);
    out.ino = node.ino;
    // Where directories were renamed, a mark on the old place of one does not tell whether its names still show.
    if (out.nlink !== node.unit!.index.nlink(node.entry) && node.parent !== null && hasMoves(core)) {
      out.nlink = placesOf(core, node).length;
    }
    return 0;
  }
  const result = statNode(core, node, stat);
  if (result < 0) return result === -E.NOENT ? -E.STALE : result;
  statAttr(stat, node.ino, out);
  showPartial(core, node, out);
  return 0;
}

/** A partial file takes the space of what it shows, and has the times that it had before somebody began to complete it. */
function showPartial(core: Core, node: Node, out: Attr): void {
  const partial = core.hasPartials ? partialOf(core, node) : null;
  if (partial === null) return;
  out.blocks = blocksShown(partial, out.blocks);
  if (partial.filling !== null) Object.assign(out, partial.filling.times);
}

/** A file of a unit that left the stack before this process took over: what is open shows itself, else the kernel walks again. */
function orphanAttr(node: Node, out: Attr): number {
  if (node.backing === null || node.backing.fd < 0 || fstat(node.backing.fd, stat) < 0) return -E.STALE;
  statAttr(stat, node.ino, out);
  return 0;
}

/** Metadata of the successor, size and times of the old content, which the open handles still read. */
function successorAttr(core: Core, node: Node, out: Attr): number {
  const result = fillAttr(core, node.successor!, out);
  if (result < 0) return result;
  if (node.unit === null) {
    if (node.backing === null || fstat(node.backing.fd, stat) < 0) return 0;
    out.size = stat.size;
    out.blocks = stat.blocks;
    return 0;
  }
  const { index } = node.unit;
  out.size = index.size(node.entry);
  out.blocks = index.blocks(node.entry);
  out.mtimeSec = index.mtimeSec(node.entry);
  out.mtimeNsec = index.mtimeNsec(node.entry);
  return 0;
}

/** stat of the private file behind a node: by an open descriptor, else by name. */
export function statNode(core: Core, node: Node, into: Stat): number {
  if (node === core.root) return fstat(core.rootFd, into);
  if (node.backing !== null && !node.backing.shared) return fstat(node.backing.fd, into);
  if (node.generation !== core.generation) {
    const confirmed = confirm(core, node);
    if (confirmed < 0) return confirmed;
  }
  if (node.parent === null) return -E.STALE;
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : statAt(fd, node.name, into);
}

function directoryAttr(core: Core, node: Node, out: Attr): number {
  if (node.gone !== null && node.parent === null) {
    Object.assign(out, node.gone);
    return 0;
  }
  const checked = refresh(core, node);
  if (checked < 0) return -E.STALE;
  if (node.priv) {
    const result = statNode(core, node, stat);
    if (result < 0) return result;
    statAttr(stat, node.ino, out);
    if (node.merged !== null && node.merged.contributors.length > 0) out.nlink = 1;
    return 0;
  }
  const ref = topOf(node.merged!);
  const unit = unitOf(core.stack, ref);
  indexAttr(unit, entryOf(ref), core.hidden, -1, out);
  if (unit.frozen !== null) {
    out.ino = node.ino;
    if (node.merged!.contributors.length > 1) out.nlink = 1;
    return 0;
  }
  const times = mergedTimes(node.merged!);
  out.mtimeSec = out.atimeSec = out.ctimeSec = times.mtimeSec;
  out.mtimeNsec = out.atimeNsec = out.ctimeNsec = times.mtimeNsec;
  out.ino = node.ino;
  out.nlink = 1;
  out.size = 4096;
  out.blocks = 8;
  return 0;
}

export function statAttr(from: Stat, ino: number, out: Attr): void {
  out.ino = ino;
  out.size = from.size;
  out.blocks = from.blocks;
  out.atimeSec = from.atimeSec;
  out.atimeNsec = from.atimeNsec;
  out.mtimeSec = from.mtimeSec;
  out.mtimeNsec = from.mtimeNsec;
  out.ctimeSec = from.ctimeSec;
  out.ctimeNsec = from.ctimeNsec;
  out.mode = from.mode;
  out.nlink = from.nlink;
  out.uid = from.uid;
  out.gid = from.gid;
  out.rdev = from.rdev;
  out.blksize = from.blksize;
}

function levelIn(core: Core, unit: Unit): number {
  return core.stack.levelOfSet.get(unit.setDir) ?? -1;
}

/** Attributes of an entry. Access and change time are the modification time: a layer's tree never changes. A frozen one has those it had. */
export function indexAttr(unit: Unit, entry: number, hidden: HiddenEntries, level: number, out: Attr): void {
  const { index, frozen } = unit;
  out.mode = index.mode(entry);
  out.size = (out.mode & S_IFMT) === S_IFLNK ? index.symlinkTarget(entry).length : index.size(entry);
  out.blocks = index.blocks(entry);
  out.mtimeSec = out.atimeSec = out.ctimeSec = index.mtimeSec(entry);
  out.mtimeNsec = out.atimeNsec = out.ctimeNsec = index.mtimeNsec(entry);
  out.uid = index.uid(entry);
  out.gid = index.gid(entry);
  out.rdev = index.rdev(entry);
  out.blksize = 4096;
  out.nlink = index.nlink(entry);
  if (frozen !== null) {
    const { atimeSec, atimeNsec, ctimeSec, ctimeNsec, blksize } = frozen.stat(entry);
    Object.assign(out, { atimeSec, atimeNsec, ctimeSec, ctimeNsec, blksize });
  }
  const set = level < 0 || out.nlink < 2 ? undefined : hidden.levels[level];
  if (set === undefined) return;
  frozen?.completeLinks();
  for (
    let at = index.hardLinkNext(entry), left = index.nlink(entry);
    left > 0;
    at = index.hardLinkNext(at), left--
  ) {
    if (hiddenWithAncestors(unit, at, set)) out.nlink--;
  }
  if (out.nlink < 0) out.nlink = 0;
}

function hiddenWithAncestors(unit: Unit, entry: number, set: ReadonlySet<number>): boolean {
  for (let at = entry; at !== 0; at = unit.index.parent(at)) if (set.has(at)) return true;
  return false;
}

/**
 * How long the kernel may trust the node's attributes: it sees writes, but not stores through mappings, and the next write through
 * passthrough ends set-user-id bits without asking.
 */
export function attrValidMs(core: Core, node: Node, attr: Attr): number {
  if (node.writers === 0 || core.noOpen) return LONG_MS;
  if (attr.mode & (S_ISUID | S_ISGID)) return 0;
  return node.mappers > 0 ? WRITTEN_MS : LONG_MS;
}

/** Fills the reply of a lookup and counts it. 0 or a negative errno. */
export function fillEntry(core: Core, node: Node, out: EntryOut): number {
  const result = fillAttr(core, node, out.attr);
  return result < 0 ? result : countEntry(core, node, out);
}

/** As fillEntry, for the node that `nodeAt` just gave: its stat is at hand. */
export function fillFound(core: Core, node: Node, out: EntryOut): number {
  if (core.where !== PRIVATE || node.children !== null) return fillEntry(core, node, out);
  statAttr(core.stat, node.ino, out.attr);
  showPartial(core, node, out.attr);
  return countEntry(core, node, out);
}

/** As fillEntry, for a file that was just made and whose stat is at hand. */
export function fillBorn(core: Core, node: Node, born: Stat, out: EntryOut): number {
  statAttr(born, node.ino, out.attr);
  return countEntry(core, node, out);
}

function countEntry(core: Core, node: Node, out: EntryOut): number {
  out.nodeId = node.id;
  out.generation = 0;
  out.entryValidMs = LONG_MS;
  out.attrValidMs = attrValidMs(core, node, out.attr);
  node.lookups++;
  core.ledger?.known(node);
  return 0;
}

/** A name that does not exist, which the kernel may remember. */
export function fillNegative(out: EntryOut): void {
  out.nodeId = 0;
  out.generation = 0;
  out.entryValidMs = LONG_MS;
  out.attrValidMs = 0;
}
