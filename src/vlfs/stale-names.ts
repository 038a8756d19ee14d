/**
 * Which names the kernel may hold that a relayer, revert or reset makes wrong. The kernel is told to look exactly these up again (contract.ts,
 * VlfsControl, says why not all). Too many is harmless, one too few is a stale file. The cost grows with the changed levels' entries in
 * directories that the kernel knows, not with the stack.
 */
import type { Name } from '../base/index.ts';
import { close, readDirectory } from '../sys/index.ts';
import type { PrivateFile, StaleName } from './contract.ts';
import type { Core, Node } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { refresh } from './lookup.ts';
import {
  childDirectory,
  directoryAt,
  entryOf,
  levelOf,
  type MergedDirectory,
  NOTHING_HIDDEN,
  nameSteps,
  namesOf,
  originalOf,
  type Reference,
  shareNames,
  unitOf,
  visibleOf,
} from './merged-directory.ts';
import { splitPath } from './split-path.ts';
import type { Stack, Unit } from './stack.ts';
import { finished, type Steps } from './steps.ts';
import { openDirectory } from './whiteout-sets.ts';

/** Names by the directory that holds them. */
type Names = Map<Node, Set<string>>;

function add(names: Names, directory: Node, name: string): void {
  const known = names.get(directory);
  if (known === undefined) names.set(directory, new Set([name]));
  else known.add(name);
}

function listed(names: Names): StaleName[] {
  return finished(listSteps(names));
}

/** Nodes, names and contributors that are looked at between two steps. */
const A_STEP = 256;

function* listSteps(names: Names): Steps<StaleName[]> {
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

/**
 * Names that show something else once the VLFS has this stack and these private files, in steps. Requests may come between them: what the kernel is told
 * from the first step on must have no validity.
 */
export function* staleNames(
  core: Core,
  next: Stack,
  privateFiles: readonly PrivateFile[] = [],
): Steps<StaleName[]> {
  const names: Names = new Map();
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
    yield* compare(core, names, node, target, blocked);
    yield;
  }
  for (const file of privateFiles) addPath(core, names, file.path);
  return yield* listSteps(names);
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

function* compare(
  core: Core,
  names: Names,
  directory: Node,
  after: MergedDirectory | null,
  blocked: Map<Unit, Map<number, string[]>>,
): Steps<void> {
  const before = directory.merged;
  if (before === after) return;
  if (before !== null) yield* nameSteps(before);
  shareNames(before, after);
  if (after !== null) yield* nameSteps(after);
  // Shared: the same levels of the same units contribute.
  if (before !== null && before.names === after?.names) return;
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
  if (core.stack.policy === after?.stack.policy) return;
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
export function namesOfPaths(core: Core, paths: readonly string[]): StaleName[] {
  const names: Names = new Map();
  for (const path of paths) {
    addPath(core, names, path);
    const node = knownAt(core, splitPath(path));
    if (node !== null) addShared(core, names, node);
  }
  return listed(names);
}

function addShared(core: Core, names: Names, node: Node): void {
  if (node.children === null || refresh(core, node) < 0 || node.merged === null) return;
  for (const name of namesOf(node.merged).keys()) add(names, node, name);
}

/**
 * Every name that the kernel may hold wrongly when the shared tree or the private layer became another: what it knows to be there, and what is
 * shared now, which it may know to be absent.
 */
export function everyName(core: Core): StaleName[] {
  const names: Names = new Map();
  for (const directory of knownDirectories(core)) {
    for (const name of directory.children!.keys()) add(names, directory, name);
    addShared(core, names, directory);
  }
  return listed(names);
}

/** Before a reset: every name that the private layer or a whiteout decides, in directories that the kernel knows. */
export function privateNames(core: Core): { names: StaleName[]; closed: Node[] } {
  const names: Names = new Map();
  /** Directories that hide what is shared. */
  const closed: Node[] = [];
  for (const directory of knownDirectories(core)) {
    if (refresh(core, directory) < 0) continue;
    if (directory.priv) {
      for (const name of privateEntries(core, directory)) add(names, directory, name);
      if (directory.merged === null || directory.redirect !== null) closed.push(directory);
    }
    if (directory.merged === null) continue;
    if (originalOf(directory.merged) !== directory.merged) {
      for (const name of namesOf(directory.merged).keys()) add(names, directory, name);
      closed.push(directory);
    }
    if (core.hidden.count === 0) continue;
    for (const ref of directory.merged.contributors) addHidden(core, names, directory, ref);
  }
  return { names: listed(names), closed };
}

/** After a reset: what directories show that hid it before. */
export function uncoveredNames(core: Core, closed: readonly Node[]): StaleName[] {
  const names: Names = new Map();
  for (const directory of closed) addShared(core, names, directory);
  return listed(names);
}

function addHidden(core: Core, names: Names, directory: Node, ref: Reference): void {
  const hidden = core.hidden.levels[levelOf(ref)];
  if (hidden === undefined || hidden.size === 0) return;
  const { index } = unitOf(core.stack, ref);
  const parent = entryOf(ref);
  for (const entry of hidden) if (index.parent(entry) === parent) add(names, directory, index.name(entry));
}

function privateEntries(core: Core, directory: Node): string[] {
  const pathFd = directoryFd(core, directory);
  const fd = pathFd < 0 ? pathFd : openDirectory(pathFd, '.');
  if (fd < 0) return [];
  const entries = readDirectory(fd);
  close(fd);
  return typeof entries === 'number' ? [] : entries.map((entry) => entry.name);
}
