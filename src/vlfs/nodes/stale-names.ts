/**
 * Which names the kernel may hold that a relayer, revert or reset makes wrong. The kernel is told to look exactly these up again (contract.ts,
 * VlfsControl, says why not all). Too many is harmless, one too few is a stale file. The cost grows with the changed levels' entries in
 * directories that the kernel knows, not with the stack.
 */
import type { Name } from '../../base/index.ts';
import { close, DT_CHR, DT_UNKNOWN } from '../../sys/index.ts';
import type { PrivateFile, StaleName } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { eachEntries } from '../listing/entries-steps.ts';
import { refresh } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { splitPath } from '../split-path.ts';
import { childDirectory, directoryAt, originalOf } from '../stack/child-directories.ts';
import {
  entryOf,
  type MergedDirectory,
  NOTHING_HIDDEN,
  type Reference,
  reference,
  unitOf,
} from '../stack/merged-directory.ts';
import { nameSteps, namesOf, shareNames, visibleOf } from '../stack/merged-names.ts';
import type { Stack, Unit } from '../stack/stack.ts';
import { finished, type Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

/** Names by the directory that holds them. */
export type Names = Map<Node, Set<string>>;

function add(names: Names, directory: Node, name: string): void {
  const known = names.get(directory);
  if (known === undefined) names.set(directory, new Set([name]));
  else known.add(name);
}

/** Nodes, names and contributors that are looked at between two steps. */
const A_STEP = 256;

/** The names as the kernel is told them. */
export function* listNames(names: Names): Steps<StaleName[]> {
  const list: StaleName[] = [];
  for (const [directory, ofIt] of names) {
    for (const name of ofIt) {
      list.push({ parent: directory.id, name: name as Name });
      if (list.length % A_STEP === 0) yield;
    }
  }
  return list;
}

function isKnown(core: Core, node: Node): boolean {
  return node === core.root || node.lookups > 0;
}

/** Directories that the kernel knows. */
function knownDirectories(core: Core): Node[] {
  const found: Node[] = [];
  for (const node of core.nodes.values()) {
    if (node.children !== null && isKnown(core, node)) found.push(node);
  }
  return found;
}

/** What a relayer changes of what the kernel may hold. */
export interface Changes {
  names: StaleName[];
  /** Node ids of directories that show the same as before. */
  unchanged: ReadonlySet<number>;
}

/**
 * Names that show something else once the VLFS has this stack and these private files, in steps. Requests may come between them: what the kernel is told
 * from the first step on must have no validity.
 */
export function* staleNames(
  core: Core,
  next: Stack,
  privateFiles: readonly PrivateFile[] = [],
): Steps<Changes> {
  const names: Names = new Map();
  const unchanged = new Set<number>();
  const blocked = changedBlocks(core.stack, next);
  const targets = new Map<Node, MergedDirectory | null>([[core.root, next.root]]);
  shareNames(core.stack.root, next.root);
  const end = core.nextId;
  let looked = 0;
  for (const node of core.nodes.values()) {
    // The nodes are in the order of their ids.
    if (node.id >= end) break;
    if (++looked % A_STEP === 0) yield;
    if (node.children === null || !isKnown(core, node) || refresh(core, node) < 0) continue;
    const target = yield* targetOf(core, next, node, targets);
    if (yield* compare(core, names, node, target, blocked)) unchanged.add(node.id);
    yield;
  }
  for (const file of privateFiles) addPath(core, names, file.path);
  for (const directory of names.keys()) unchanged.delete(directory.id);
  return { names: yield* listNames(names), unchanged };
}

/** What will be merged at a directory, without the appliance's whiteouts and opaque marks: at least what it will show. */
function* targetOf(
  core: Core,
  next: Stack,
  node: Node,
  targets: Map<Node, MergedDirectory | null>,
): Steps<MergedDirectory | null> {
  const known = targets.get(node);
  if (known !== undefined) return known;
  const parent = node.parent === null ? null : yield* targetOf(core, next, node.parent, targets);
  let target: MergedDirectory | null = null;
  if (node.redirect?.startsWith('/')) target = directoryAt(next, node.redirect, NOTHING_HIDDEN);
  else if (parent !== null) {
    yield* nameSteps(parent);
    target = childDirectory(parent, node.redirect ?? node.name, NOTHING_HIDDEN);
  }
  shareNames(node.merged, target);
  targets.set(node, target);
  return target;
}

/** The contributors of a merged directory by unit. */
function contributors(directory: MergedDirectory | null): Map<Unit, number[]> {
  const found = new Map<Unit, number[]>();
  for (const ref of directory?.contributors ?? []) {
    const unit = unitOf(directory!.stack, ref);
    found.set(unit, [...(found.get(unit) ?? []), entryOf(ref)]);
  }
  return found;
}

/** Whether the name is there now, by a shared level that the private layer cannot hide. */
function shows(core: Core, directory: Node, merged: MergedDirectory | null, name: string): boolean {
  return !directory.priv && merged !== null && visibleOf(namesOf(merged).get(name), core.hidden) >= 0;
}

/** Gathers the names of a directory that change. Returns whether it shows the same as before. */
function* compare(
  core: Core,
  names: Names,
  directory: Node,
  after: MergedDirectory | null,
  blocked: Map<Unit, Map<number, string[]>>,
): Steps<boolean> {
  const before = directory.merged;
  if (before === after) return true;
  if (before !== null) yield* nameSteps(before);
  shareNames(before, after);
  if (after !== null) yield* nameSteps(after);
  // Shared: the same levels of the same units contribute.
  if (before !== null && before.names === after?.names) return true;
  const old = contributors(before);
  const fresh = contributors(after);
  const inOrder = [...old.keys()].filter((unit) => fresh.has(unit));
  const reordered = [...fresh.keys()].filter((unit) => old.has(unit)).some((unit, i) => unit !== inOrder[i]);
  let looked = 0;
  const addChildren = function* (unit: Unit, entry: number): Steps<void> {
    const first = unit.index.firstChild(entry);
    const end = first + unit.index.childCount(entry);
    for (let child = first; child < end; child++) {
      if (++looked % A_STEP === 0) yield;
      const name = unit.index.name(child);
      // What is shown now and has no node is not in the kernel; what is not shown may be there as absent.
      if (directory.children!.has(name) || !shows(core, directory, before, name)) add(names, directory, name);
    }
  };
  const addMissing = function* (from: Map<Unit, number[]>, other: Map<Unit, number[]>): Steps<void> {
    for (const [unit, entries] of from) {
      for (const entry of entries) {
        if (reordered || other.get(unit)?.includes(entry) !== true) yield* addChildren(unit, entry);
        else if (++looked % A_STEP === 0) yield;
        for (const name of blocked.get(unit)?.get(entry) ?? []) add(names, directory, name);
      }
    }
  };
  yield* addMissing(old, fresh);
  yield* addMissing(fresh, old);
  if (core.stack.policy === after?.stack.policy) return false;
  // Another policy: the same levels may show other names.
  for (const [one, other] of [
    [before, after],
    [after, before],
  ]) {
    for (const name of one?.denied?.keys() ?? []) {
      if (++looked % A_STEP === 0) yield;
      if (other?.denied?.has(name) !== true) add(names, directory, name);
    }
  }
  return false;
}

/** Entries of units in both stacks that whiteouts of upper levels hide in only one of them: unit -> directory entry -> names. */
function changedBlocks(before: Stack, after: Stack): Map<Unit, Map<number, string[]>> {
  const changed = new Map<Unit, Map<number, string[]>>();
  const levelBefore = new Map(before.units.map((unit, level) => [unit, level]));
  for (const [level, unit] of after.units.entries()) {
    const was = levelBefore.get(unit);
    if (was === undefined) continue;
    const old = before.blocked[was];
    const fresh = after.blocked[level];
    if (old === fresh) continue;
    const ofUnit = new Map<number, string[]>();
    for (const entry of [...(old ?? []), ...(fresh ?? [])]) {
      if (old?.has(entry) === fresh?.has(entry)) continue;
      const parent = unit.index.parent(entry);
      ofUnit.set(parent, [...(ofUnit.get(parent) ?? []), unit.index.name(entry)]);
    }
    if (ofUnit.size > 0) changed.set(unit, ofUnit);
  }
  return changed;
}

/** The node at a path as far as the kernel knows it. */
function knownAt(core: Core, parts: readonly string[]): Node | null {
  let node: Node | undefined = core.root;
  for (const part of parts) {
    node = node.children?.get(part);
    if (node === undefined) return null;
  }
  return node;
}

function addPath(core: Core, names: Names, path: string): void {
  const parts = splitPath(path);
  const name = parts.pop();
  const parent = name === undefined ? null : knownAt(core, parts);
  if (parent !== null && parent.children !== null) add(names, parent, name!);
}

/** After a revert: the paths that changed, and what lies in those that are directories (they may have become transparent). */
export function* namesOfPaths(core: Core, paths: readonly string[]): Steps<StaleName[]> {
  const names: Names = new Map();
  for (const [i, path] of paths.entries()) {
    if (i % A_STEP === 0) yield;
    addPath(core, names, path);
    const node = knownAt(core, splitPath(path));
    if (node !== null) yield* addShared(core, names, node);
  }
  return yield* listNames(names);
}

function* addShared(core: Core, names: Names, node: Node): Steps<void> {
  if (node.children === null || refresh(core, node) < 0 || node.merged === null) return;
  yield* addNames(names, node, (yield* nameSteps(node.merged)).keys());
}

function* addNames(names: Names, directory: Node, of: Iterable<string>): Steps<void> {
  let looked = 0;
  for (const name of of) {
    if (++looked % A_STEP === 0) yield;
    add(names, directory, name);
  }
}

/**
 * Every name that the kernel may hold wrongly when the shared tree or the private layer became another: what it knows to be there, and what is
 * shared now, which it may know to be absent.
 */
export function everyName(core: Core): StaleName[] {
  const names: Names = new Map();
  finished(addEveryName(core, names));
  return finished(listNames(names));
}

/** The same in steps, gathered. */
export function* addEveryName(core: Core, names: Names): Steps<void> {
  for (const directory of knownDirectories(core)) {
    yield* addNames(names, directory, directory.children!.keys());
    yield* addShared(core, names, directory);
  }
}

/** Before a reset: every name that the private layer or a whiteout decides, in directories that the kernel knows. */
export function* privateNames(core: Core): Steps<{ names: StaleName[]; closed: Node[] }> {
  const names: Names = new Map();
  /** Directories that hide what is shared. */
  const closed: Node[] = [];
  const hidden = yield* hiddenByDirectory(core);
  for (const directory of knownDirectories(core)) {
    yield;
    if (refresh(core, directory) < 0) continue;
    if (directory.priv) {
      yield* addPrivate(core, names, directory);
      if (directory.merged === null || directory.redirect !== null) closed.push(directory);
    }
    if (directory.merged === null) continue;
    if (originalOf(directory.merged) !== directory.merged) {
      yield* addNames(names, directory, (yield* nameSteps(directory.merged)).keys());
      closed.push(directory);
    }
    for (const ref of directory.merged.contributors)
      for (const name of hidden.get(ref) ?? []) add(names, directory, name);
  }
  return { names: yield* listNames(names), closed };
}

/** After a reset: what directories show that hid it before. */
export function* uncoveredNames(core: Core, closed: readonly Node[]): Steps<StaleName[]> {
  const names: Names = new Map();
  for (const directory of closed) yield* addShared(core, names, directory);
  return yield* listNames(names);
}

/** The names that whiteouts of the appliance hide, by the directory of the layer that has them. */
function* hiddenByDirectory({ stack, hidden }: Core): Steps<Map<Reference, string[]>> {
  const found = new Map<Reference, string[]>();
  let looked = 0;
  for (const [level, entries] of hidden.levels.entries()) {
    const { index } = stack.units[level]!;
    for (const entry of entries ?? []) {
      if (++looked % A_STEP === 0) yield;
      const directory = reference(level, index.parent(entry));
      const known = found.get(directory);
      if (known === undefined) found.set(directory, [index.name(entry)]);
      else known.push(index.name(entry));
    }
  }
  return found;
}

/** Private names that the kernel knows; of whiteouts, which it may know as absent, all. */
function* addPrivate(core: Core, names: Names, directory: Node): Steps<void> {
  const pathFd = directoryFd(core, directory);
  const fd = pathFd < 0 ? pathFd : openDirectory(pathFd, '.');
  if (fd < 0) return;
  try {
    yield* eachEntries(fd, (entries) => {
      for (const { name, type } of entries)
        if (type === DT_CHR || type === DT_UNKNOWN || directory.children!.has(name))
          add(names, directory, name);
      return undefined;
    });
  } finally {
    close(fd);
  }
}
