/**
 * Reading directories without handles: a name's cookie is a hash of it, and entries are sent in the order of their cookies. So a reader can go on
 * from any cookie whatever changed meanwhile, also after a relayer, and the kernel needs no OPENDIR. With attributes (READDIRPLUS) each name is
 * looked up when it is sent, and left out when it went meanwhile, unless the program lists without looking and the kernel does not know it (who-looks.ts). A listing under way is kept in a bounded cache; one of a huge directory is made in steps
 * between requests.
 */

import type { Name } from '../../base/index.ts';
import { close, DT_DIR, E, getxattrAt } from '../../sys/index.ts';
import { type Caller, type DirectorySink, type EntryOut, PENDING, type SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { fillFound, newAttr } from '../nodes/attributes.ts';
import { decodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { privateIno } from '../nodes/inode-numbers.ts';
import { movedKnownFor } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt, refresh } from '../operations/lookup.ts';
import { isWhiteoutEntry } from '../operations/remove-ops.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { carryOn } from '../private-layer/unfinished.ts';
import { childDirectory } from '../stack/child-directories.ts';
import { entryOf, type MergedDirectory, mergedIno, unitOf } from '../stack/merged-directory.ts';
import { nameSteps, visibleOf } from '../stack/merged-names.ts';
import { sharedIno } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { eachEntries } from './entries-steps.ts';
import { createGathered, type Gathered } from './gathered-entries.ts';
import { dropListing, keepListing, keptListing, type ListedEntry, type Listing } from './listings.ts';

const DOT = 1;
const DOT_DOT = 2;
const FIRST = 4;
/** '.' and '..' are in each listing. */
const DOTS = 2;

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

/** Entries of one reply: the kernel asks again, and others have their turn meanwhile. */
const MOST_PLUS = 256;
const MOST_PLAIN = 2048;
/** Names in a row that are gone before the listing is made anew. */
const MOST_GONE = 1024;
/** A listing that takes longer goes on between requests. */
const AT_ONCE_MS = 1;

/** Sends the entries behind `cookie` until the sink is full. */
export function readdir(core: Core, caller: Caller, node: Node, cookie: number, sink: DirectorySink): number {
  // What is looked at and let go of again does not take it along.
  node.opens++;
  try {
    return send(core, caller, node, cookie, sink);
  } finally {
    node.opens--;
    releaseIfUnused(core, node);
  }
}

function send(core: Core, caller: Caller, node: Node, cookie: number, sink: DirectorySink): number {
  const listing = listingFor(core, caller, node, cookie);
  if (typeof listing === 'number') return listing;
  core.listed.add(node.id);
  const { count } = listing;
  const from = firstBehind(listing, cookie);
  if (from === count) dropListing(node);
  const most = sink.plus ? MOST_PLUS : MOST_PLAIN;
  const isFirst = sink.plus && cookie === 0;
  const unknown = isFirst ? count - DOTS - node.children!.size : 0;
  const fill = isFirst && !core.whoLooks.wantsNodes(caller.pid, node.id, unknown) ? fillKnown : fillPlus;
  let sent = 0;
  for (let i = from; i < count && sent < most; i++) {
    const listed = listing.entry(i);
    const name = listed.name as Name;
    if (!sink.plus) {
      if (!sink.add(name, shownIno(core, node, listed), listed.type, listed.cookie)) return 0;
    } else {
      if (!sink.hasRoomFor(name)) return 0;
      if (!fill(core, caller, node, listed)) {
        if (sent > 0 || i - from < MOST_GONE) continue;
        // So many are gone that a new listing is quicker; an empty reply would be the end of the directory.
        dropListing(node);
        return send(core, caller, node, listed.cookie, sink);
      }
      sink.addPlus(name, listed.cookie, listed.type, entry);
    }
    sent++;
  }
  return 0;
}

/** The listing that is being read, or a new one; PENDING while it is made; or a negative errno. */
function listingFor(core: Core, caller: Caller, node: Node, cookie: number): Listing | number {
  const kept = keptListing(node);
  if (kept !== undefined && kept.generation === core.generation && (cookie > 0 || kept.unread)) {
    kept.unread = false;
    return kept;
  }
  let job = making.get(node);
  if (job === undefined) {
    const steps = makeListing(core, node);
    const went = carryOn(core, steps, performance.now() + AT_ONCE_MS);
    if (went !== 'more' && 'result' in went) {
      if (typeof went.result !== 'number') keepListing(node, went.result);
      return went.result;
    }
    const { generation } = core;
    const advance = (untilMs: number): number | null => {
      const went = goOn(core, node, steps, untilMs);
      // What was removed under it is listed anew: a revert took the private directory that was being read.
      return went !== null && generation !== core.generation ? 0 : went;
    };
    job = slowJob('retry', { kind: 'steps', advance });
    making.set(node, job);
  }
  caller.job = job;
  return PENDING;
}

/** Listings that are being made, for all who wait for them. */
const making = new WeakMap<Node, SlowJob>();

function goOn(core: Core, node: Node, steps: Steps<Listing | number>, untilMs: number): number | null {
  const went = carryOn(core, steps, untilMs);
  if (went === 'more' || !('result' in went)) return null;
  making.delete(node);
  const { result } = went;
  if (typeof result === 'number') return result;
  result.unread = true;
  keepListing(node, result);
  return 0;
}

/** The first entry with a greater cookie. */
function firstBehind(listing: Listing, cookie: number): number {
  let low = 0;
  let high = listing.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (listing.cookie(middle) <= cookie) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The name without its node: the kernel asks for that when it needs it. */
function fillName(core: Core, _caller: Caller, directory: Node, listed: ListedEntry): boolean {
  entry.nodeId = 0;
  entry.entryValidMs = entry.attrValidMs = 0;
  entry.attr.ino = shownIno(core, directory, listed);
  return true;
}

/** What the kernel knows gets its attributes, anything else is a name. */
function fillKnown(core: Core, caller: Caller, directory: Node, listed: ListedEntry): boolean {
  const known = directory.children!.get(listed.name);
  const fill = known !== undefined && known.lookups > 0 ? fillPlus : fillName;
  return fill(core, caller, directory, listed);
}

/** An entry with attributes; false when the name is gone. '.' and '..' are not counted as lookups. */
function fillPlus(core: Core, caller: Caller, directory: Node, listed: ListedEntry): boolean {
  const { name, cookie, type, ino } = listed;
  if (cookie < FIRST) {
    entry.nodeId = 0;
    entry.entryValidMs = entry.attrValidMs = 0;
    Object.assign(entry.attr, newAttr(), { ino, mode: type << 12 });
    return true;
  }
  const node = nodeAt(core, directory, name);
  if (node === -E.NFILE) return fillName(core, caller, directory, listed);
  if (typeof node !== 'number' && movedKnownFor(core, caller, node) !== 0) {
    caller.job = null;
    return fillName(core, caller, directory, listed);
  }
  return typeof node !== 'number' && fillFound(core, node, entry) === 0;
}

function* makeListing(core: Core, node: Node): Steps<Listing | number> {
  const there = refresh(core, node);
  if (there < 0 && there !== -E.NOENT) return there;
  const { generation } = core;
  const gathered = createGathered();
  try {
    gathered.entries.push(
      { name: '.', cookie: DOT, type: DT_DIR, ino: node.ino, priv: false },
      { name: '..', cookie: DOT_DOT, type: DT_DIR, ino: (node.parent ?? node).ino, priv: false },
    );
    if (there === 0) {
      const seen = new Set<string>();
      if (node.priv) {
        const result = yield* addPrivate(core, node, gathered, seen);
        if (result < 0) return result;
      }
      if (node.merged !== null) yield* addShared(core, node.merged, gathered, seen);
    }
    return { ...(yield* gathered.finish()), generation, unread: false };
  } finally {
    gathered.end();
  }
}

/** Entries between two steps. */
const A_STEP = 512;

function* addShared(
  core: Core,
  merged: MergedDirectory,
  gathered: Gathered,
  seen: ReadonlySet<string>,
): Steps<void> {
  let looked = 0;
  for (const [name, candidates] of yield* nameSteps(merged)) {
    if (++looked % A_STEP === 0) {
      yield* gathered.makeRoom();
      yield;
    }
    const ref = visibleOf(candidates, core.hidden);
    if (ref < 0 || seen.has(name)) continue;
    const unit = unitOf(core.stack, ref);
    const type = unit.index.kind(entryOf(ref)) >>> 12;
    const ino =
      type === DT_DIR
        ? mergedIno(childDirectory(merged, name, core.hidden) ?? merged)
        : sharedIno(unit, unit.index.hardLinkLeader(entryOf(ref)));
    gathered.entries.push({ name, cookie: cookieOf(name), type, ino, priv: false });
  }
}

/** `seen` gets the names that a layer has too. */
function* addPrivate(core: Core, node: Node, gathered: Gathered, seen: Set<string>): Steps<number> {
  const base = directoryFd(core, node);
  const fd = base < 0 ? base : openDirectory(base, '.');
  if (fd < 0) return fd;
  try {
    const shared = node.merged === null ? null : yield* nameSteps(node.merged);
    return yield* eachEntries(fd, function* (found) {
      for (const { name, type, ino } of found) {
        if (shared?.has(name)) seen.add(name);
        if (isWhiteoutEntry(fd, name, type)) continue;
        gathered.entries.push({ name, cookie: cookieOf(name), type, ino, priv: true });
      }
      yield* gathered.makeRoom();
    });
  } finally {
    close(fd);
  }
}

/** d_ino. Of a private entry what st_ino will be: a copy says its own, and may have any name; a directory may show that of the layers. */
function shownIno(core: Core, node: Node, { name, type, ino, priv }: ListedEntry): number {
  if (!priv) return ino;
  const known = node.children!.get(name);
  if (known?.priv && known.privIno === ino) return known.ino;
  const fd = directoryFd(core, node);
  const kept = fd < 0 ? 0 : decodeIno(getxattrAt(fd, name, INO_XATTR));
  if (kept > 0) return kept;
  if (type !== DT_DIR) return privateIno(ino);
  const directory = nodeAt(core, node, name);
  if (typeof directory === 'number') return privateIno(ino);
  const shown = directory.ino;
  releaseIfUnused(core, directory);
  return shown;
}
