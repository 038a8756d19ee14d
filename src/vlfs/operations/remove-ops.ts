/**
 * unlink and rmdir. A shared original is hidden by whiteouts in the set of each layer that holds it, before the private copy goes; so at
 * every instant one sees before or after. Who holds a removed object keeps it.
 */
import {
  close,
  type DirectoryEntry,
  DT_CHR,
  E,
  mknodat,
  newStat,
  RENAME_EXCHANGE,
  readSomeEntries,
  renameat2,
  S_IFCHR,
  S_IFMT,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import type { Attr, Caller } from '../contract.ts';
import { closeLarge, holdLarge } from '../copy-up/large-files.ts';
import { type Core, type Node, step } from '../core.ts';
import { waitForCopy } from '../freeze/follow.ts';
import { STEP } from '../ledger/layout.ts';
import { fillAttr, newAttr, statAttr } from '../nodes/attributes.ts';
import { forgetMoved } from '../nodes/moved-directories.ts';
import { detachName, forgetInode, pathOf, releaseIfUnused } from '../nodes/nodes.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory, touchDirectory } from '../private-layer/private-layer.ts';
import { discard, removeTree, temporaryName, workFd } from '../private-layer/work-dir.ts';
import type { Reference } from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import { manyMarks } from '../whiteouts/many-marks.ts';
import { freeOldPlace, hideOldPlace, leavesWhiteout } from '../whiteouts/old-places.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { hide } from '../whiteouts/whiteouts.ts';
import { checkName, nodeAt, PRIVATE, refresh, uncovered } from './lookup.ts';

export function unlink(core: Core, caller: Caller, parent: Node, name: string): number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(name);
  if (bad < 0) return bad;
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number') return node === 0 ? removedBefore(core, parent, name) : node;
  if (node.children !== null) return -E.ISDIR;
  const waits = waitForCopy(core, caller, node);
  if (waits !== 0) return waits;
  const refs = uncovered(core, parent, name);
  const later = manyMarks(core, caller, refs, () => stillHides(core, parent, name));
  if (later !== 0) return later;
  const { priv } = node;
  let last: Attr | null = null;
  if (core.where !== PRIVATE) last = lastAttr(core, node);
  else if (node.moreNames === null) {
    last = newAttr();
    statAttr(core.stat, node.ino, last);
  }
  const above = chainPrivate(core, caller, parent);
  if (above !== 0) return above;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  noteLast(core, node, last);
  if (leavesWhiteout(core, parent, name)) {
    const covered = coverPrivately(core, parentFd, name, priv);
    if (covered < 0) return covered;
    loseName(core, node, parent, name, last);
    return 0;
  }
  const hidden = hide(core, refs);
  if (hidden < 0) return hidden;
  if (priv) {
    const held = holdLarge(core, node, parentFd, name, last);
    step(core, 'unlink');
    const removed = unlinkat(parentFd, name);
    closeLarge(core, held);
    if (removed < 0) return removed;
  } else touchDirectory(parentFd);
  loseName(core, node, parent, name, last);
  return 0;
}

/** What the removal of a file would hide now; nothing when it was removed or moved meanwhile. */
function stillHides(core: Core, parent: Node, name: string): readonly Reference[] {
  if ((parent !== core.root && parent.parent === null) || leavesWhiteout(core, parent, name)) return [];
  const node = nodeAt(core, parent, name);
  return typeof node === 'number' || node.children !== null ? [] : uncovered(core, parent, name);
}

/** A private whiteout comes to a name, in one step; `replaces`: in place of a private object. */
function coverPrivately(core: Core, parentFd: number, name: string, replaces: boolean): number {
  if (!replaces) {
    step(core, 'remove: whiteout');
    return mknodat(parentFd, name, S_IFCHR, 0);
  }
  const work = workFd(core);
  if (work < 0) return work;
  const temporary = temporaryName(core);
  const made = mknodat(work, temporary, S_IFCHR, 0);
  if (made < 0) return made;
  step(core, 'remove: whiteout');
  const exchanged = renameat2(work, temporary, parentFd, name, RENAME_EXCHANGE);
  removeTree(work, temporary);
  return exchanged;
}

export function rmdir(core: Core, caller: Caller, parent: Node, name: string): number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(name);
  if (bad < 0) return bad;
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number') return node === 0 ? removedBefore(core, parent, name) : node;
  if (node.children === null) return -E.NOTDIR;
  const empty = checkEmpty(core, node);
  if (empty < 0) return empty;
  const above = chainPrivate(core, caller, parent);
  if (above !== 0) return above;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const last = lastAttr(core, node);
  noteLast(core, node, last);
  const keepsHidden = leavesWhiteout(core, parent, name);
  const hidden = keepsHidden ? 0 : hide(core, uncovered(core, parent, name));
  if (hidden < 0) return hidden;
  const oldPlace = hideOldPlace(core, node);
  if (typeof oldPlace === 'number') return oldPlace;
  if (keepsHidden) {
    const gone = coverPrivately(core, parentFd, name, node.priv);
    if (gone < 0) return gone;
  } else if (node.priv) {
    const gone = discard(core, parentFd, name);
    if (gone < 0) return gone;
  } else touchDirectory(parentFd);
  if (node.redirect !== null) forgetMoved(core, pathOf(core, parent, name));
  loseName(core, node, parent, name, last);
  if (oldPlace !== null) freeOldPlace(core, oldPlace);
  node.priv = false;
  node.merged = null;
  return 0;
}

/** ENOENT, unless a former process was killed when it had removed the name and before it could say so. */
function removedBefore(core: Core, parent: Node, name: string): number {
  const resumed = core.ledger?.journal.resumed ?? null;
  if (resumed === null || resumed.step === STEP.none) return -E.NOENT;
  if (parent.priv) touchDirectory(directoryFd(core, parent));
  core.moved = null;
  const node = parent.children!.get(name);
  if (node === undefined) return 0;
  const last = core.lastAttrs?.get(node.id) ?? null;
  loseName(core, node, parent, name, last === null ? null : { ...last, ino: node.ino });
  if (node.children !== null) {
    node.priv = false;
    node.merged = null;
  }
  return 0;
}

/** What the kernel may still ask for after the removal, noted before it. */
export function noteLast(core: Core, node: Node, last: Attr | null): void {
  if (last !== null && node.lookups > 0) core.ledger?.gone(node, last);
}

const DT_UNKNOWN = 0;
const stat = newStat();

/** 0 when the directory shows nothing, -ENOTEMPTY, or another negative errno. */
export function checkEmpty(core: Core, node: Node): number {
  const checked = refresh(core, node);
  if (checked < 0) return checked;
  const whiteouts = new Set<string>();
  if (node.priv) {
    const fd = openDirectory(directoryFd(core, node), '.');
    if (fd < 0) return fd;
    const result = onlyWhiteouts(fd, whiteouts);
    close(fd);
    if (result < 0) return result;
  }
  if (node.merged === null) return 0;
  for (const [name, candidates] of namesOf(node.merged)) {
    if (visibleOf(candidates, core.hidden) >= 0 && !whiteouts.has(name)) return -E.NOTEMPTY;
  }
  return 0;
}

/** Gathers the whiteouts of an open private directory; -ENOTEMPTY as soon as there is anything else. */
function onlyWhiteouts(fd: number, into: Set<string>): number {
  for (;;) {
    const entries: DirectoryEntry[] = [];
    const more = readSomeEntries(fd, entries);
    if (more <= 0) return more;
    for (const { name, type } of entries) {
      if (!isWhiteoutEntry(fd, name, type)) return -E.NOTEMPTY;
      into.add(name);
    }
  }
}

/** Whether an entry of a private directory is a whiteout. */
export function isWhiteoutEntry(fd: number, name: string, type: number): boolean {
  if (type !== DT_CHR && type !== DT_UNKNOWN) return false;
  return statAt(fd, name, stat) === 0 && (stat.mode & S_IFMT) === S_IFCHR && stat.rdev === 0;
}

/** The attributes of an object that is about to lose the only name that is known; null when it has others. */
export function lastAttr(core: Core, node: Node): Attr | null {
  if (node.moreNames !== null) return null;
  const attr = newAttr();
  return fillAttr(core, node, attr) === 0 ? attr : null;
}

/** After a name went on disk. */
export function loseName(core: Core, node: Node, parent: Node, name: string, last: Attr | null): void {
  node.lookups++; // Keeps it while its name goes.
  detachName(core, parent, name);
  if (node.parent === null && node.successor === null) {
    if (last !== null) {
      last.nlink = node.children !== null ? 0 : Math.max(0, last.nlink - 1);
      node.gone = last;
      core.ledger?.gone(node, last);
    }
    if (last === null || last.nlink === 0) forgetInode(core, node);
  }
  node.lookups--;
  core.ledger?.counted(node);
  releaseIfUnused(core, node);
}
