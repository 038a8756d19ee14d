/**
 * A layer that was merged beside is put under an appliance's private layer, which has gone on since the instant that the layer was made for. What the layer changes must be as it was
 * then, and nothing of it may be in the private layer any more afterwards: an open file's name, which the freeze had left there, goes, as when the file is replaced by a
 * rename; a directory gets the layer's attributes. Looked at where both have something, so the cost is that of what changed since and of what is merged, not of the tree.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nameFromText, nameToText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fgetxattr,
  newStat,
  readDirectory,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../../sys/index.ts';
import type { MergeChoice } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { openBelow } from '../freeze/open-files.ts';
import { chosen } from '../merge/plan.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { OPAQUE, REDIRECT } from '../stack/merged-directory.ts';
import type { Stack } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';
import { eachMark, openDirectory, WHOLE } from '../whiteouts/whiteout-sets.ts';
import { isWhiteout, looksLike, wasLeftAlone } from './left-alone.ts';
import { rootFacts } from './root-facts.ts';

/** In the directory of a frozen layer that is not under its appliance's private layer yet. */
export const ADOPT_FILE = 'adopt.json';

/** What the layer does that its own tree does not tell. Names are latin1. */
export interface AdoptFacts {
  /** Paths that it removes, with all below. */
  removes: string[];
  /** Whose version counts where both changed something. Paths are latin1 without a leading slash. */
  choice: MergeChoice;
  /** What the appliance's root was before: `rootFacts`. */
  root: string;
}

/** `remove`: a name of the private layer; `attributes`: a directory gets those of the layer; `times`: only when it was changed last. */
export interface AdoptAction {
  path: string;
  how: 'remove' | 'remove-directory' | 'attributes' | 'times';
}

export interface Adoption {
  /** The directory of the layer. */
  dir: string;
  actions: AdoptAction[];
}

/** The layer of a stack that is yet to be adopted, or null. */
export function layerToAdopt(core: Core, next: Stack): string | null {
  const known = new Set(core.stack.units);
  const level = next.units.findIndex((unit) => unit.frozen !== null && !known.has(unit));
  const dir = level < 0 ? null : dirname(next.units[level]!.treeDir);
  return dir !== null && existsSync(join(dir, ADOPT_FILE)) ? dir : null;
}

interface Look {
  core: Core;
  layerFd: number;
  removes: ReadonlySet<string>;
  /** Every path above one of them. */
  above: ReadonlySet<string>;
  facts: AdoptFacts;
  removals: AdoptAction[];
  attributes: AdoptAction[];
}

/** Throws BUSY, naming the path, when something changed that the layer changes too. The core shows the stack without the layer. */
export function* prepareAdoption(core: Core, dir: string): Steps<Adoption> {
  const facts = JSON.parse(readFileSync(join(dir, ADOPT_FILE), 'utf8')) as AdoptFacts;
  const layerFd = openDirectory(AT_FDCWD, nameFromText(join(dir, 'private')));
  if (layerFd < 0) throw new StrataError('IO', `the merged layer ${dir} cannot be read`);
  const above = new Set<string>();
  for (const path of facts.removes)
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1))
      above.add(path.slice(0, at));
  const removes = new Set(facts.removes);
  const look: Look = { core, layerFd, removes, above, facts, removals: [], attributes: [] };
  try {
    yield* lookAtMarks(look, dir);
    const pending: string[][] = [[]];
    for (let parts = pending.pop(); parts !== undefined; parts = pending.pop()) {
      yield;
      lookAtDirectory(look, parts, pending);
    }
    return { dir, actions: [...look.removals, ...look.attributes] };
  } finally {
    close(layerFd);
  }
}

/** Who asked for the other version there gets it, whatever was changed meanwhile. */
function isForced({ facts }: Look, path: string): boolean {
  return chosen(facts.choice, path) === 'theirs';
}

function changed(path: string): StrataError {
  return new StrataError('BUSY', `/${nameToText(path as never)} was changed while the merge was made`);
}

/** Whether the layer has something at a path, or removes it, or something above or below it. */
function isTouched({ layerFd, removes, above }: Look, path: string): boolean {
  if (removes.has(path) || above.has(path)) return true;
  for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1))
    if (removes.has(path.slice(0, at))) return true;
  const parts = path.split('/');
  const fd = openBelow(layerFd, parts.slice(0, -1));
  const isThere = fd >= 0 && statAt(fd, parts.at(-1)!, stat) === 0;
  if (fd >= 0) close(fd);
  return isThere;
}

/** What was removed since: marks name the places of the layers, which are others where directories were renamed. */
function* lookAtMarks(look: Look, dir: string): Steps<void> {
  const { core } = look;
  const fd = openDirectory(AT_FDCWD, nameFromText(core.whiteoutsDir));
  if (fd < 0) return;
  try {
    // Then the layer's own marks would not count.
    if (statAt(fd, WHOLE, stat) === 0 && hasEntries(join(dir, 'whiteouts'))) throw changed('');
    for (const path of eachMark(fd, core.stack.levelOfSet)) {
      yield;
      for (const place of placesOfLayerPath(core, path)) {
        const at = place.join('/');
        if (isTouched(look, at) && !isForced(look, at)) throw changed(at);
      }
    }
  } finally {
    close(fd);
  }
}

function hasEntries(dir: string): boolean {
  const fd = openDirectory(AT_FDCWD, nameFromText(dir));
  const entries = fd < 0 ? [] : readDirectory(fd);
  if (fd >= 0) close(fd);
  return typeof entries === 'number' || entries.length > 0;
}

const stat = newStat();
const other = newStat();

/** A directory that the private layer has, and the layer too, unless it only removes something in it. */
function lookAtDirectory(look: Look, parts: string[], pending: string[][]): void {
  const { core, layerFd, removes, above } = look;
  const path = parts.join('/');
  const node = directoryByPath(core, parts);
  const fd = openBelow(core.rootFd, parts);
  const layer = openBelow(layerFd, parts);
  try {
    if (node === null || fd < 0) return;
    if (layer >= 0) lookAtAttributes(look, node, path, fd, layer);
    const entries = readDirectory(fd);
    for (const { name } of typeof entries === 'number' ? [] : entries) {
      const at = path === '' ? name : `${path}/${name}`;
      const inLayer = layer >= 0 && statAt(layer, name, other) === 0;
      const theirKind = inLayer ? other.mode & S_IFMT : 0;
      if (!inLayer && !removes.has(at) && !above.has(at)) continue;
      if (statAt(fd, name, stat) !== 0) continue;
      if (isWhiteout(stat)) {
        if (!isForced(look, at)) throw changed(at);
        look.removals.push({ path: at, how: 'remove' });
        continue;
      }
      const goesOn =
        (stat.mode & S_IFMT) === S_IFDIR &&
        !removes.has(at) &&
        (inLayer ? theirKind === S_IFDIR && !standsAlone(layer, name) : above.has(at));
      if (!goesOn) takeAway(look, node, fd, name, at);
      else if (standsAlone(fd, name)) throw changed(at);
      else pending.push([...parts, name]);
    }
  } finally {
    for (const one of [fd, layer]) if (one >= 0) close(one);
    if (node !== null) releaseIfUnused(core, node);
  }
}

/** An opaque directory, or a renamed one: it does not show what others have at its place. */
function standsAlone(dirfd: number, name: string): boolean {
  const fd = openDirectory(dirfd, name);
  if (fd < 0) return true;
  const found = [OPAQUE, REDIRECT].some((mark) => typeof fgetxattr(fd, mark) !== 'number');
  close(fd);
  return found;
}

function lookAtAttributes(look: Look, node: Node, path: string, fd: number, layer: number): void {
  const { core, facts } = look;
  const [mine, theirs] = [rootFacts(fd), rootFacts(layer)];
  const isRoot = node === core.root;
  const isAsBefore = (said: string, one: number): boolean =>
    isRoot ? said === facts.root : looksLike(core, node, one);
  if (mine === theirs || isAsBefore(theirs, layer)) look.attributes.push({ path, how: 'times' });
  else if (isAsBefore(mine, fd) || isForced(look, path)) look.attributes.push({ path, how: 'attributes' });
  else throw changed(path);
}

/** What the layer has another version of: it must be as it was, with all below; then its names go. */
function takeAway(look: Look, parent: Node, dirfd: number, name: string, path: string): void {
  const { core, removals } = look;
  if (!isForced(look, path) && !wasLeftAlone(core, parent, dirfd, name)) throw changed(path);
  if (statAt(dirfd, name, stat) === 0 && (stat.mode & S_IFMT) !== S_IFDIR) {
    removals.push({ path, how: 'remove' });
    return;
  }
  const directories: string[] = [];
  const pending = [path];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    directories.push(at);
    const parts = at.split('/');
    const node = directoryByPath(core, parts);
    const fd = openBelow(core.rootFd, parts);
    try {
      if (node === null || fd < 0) throw changed(at);
      const entries = readDirectory(fd);
      for (const entry of typeof entries === 'number' ? [] : entries) {
        const below = `${at}/${entry.name}`;
        if (statAt(fd, entry.name, stat) !== 0) continue;
        const isDirectory = (stat.mode & S_IFMT) === S_IFDIR;
        const isAsItWas = !isWhiteout(stat) && wasLeftAlone(core, node, fd, entry.name);
        if (!isAsItWas && !isForced(look, below)) throw changed(below);
        if (isDirectory) pending.push(below);
        else removals.push({ path: below, how: 'remove' });
      }
    } finally {
      if (fd >= 0) close(fd);
      if (node !== null) releaseIfUnused(core, node);
    }
  }
  for (const at of directories.reverse()) removals.push({ path: at, how: 'remove-directory' });
}
