/**
 * Reading directories without handles: a name's cookie is a hash of it, and entries are sent in the order of their cookies. So a reader can go on
 * from any cookie whatever changed meanwhile, also after a relayer, and the kernel needs no OPENDIR. With attributes (READDIRPLUS) each name is
 * looked up when it is sent, and left out when it went meanwhile. A listing under way is kept in a bounded cache.
 */

import type { Name } from '../base/index.ts';
import { close, type DirectoryEntry, DT_DIR, E, getxattrAt, readDirectory, S_IFMT } from '../sys/index.ts';
import { fillFound, newAttr } from './attributes.ts';
import type { DirectorySink, EntryOut } from './contract.ts';
import type { Core, Node } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { privateIno } from './inode-numbers.ts';
import { dropListing, keepListing, keptListing, type ListedEntry, type Listing } from './listings.ts';
import { decodeIno, INO_XATTR, nodeAt, refresh } from './lookup.ts';
import {
  childDirectory,
  entryOf,
  type MergedDirectory,
  mergedIno,
  namesOf,
  unitOf,
  visibleOf,
} from './merged-directory.ts';
import { releaseIfUnused } from './nodes.ts';
import { isWhiteoutEntry } from './remove-ops.ts';
import { openDirectory } from './whiteout-sets.ts';

const DOT = 1;
const DOT_DOT = 2;
const FIRST = 4;

/** 52 bits of two FNV-1a hashes of a name, above the cookies of '.' and '..'. */
function cookieOf(name: string): number {
  let a = 0x811c9dc5;
  let b = 0x9747b28c;
  for (let i = 0; i < name.length; i++) {
    const byte = name.charCodeAt(i);
    a = Math.imul(a ^ byte, 0x01000193);
    b = Math.imul(b ^ byte, 0x01000193) ^ (b >>> 15);
  }
  return FIRST + (a >>> 0) * 2 ** 20 + (b >>> 12);
}

const entry: EntryOut = { nodeId: 0, generation: 0, attr: newAttr(), entryValidMs: 0, attrValidMs: 0 };

/** Sends the entries behind `cookie` until the sink is full. */
export function readdir(core: Core, node: Node, cookie: number, sink: DirectorySink): number {
  let listing = cookie === 0 ? undefined : keptListing(node);
  if (listing === undefined || listing.generation !== core.generation) {
    const made = makeListing(core, node);
    if (typeof made === 'number') return made;
    listing = made;
    keepListing(node, listing);
  }
  core.listed.add(node.id);
  const { entries } = listing;
  const from = firstBehind(entries, cookie);
  if (from === entries.length) dropListing(node);
  for (let i = from; i < entries.length; i++) {
    const { name, type, ino, cookie: own } = entries[i]!;
    if (!sink.plus) {
      if (!sink.add(name as Name, ino, type, own)) return 0;
      continue;
    }
    if (!sink.hasRoomFor(name as Name)) return 0;
    if (!fillPlus(core, node, entries[i]!)) continue;
    sink.addPlus(name as Name, own, type, entry);
  }
  return 0;
}

/** The first entry with a greater cookie. */
function firstBehind(entries: readonly ListedEntry[], cookie: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (entries[middle]!.cookie <= cookie) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** An entry with attributes; false when the name is gone. '.' and '..' are not counted as lookups. */
function fillPlus(core: Core, directory: Node, { name, cookie, type, ino }: ListedEntry): boolean {
  if (cookie < FIRST) {
    entry.nodeId = 0;
    entry.entryValidMs = entry.attrValidMs = 0;
    Object.assign(entry.attr, newAttr(), { ino, mode: type << 12 });
    return true;
  }
  const node = nodeAt(core, directory, name);
  if (node === -E.NFILE) {
    // The name without its node: the kernel asks for that when it needs it.
    entry.nodeId = 0;
    entry.entryValidMs = entry.attrValidMs = 0;
    return true;
  }
  return typeof node !== 'number' && fillFound(core, node, entry) === 0;
}

function makeListing(core: Core, node: Node): Listing | number {
  const present = refresh(core, node) >= 0;
  const entries: ListedEntry[] = [
    { name: '.', cookie: DOT, type: DT_DIR, ino: node.ino },
    { name: '..', cookie: DOT_DOT, type: DT_DIR, ino: (node.parent ?? node).ino },
  ];
  if (present) {
    const seen = new Set<string>();
    if (node.priv) {
      const result = addPrivate(core, node, entries, seen);
      if (result < 0) return result;
    }
    if (node.merged !== null) addShared(core, node.merged, entries, seen);
  }
  entries.sort((a, b) => a.cookie - b.cookie || (a.name < b.name ? -1 : 1));
  for (let i = 1; i < entries.length; i++) {
    if (entries[i]!.cookie <= entries[i - 1]!.cookie) entries[i]!.cookie = entries[i - 1]!.cookie + 1;
  }
  return { entries, generation: core.generation };
}

function addShared(
  core: Core,
  merged: MergedDirectory,
  entries: ListedEntry[],
  seen: ReadonlySet<string>,
): void {
  for (const [name, candidates] of namesOf(merged)) {
    const ref = visibleOf(candidates, core.hidden);
    if (ref < 0 || seen.has(name)) continue;
    const unit = unitOf(core.stack, ref);
    const type = (unit.index.mode(entryOf(ref)) & S_IFMT) >>> 12;
    const ino =
      type === DT_DIR
        ? mergedIno(childDirectory(merged, name, core.hidden) ?? merged)
        : unit.inoBase + unit.index.hardLinkLeader(entryOf(ref));
    entries.push({ name, cookie: cookieOf(name), type, ino });
  }
}

function addPrivate(core: Core, node: Node, entries: ListedEntry[], seen: Set<string>): number {
  const base = directoryFd(core, node);
  const fd = base < 0 ? base : openDirectory(base, '.');
  if (fd < 0) return fd;
  const found = readDirectory(fd);
  if (typeof found !== 'number') {
    for (const { name, type, ino } of found) {
      seen.add(name);
      if (isWhiteoutEntry(fd, name, type)) continue;
      entries.push({
        name,
        cookie: cookieOf(name),
        type,
        ino: shownIno(core, node, fd, { name, type, ino }),
      });
    }
  }
  close(fd);
  return typeof found === 'number' ? found : 0;
}

/** d_ino of a private entry: what st_ino will be. A copy says its own, and may have any name; a directory may show that of the layers. */
function shownIno(core: Core, node: Node, fd: number, { name, type, ino }: DirectoryEntry): number {
  const known = node.children!.get(name);
  if (known?.priv && known.privIno === ino) return known.ino;
  const kept = decodeIno(getxattrAt(fd, name, INO_XATTR));
  if (kept > 0) return kept;
  if (type !== DT_DIR) return privateIno(ino);
  const directory = nodeAt(core, node, name);
  if (typeof directory === 'number') return privateIno(ino);
  const shown = directory.ino;
  releaseIfUnused(core, directory);
  return shown;
}
