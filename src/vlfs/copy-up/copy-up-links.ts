/**
 * Copy-up of hard-linked files: every visible name of the shared inode gets a link to the one private copy. More than one link needs
 * a journal: the finished copy stands in the work directory as `l*` with its names in `trusted.strata.links` (those of many names in a file that the attribute
 * names); from that rename on the change will be finished, after a crash by `finishLinkJournals` at the next opening. The journal itself becomes
 * the last name, so that a file with as many names as the file system allows can be copied up.
 */
import {
  close,
  E,
  fsync,
  getxattrAt,
  linkat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_NOFOLLOW,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  openat,
  pread,
  RENAME_NOREPLACE,
  readDirectory,
  removexattrAt,
  renameat2,
  type Stat,
  setxattrAt,
  statAt,
  unlinkat,
  write,
} from '../../sys/index.ts';
import { attributesMoved, type Core, type Node, step } from '../core.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { attachName, detachName, pathOf, releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt, resolve, SHARED } from '../operations/lookup.ts';
import { keepTimes, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import { temporaryName } from '../private-layer/work-dir.ts';
import { entryOf, unitOf } from '../stack/merged-directory.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

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
  const journal = `l${temporaryName(core)}`;
  const recorded = record(work, temporary, `n${journal}`, paths);
  if (recorded < 0) return recorded;
  step(core, 'copy-up links: journal');
  const committed = renameat2(work, temporary, work, journal);
  if (committed < 0) return committed;
  let kept: Stat | null = null;
  for (const [i, place] of places.entries()) {
    const fd = privateDirectory(core, place.parent);
    // Names that come one after the other are mostly in one directory: its times are looked at and restored once.
    if (place.parent !== places[i - 1]?.parent) kept = keepTimes(fd);
    step(core, 'copy-up links: link');
    const linked = fd < 0 ? fd : giveName(work, journal, fd, place.name, i === places.length - 1);
    if (linked < 0) return undo(core, work, temporary, journal, places.slice(0, i), linked);
    if (place.parent === places[i + 1]?.parent) continue;
    restoreTimes(fd, kept);
    attributesMoved(core, place.parent);
  }
  step(core, 'copy-up links: done');
  unlinkat(work, `n${journal}`);
  // Its space is for the attributes of programs.
  const last = places.at(-1)!;
  removexattrAt(privateDirectory(core, last.parent), last.name, LINKS_XATTR);
  return 0;
}

function giveName(work: number, journal: string, fd: number, name: string, isLast: boolean): number {
  return isLast ? renameat2(work, journal, fd, name, RENAME_NOREPLACE) : linkat(work, journal, fd, name);
}

/** Notes the paths at the copy; in `namesFile` when an attribute cannot hold them. 0 or a negative errno. */
function record(work: number, temporary: string, namesFile: string, paths: readonly string[]): number {
  const text = Buffer.from(paths.join('\0'), 'latin1');
  const noted = setxattrAt(work, temporary, LINKS_XATTR, text);
  if (![-E.NOSPC, -E.TOOBIG, -E.RANGE].includes(noted)) return noted;
  const fd = openat(work, namesFile, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0o600);
  if (fd < 0) return fd;
  let result = 0;
  for (let done = 0; done < text.length && result >= 0; done += Math.max(0, result))
    result = write(fd, text.subarray(done), text.length - done);
  // What the attribute refers to must not be empty after a power cut.
  if (result >= 0) result = fsync(fd);
  close(fd);
  if (result >= 0) result = setxattrAt(work, temporary, LINKS_XATTR, Buffer.from(`\0${namesFile}`, 'latin1'));
  if (result < 0) unlinkat(work, namesFile);
  return result;
}

/** The paths that a journal notes; none when it cannot be read. */
function recorded(work: number, journal: string): string[] {
  const value = getxattrAt(work, journal, LINKS_XATTR);
  if (typeof value === 'number') return [];
  const text = Buffer.from(value).toString('latin1');
  return (text.startsWith('\0') ? namesIn(work, text.slice(1)) : text).split('\0');
}

function namesIn(work: number, file: string): string {
  const fd = openat(work, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return '';
  const parts: Buffer[] = [];
  for (let at = 0; ; ) {
    const part = Buffer.alloc(1 << 16);
    const got = pread(fd, part, part.length, at);
    if (got <= 0) break;
    parts.push(part.subarray(0, got));
    at += got;
  }
  close(fd);
  return Buffer.concat(parts).toString('latin1');
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
  unlinkat(work, `n${journal}`);
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
    for (const path of recorded(work, name)) linkAt(rootFd, work, name, path);
    removexattrAt(work, name, LINKS_XATTR);
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
  if (statAt(fd, name, stat) === -E.NOENT && linkat(work, journal, fd, name) === -E.MLINK)
    renameat2(work, journal, fd, name, RENAME_NOREPLACE);
  close(fd);
}
