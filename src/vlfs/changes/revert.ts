/**
 * Revert: shows the shared originals again, by removing private copies and whiteouts (paper, section 6); frozen ones are hidden. What the appliance added has no original
 * and stays, unless its own path is asked for where an original lies below. Each path flips at once; between them, in steps, nothing else may change the VLFS.
 */
import { type Name, nameToText, StrataError } from '../../base/index.ts';
import {
  close,
  DT_CHR,
  DT_DIR,
  DT_UNKNOWN,
  E,
  fremovexattr,
  newStat,
  S_IFDIR,
  S_IFMT,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { closeLarge, holdLarge } from '../copy-up/large-files.ts';
import { type Core, type Node, step } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { eachEntries } from '../listing/entries-steps.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { pathOf } from '../nodes/nodes.ts';
import {
  candidatesAt,
  frozenAt,
  NOTHING,
  nodeAt,
  PRIVATE,
  refresh,
  resolve,
  SHARED,
} from '../operations/lookup.ts';
import { lastAttr, loseName } from '../operations/remove-ops.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { discard } from '../private-layer/work-dir.ts';
import { splitPath } from '../split-path.ts';
import { isOpaque, originalOf, under } from '../stack/child-directories.ts';
import {
  entryOf,
  isDirectory,
  isHidden,
  isOpened,
  levelOf,
  OPAQUE,
  REDIRECT,
  type Reference,
  unitOf,
} from '../stack/merged-directory.ts';
import { nameSteps, withOlder } from '../stack/merged-names.ts';
import type { Steps } from '../steps.ts';
import { keepApart } from '../whiteouts/keep-apart.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { hide, openOpaque, uncover } from '../whiteouts/whiteouts.ts';
import { isOwn, restoreDirectory } from './restore-directory.ts';

/** Names that are reverted, and that are looked at, between two steps. */
const A_STEP = 16;
const LOOKS_A_STEP = 512;
/** A directory, a whiteout, or what the file system does not tell. */
const MAY_HIDE: readonly number[] = [DT_DIR, DT_CHR, DT_UNKNOWN];

/**
 * Reverts paths (directories with all below). Returns the paths that changed, absolute, as text. Throws NOT_FOUND for a path that has no
 * original, before anything is changed.
 */
export function* revert(core: Core, paths: readonly string[]): Steps<string[]> {
  if (core.readOnly) throw systemFailure(-E.ROFS, `revert ${paths[0] ?? ''}`);
  core.moved = null;
  const ends = paths.map((path) => checked(core, path));
  const reverted: string[] = [];
  for (const end of ends) {
    if (end.name === null) yield* revertChildren(core, end.parent, reverted);
    else yield* revertName(core, end.parent, end.name, reverted);
  }
  core.generation++;
  return [...new Set(reverted)];
}

function checked(core: Core, path: string): { parent: Node; name: string | null } {
  const parts = splitPath(path);
  const name = parts.pop() ?? null;
  if (name === null) return { parent: core.root, name };
  const parent = directoryByPath(core, parts);
  if (parent === null) {
    throw new StrataError('NOT_FOUND', `cannot revert ${path}: its directory does not exist now`, {
      hint: 'when a directory was deleted, revert the directory itself',
    });
  }
  const where = resolve(core, parent, name);
  if (where < 0) throw systemFailure(where, `revert ${path}`);
  if (candidatesAt(parent, name).length > 0) return { parent, name };
  if (where !== NOTHING) {
    const node = nodeAt(core, parent, name);
    const merged = typeof node === 'number' ? null : node.merged;
    if (merged !== null && originalOf(merged) !== null) return { parent, name };
  }
  throw new StrataError(
    'NOT_FOUND',
    where === NOTHING
      ? `cannot revert ${path}: no layer has it`
      : `cannot revert ${path}: it was added by the appliance, so no layer has an original`,
    {
      hint:
        where === NOTHING
          ? 'see what changed with: strata diff NAME'
          : 'delete it inside the appliance, or use: strata reset NAME',
    },
  );
}

function* revertName(core: Core, parent: Node, name: string, reverted: string[]): Steps<void> {
  const shared = candidatesAt(parent, name);
  const path = pathOf(core, parent, name) ?? name;
  separate(core, parent, name, shared, path);
  const where = resolve(core, parent, name);
  const covered = core.whiteout;
  const { ref } = core;
  if (where < 0) throw systemFailure(where, `revert ${path}`);
  if (where === PRIVATE) {
    const isDir = (core.stat.mode & S_IFMT) === S_IFDIR;
    if (isDir && (shared.length === 0 || isDirectory(core.stack, shared[0]!))) {
      yield* revertDirectory(core, parent, name, shared, reverted);
    } else if (shared.length > 0) yield* removePrivate(core, parent, name, shared, isDir, path, reverted);
    return;
  }
  if (where === SHARED && unitOf(core.stack, ref).frozen !== null) {
    const isDir = isDirectory(core.stack, ref);
    if (isDir && (shared.length === 0 || isDirectory(core.stack, shared[0]!)))
      yield* revertDirectory(core, parent, name, shared, reverted);
    else if (shared.length > 0) yield* hideOwn(core, parent, name, shared, path, reverted);
    return;
  }
  const count = uncover(core, shared);
  if (count < 0) throw systemFailure(count, `revert ${path}`);
  const ended = shared.length > 0 ? hideFrozen(core, parent, name, path) : 0;
  if (covered && shared.length > 0) {
    const fd = directoryFd(core, parent);
    step(core, 'revert: whiteout');
    const result = fd < 0 ? fd : unlinkat(fd, name);
    if (result < 0) throw systemFailure(result, `revert ${path}`);
  }
  if (count > 0 || ended > 0 || (covered && shared.length > 0)) {
    core.generation++;
    reverted.push(absolute(path));
    return;
  }
  const node = nodeAt(core, parent, name);
  if (typeof node !== 'number' && node.children !== null) yield* revertChildren(core, node, reverted);
}

/** A directory of the layers that will be shown again may show elsewhere already: what was deleted there is kept apart. */
function separate(core: Core, parent: Node, name: string, shared: readonly Reference[], path: string): void {
  if (!core.hasRedirects || !shared.some((ref) => isDirectory(core.stack, ref))) return;
  const node = nodeAt(core, parent, name);
  if (typeof node !== 'number' && node.merged !== null && originalOf(node.merged) !== null) return;
  const kept = keepApart(core, under(parent.merged!.originalPath, name), path);
  if (kept < 0) throw systemFailure(kept, `revert ${path}`);
}

function absolute(path: string): string {
  return `/${nameToText(path)}`;
}

/** Hides what frozen layers have at a name, whiteouts too. Returns how many; their content stays, because others may show it. */
function hideFrozen(
  core: Core,
  parent: Node,
  name: string,
  path: string,
  but: readonly Reference[] = [],
): number {
  const refs = frozenAt(core, parent, name).filter((ref) => !but.includes(ref));
  const hidden = hide(core, refs);
  if (hidden < 0) throw systemFailure(hidden, `revert ${path}`);
  return refs.length;
}

/** A frozen copy (of a whole hard-link group) makes way for the original. */
function* hideOwn(
  core: Core,
  parent: Node,
  name: string,
  shared: readonly Reference[],
  path: string,
  reverted: string[],
): Steps<void> {
  const own = unitOf(core.stack, core.ref);
  const leader = own.index.hardLinkLeader(entryOf(core.ref));
  const uncovered = uncover(core, shared);
  if (uncovered < 0) throw systemFailure(uncovered, `revert ${path}`);
  hideFrozen(core, parent, name, path);
  core.generation++;
  reverted.push(absolute(path));
  if (own.index.nlink(leader) < 2) return;
  for (const place of linkPlaces(core, shared[0]!)) {
    if (resolve(core, place.parent, place.name) !== SHARED || unitOf(core.stack, core.ref) !== own) continue;
    if (own.index.hardLinkLeader(entryOf(core.ref)) === leader)
      yield* hideOwn(
        core,
        place.parent,
        place.name,
        candidatesAt(place.parent, place.name),
        place.path,
        reverted,
      );
  }
}

/** Removes a private copy (of a whole hard-link group) and uncovers what it hides. */
function* removePrivate(
  core: Core,
  parent: Node,
  name: string,
  shared: readonly Reference[],
  isDir: boolean,
  path: string,
  reverted: string[],
): Steps<void> {
  const { ino, nlink } = core.stat;
  const uncovered = uncover(core, shared);
  if (uncovered < 0) throw systemFailure(uncovered, `revert ${path}`);
  hideFrozen(core, parent, name, path);
  const known = parent.children!.get(name);
  const last = known === undefined ? null : lastAttr(core, known);
  const fd = directoryFd(core, parent);
  const held = known === undefined || isDir || fd < 0 ? -1 : holdLarge(core, known, fd, name, last);
  step(core, 'revert');
  const removed = fd < 0 ? fd : isDir ? discard(core, fd, name) : unlinkat(fd, name);
  closeLarge(core, held);
  if (removed < 0) throw systemFailure(removed, `revert ${path}`);
  if (known !== undefined) loseName(core, known, parent, name, last);
  if (isDir) core.generation++;
  reverted.push(absolute(path));
  if (!isDir && nlink > 1) yield* revertLinks(core, shared[0]!, ino, reverted);
}

const linkStat = newStat();

/** The other names of the group that the private inode had taken over. */
function* revertLinks(core: Core, ref: Reference, ino: number, reverted: string[]): Steps<void> {
  for (const { parent, name, path } of linkPlaces(core, ref)) {
    if (!parent.priv) continue;
    const fd = directoryFd(core, parent);
    if (fd < 0 || statAt(fd, name, linkStat) !== 0 || linkStat.ino !== ino) continue;
    if (resolve(core, parent, name) !== PRIVATE) continue;
    yield* removePrivate(core, parent, name, candidatesAt(parent, name), false, path, reverted);
  }
}

/** Where the other names of a hard-linked original may show. */
function* linkPlaces(core: Core, ref: Reference): Generator<{ parent: Node; name: string; path: string }> {
  const { index } = unitOf(core.stack, ref);
  const first = entryOf(ref);
  for (
    let entry = index.hardLinkNext(first), left = index.nlink(first);
    entry !== first && left > 0;
    entry = index.hardLinkNext(entry), left--
  ) {
    for (const parts of placesOfLayerPath(core, index.path(entry))) {
      const name = parts.pop()!;
      const parent = directoryByPath(core, parts);
      if (parent !== null) yield { parent, name, path: [...parts, name].join('/') };
    }
  }
}

/** A private or frozen directory over a shared one: its children, then its own attributes. */
function* revertDirectory(
  core: Core,
  parent: Node,
  name: string,
  shared: readonly Reference[],
  reverted: string[],
): Steps<void> {
  const path = pathOf(core, parent, name) ?? name;
  const uncovered = uncover(core, shared);
  if (uncovered < 0) throw systemFailure(uncovered, `revert ${path}`);
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number' || node.children === null) throw systemFailure(-E.IO, `revert ${path}`);
  const contributors = node.merged?.contributors ?? [];
  let changed = uncovered > 0;
  if (shared.length > 0) {
    if (hideFrozen(core, parent, name, path, contributors) > 0)
      changed = !showsThese(core, node, contributors) || changed;
    changed = openDirectories(core, contributors, path) || changed;
    if (node.priv && node.merged === null) {
      const fd = directoryFd(core, node);
      if (fd < 0) throw systemFailure(fd, `revert ${path}`);
      step(core, 'revert: opaque');
      changed = fremovexattr(fd, OPAQUE) === 0 || changed;
    }
  }
  if (changed) core.generation++;
  yield* revertChildren(core, node, reverted);
  const isRedirected = node.redirect !== null || contributors.some((ref) => frozenXattr(core, ref, REDIRECT));
  if (!isRedirected && shared.length > 0) changed = restoreDirectory(core, parent, name) || changed;
  if (changed) reverted.push(absolute(path));
}

/** Whether a directory still consists of these after what lies between them was hidden. */
function showsThese(core: Core, node: Node, contributors: readonly Reference[]): boolean {
  core.generation++;
  return refresh(core, node) === 0 && (node.merged?.contributors ?? []).join() === contributors.join();
}

function frozenXattr(core: Core, ref: Reference, attribute: string): Uint8Array | undefined {
  return unitOf(core.stack, ref)
    .frozen?.xattrs(entryOf(ref))
    .get(attribute as Name);
}

/** Frozen directories that are opaque show what is below them again. */
function openDirectories(core: Core, refs: readonly Reference[], path: string): boolean {
  const closed = refs.filter(
    (ref) => isOpaque(frozenXattr(core, ref, OPAQUE)) && !isOpened(core.hidden, ref),
  );
  for (const ref of closed) {
    const opened = openOpaque(core, ref);
    if (opened < 0) throw systemFailure(opened, `revert ${path}`);
  }
  return closed.length > 0;
}

function* revertChildren(core: Core, node: Node, reverted: string[]): Steps<void> {
  const fresh = nodeAtItself(core, node);
  if (fresh === null) return;
  const names = new Set<string>();
  if (fresh.merged !== null) yield* nameSteps(fresh.merged);
  if (fresh.priv) {
    const fd = openDirectory(directoryFd(core, fresh), '.');
    if (fd < 0) throw systemFailure(fd, `read ${fresh.name}`);
    let read: number;
    try {
      read = yield* eachEntries(fd, (entries) => {
        // What the appliance added has no original; there may be more of it than memory should hold.
        for (const { name, type } of entries)
          if (MAY_HIDE.includes(type) || candidatesAt(fresh, name).length > 0) names.add(name);
        return undefined;
      });
    } finally {
      close(fd);
    }
    if (read < 0) throw systemFailure(read, `read ${fresh.name}`);
  }
  if (fresh.merged !== null) {
    let looked = 0;
    for (const [name, candidates] of yield* nameSteps(fresh.merged)) {
      if (++looked % LOOKS_A_STEP === 0) yield;
      const list = typeof candidates === 'number' ? [candidates] : candidates;
      if (list.some((ref) => isHidden(core.hidden, ref) || isOwn(core, ref))) names.add(name);
      else if (hidesBelow(core, withOlder(fresh.merged, list))) names.add(name);
    }
  }
  let looked = 0;
  for (const name of names) {
    if (++looked % A_STEP === 0) yield;
    yield* revertName(core, fresh, name, reverted);
  }
}

/** Whether a whiteout lies somewhere below one of these directories. */
function hidesBelow(core: Core, refs: readonly Reference[]): boolean {
  if (core.hidden.count === 0) return false;
  return refs.some((ref) => {
    if (!isDirectory(core.stack, ref)) return false;
    const { index } = unitOf(core.stack, ref);
    for (const entry of core.hidden.levels[levelOf(ref)] ?? []) {
      for (let at = entry; at !== 0; at = index.parent(at)) if (at === entryOf(ref)) return true;
    }
    return false;
  });
}

/** The node after a change of what lies below; null when it is gone. */
function nodeAtItself(core: Core, node: Node): Node | null {
  if (node === core.root || node.parent === null) {
    if (node === core.root) resolve(core, node, ' ');
    return node;
  }
  const now = nodeAt(core, node.parent, node.name);
  return typeof now === 'number' || now.children === null ? null : now;
}
