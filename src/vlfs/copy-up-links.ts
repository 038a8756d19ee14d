/**
 * Copy-up of hard-linked files: every visible name of the shared inode gets a link to the one private copy. More than one link needs
 * a journal: the finished copy stands in the work directory as `l*` with its names in `trusted.strata.links`; from that rename on the change
 * will be finished, after a crash by `finishLinkJournals` at the next opening.
 */
import {
  close,
  E,
  getxattrAt,
  linkat,
  newStat,
  readDirectory,
  renameat2,
  setxattrAt,
  statAt,
  unlinkat,
} from '../sys/index.ts';
import { attributesMoved, type Core, type Node, step } from './core.ts';
import { nodeAt, resolve, SHARED } from './lookup.ts';
import { entryOf, unitOf } from './merged-directory.ts';
import { placesOfLayerPath } from './moved-directories.ts';
import { attachName, detachName, pathOf, releaseIfUnused } from './nodes.ts';
import { keepTimes, privateDirectory, restoreTimes } from './private-layer.ts';
import { openDirectory } from './whiteout-sets.ts';
import { temporaryName } from './work-dir.ts';

export const LINKS_XATTR = 'trusted.strata.links';

export interface LinkPlace {
  parent: Node;
  name: string;
}

/** All visible names of a shared file: those that were looked up, and those that the index knows and that still show this inode. */
export function placesOf(core: Core, node: Node): LinkPlace[] {
  if (node.parent === null) return [];
  const places: LinkPlace[] = [{ parent: node.parent, name: node.name }, ...(node.moreNames?.values() ?? [])];
  const unit = node.unit!;
  const { index } = unit;
  const count = index.nlink(node.entry);
  if (count < 2) return places;
  unit.frozen?.completeLinks();
  for (let entry = node.entry, left = count; left > 0; entry = index.hardLinkNext(entry), left--) {
    for (const parts of placesOfLayerPath(core, index.path(entry))) {
      const name = parts.pop()!;
      const parent = directoryByPath(core, parts);
      if (parent === null) continue;
      const shows =
        resolve(core, parent, name) === SHARED &&
        unitOf(core.stack, core.ref) === unit &&
        entryOf(core.ref) === entry;
      if (!shows) releaseIfUnused(core, parent);
      else if (parent.children!.get(name) !== node) {
        detachName(core, parent, name);
        attachName(core, node, parent, name);
        places.push({ parent, name });
      }
    }
  }
  return places;
}

/** The directory node at a path, or null. Its nodes live as long as something uses them. */
export function directoryByPath(core: Core, parts: readonly string[]): Node | null {
  let at = core.root;
  for (const part of parts) {
    const next = nodeAt(core, at, part);
    if (typeof next === 'number' || next.children === null) {
      releaseIfUnused(core, at);
      return null;
    }
    at = next;
  }
  return at;
}

/** Links the copy to all places, by a journal. 0 or a negative errno (then nothing is linked). */
export function linkEverywhere(
  core: Core,
  work: number,
  temporary: string,
  places: readonly LinkPlace[],
): number {
  const paths: string[] = [];
  for (const place of places) {
    const fd = privateDirectory(core, place.parent);
    if (fd < 0) return fd;
    const path = pathOf(core, place.parent, place.name);
    if (path === null) return -E.STALE;
    paths.push(path);
  }
  const recorded = setxattrAt(work, temporary, LINKS_XATTR, Buffer.from(paths.join('\0'), 'latin1'));
  if (recorded < 0) return recorded;
  const journal = `l${temporaryName(core)}`;
  step(core, 'copy-up links: journal');
  const committed = renameat2(work, temporary, work, journal);
  if (committed < 0) return committed;
  for (const [i, place] of places.entries()) {
    const fd = privateDirectory(core, place.parent);
    const kept = keepTimes(fd);
    step(core, 'copy-up links: link');
    const linked = fd < 0 ? fd : linkat(work, journal, fd, place.name);
    if (linked < 0) return undo(core, work, temporary, journal, places.slice(0, i), linked);
    restoreTimes(fd, kept);
    attributesMoved(core, place.parent);
  }
  step(core, 'copy-up links: done');
  unlinkat(work, journal);
  return 0;
}

function undo(
  core: Core,
  work: number,
  temporary: string,
  journal: string,
  done: readonly LinkPlace[],
  errno: number,
): number {
  for (const place of done) {
    const fd = privateDirectory(core, place.parent);
    if (fd >= 0) unlinkat(fd, place.name);
  }
  renameat2(work, journal, work, temporary);
  return errno;
}

const stat = newStat();

/** Finishes the hard-link copy-ups that a crash cut off. `rootFd` is private/, `work` the work directory. */
export function finishLinkJournals(rootFd: number, work: number): void {
  const listing = openDirectory(work, '.');
  if (listing < 0) return;
  const entries = readDirectory(listing);
  close(listing);
  if (typeof entries === 'number') return;
  for (const { name } of entries) {
    if (!name.startsWith('l')) continue;
    const value = getxattrAt(work, name, LINKS_XATTR);
    if (typeof value !== 'number') {
      for (const path of Buffer.from(value).toString('latin1').split('\0')) linkAt(rootFd, work, name, path);
    }
    unlinkat(work, name);
  }
}

function linkAt(rootFd: number, work: number, journal: string, path: string): void {
  const parts = path.split('/');
  const name = parts.pop();
  if (name === undefined || name === '' || name === '.' || name === '..') return;
  let fd = openDirectory(rootFd, '.');
  for (const part of parts) {
    if (fd < 0 || part === '..' || part === '.') break;
    const next = openDirectory(fd, part);
    close(fd);
    fd = next;
  }
  if (fd < 0) return;
  if (statAt(fd, name, stat) === -E.NOENT) linkat(work, journal, fd, name);
  close(fd);
}
