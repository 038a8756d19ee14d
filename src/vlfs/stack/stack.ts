/**
 * Opened stacks: the levels of a StackSpec with their tree indexes, shared by every VLFS of this thread with the same key. A unit's
 * index is opened once and shared by all stacks that hold the unit. Nothing here is written; a stack that nobody uses any more
 * is kept for a while, because the next command usually asks for it again.
 */
import { lstatSync, statSync } from 'node:fs';
import { LIMITS, nameFromText, StrataError } from '../../base/index.ts';
import type { TreeIndex } from '../../layer/contract.ts';
import { indexTreeSync, openTreeIndex } from '../../layer/index.ts';
import { AT_FDCWD, close, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH, openat } from '../../sys/index.ts';
import type { LevelSpec, StackSpec } from '../contract.ts';
import { unitInoBase } from '../nodes/inode-numbers.ts';
import { createStackPolicy, type StackPolicy } from '../policy/stack-policy.ts';
import { finished, type Steps } from '../steps.ts';
import { loadBlockedEntries } from '../whiteouts/whiteout-sets.ts';
import { type FrozenIndex, openFrozenIndex } from './frozen-index.ts';
import { type MergedDirectory, newMergedDirectory, reference } from './merged-directory.ts';

/** One read-only tree with its index; two stacks that name the same unit share this object. */
export interface Unit {
  readonly id: string;
  readonly treeDir: string;
  readonly index: TreeIndex;
  /** The tree is in overlayfs-upper form: whiteouts, opaque directories and redirects count. */
  readonly overlay: boolean;
  /** Its directories give attributes; see LevelKind. */
  readonly givesAttributes: boolean;
  /** `index`, when this is a frozen layer. */
  readonly frozen: FrozenIndex | null;
  readonly inoBase: number;
  /** Where a whiteouts/ directory keeps this unit's set: `REPO/LAYER_VERSION`, latin1. */
  readonly setDir: string;
  readonly cacheKey: string | null;
  /** O_PATH descriptor of the tree, opened on first use, or -1. */
  rootFd: number;
  refs: number;
}

export interface Stack {
  readonly spec: StackSpec;
  /** Top first. */
  readonly units: readonly Unit[];
  /** Per level: entries that the whiteout sets of upper config and frozen levels hide. */
  readonly blocked: readonly (ReadonlySet<number> | undefined)[];
  /** What is hidden in levels that are not the appliance's own, or null. */
  readonly policy: StackPolicy | null;
  readonly root: MergedDirectory;
  /** setDir -> level. */
  readonly levelOfSet: ReadonlyMap<string, number>;
  /** VlfsSpec.unitsStamp of when its index files were last looked at. */
  stamp: string | undefined;
  refs: number;
}

const KEEP_IDLE = 2;
const units = new Map<string, Unit>();
const stacks = new Map<string, Stack>();
const idle: Stack[] = [];

/** Opens a stack, or shares the one that is open. Throws NOT_FOUND or BAD_FORMAT when a level cannot be read; then nothing is held. */
export function openStack(spec: StackSpec): Stack {
  return finished(openStackSteps(spec));
}

/**
 * As openStack, in steps: hundreds of levels take a while. `stamp`: VlfsSpec.unitsStamp. `below`: an open stack; when `spec` has its levels and one more, these are the
 * same units, whatever became of their files.
 */
export function* openStackSteps(
  spec: StackSpec,
  { stamp, below }: { stamp?: string | undefined; below?: Stack } = {},
): Steps<Stack> {
  const known = stacks.get(spec.key);
  if (known !== undefined && sameLevels(known.spec, spec)) {
    if (known.refs++ > 0) return known;
    idle.splice(idle.indexOf(known), 1);
    if (yield* confirmed(known, stamp !== undefined && known.stamp === stamp)) {
      known.stamp = stamp;
      return known;
    }
  }
  if (spec.levels.length > LIMITS.stackLayers) {
    throw new StrataError(
      'LIMIT',
      `a stack has at most ${LIMITS.stackLayers} layers, this one ${spec.levels.length}`,
    );
  }
  const opened: Unit[] = [];
  const isMore = below !== undefined && sameLevels({ ...spec, levels: spec.levels.slice(1) }, below.spec);
  const shared = isMore ? below : null;
  let stack: { -readonly [K in keyof Stack]: Stack[K] } | null = null;
  try {
    for (const [i, level] of spec.levels.entries()) {
      const known = i === 0 ? undefined : shared?.units[i - 1];
      if (known !== undefined) known.refs++;
      opened.push(known ?? openUnit(level));
      if (known === undefined) yield;
    }
    const levelOfSet = new Map(opened.map((unit, level) => [unit.setDir, level]));
    stack = {
      spec,
      units: opened,
      blocked:
        shared !== null && spec.levels[0]?.kind === 'frozen'
          ? [undefined, ...shared.blocked]
          : loadBlockedEntries(spec.levels, opened, levelOfSet),
      levelOfSet,
      stamp,
      policy: spec.policy === undefined ? null : createStackPolicy(spec.policy, spec.levels, opened),
      refs: 1,
      root: null as never,
    };
    stack.root = newMergedDirectory(
      stack,
      '',
      opened.map((_, level) => reference(level, 0)),
      stack.policy?.rootStates ?? null,
    );
    stacks.set(spec.key, stack);
    return stack;
  } finally {
    if (stack === null) for (const unit of opened) releaseUnit(unit);
  }
}

/** Gives a stack back. The last user's stack stays open until some others have become idle too. */
export function closeStack(stack: Stack): void {
  stack.refs--;
  if (stack.refs > 0) return;
  if (stacks.get(stack.spec.key) === stack) idle.push(stack);
  else discard(stack);
  while (idle.length > KEEP_IDLE) discard(idle.shift()!);
}

/** Closes all idle stacks (tests, and before a repository is removed). */
export function closeIdleStacks(): void {
  while (idle.length > 0) discard(idle.shift()!);
}

/** The descriptor of the unit's tree, or a negative errno. */
export function unitRootFd(unit: Unit): number {
  if (unit.rootFd >= 0) return unit.rootFd;
  if (unit.refs === 0) return -116; // ESTALE: no stack holds the unit any more
  // A link would show what it leads to.
  const fd = openat(AT_FDCWD, nameFromText(unit.treeDir), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0) unit.rootFd = fd;
  return fd;
}

export function hasFrozenLayers(stack: Pick<Stack, 'units'>): boolean {
  return stack.units.some((unit) => unit.frozen !== null);
}

/** st_ino of a file of the unit; `leader`: the leading entry of its hard-link group. */
export function sharedIno(unit: Unit, leader: number): number {
  return unit.frozen === null ? unit.inoBase + leader : unit.frozen.ino(leader);
}

function discard(stack: Stack): void {
  if (stacks.get(stack.spec.key) === stack) stacks.delete(stack.spec.key);
  for (const unit of stack.units) releaseUnit(unit);
}

function sameLevels(one: StackSpec, two: StackSpec): boolean {
  if (one === two) return true;
  if (one.policy?.rules.join('\0') !== two.policy?.rules.join('\0')) return false;
  const { levels: a } = one;
  const { levels: b } = two;
  return (
    a.length === b.length &&
    a.every((level, i) => {
      const other = b[i]!;
      return (
        level.id === other.id &&
        level.treeDir === other.treeDir &&
        level.indexFile === other.indexFile &&
        level.whiteoutsDir === other.whiteoutsDir &&
        level.own === other.own &&
        level.rulesFrom === other.rulesFrom
      );
    })
  );
}

/**
 * An idle stack, now held, may be used again only when the index files are still the same; otherwise it is given back. `unitsKept`: those of software
 * are known to be.
 */
function* confirmed(stack: Stack, unitsKept: boolean): Steps<boolean> {
  let fresh = false;
  try {
    for (const [i, level] of stack.spec.levels.entries()) {
      if (unitsKept && level.kind === 'software') continue;
      const key = stack.units[i]!.cacheKey;
      if (key === null || key !== unitKey(level)) return false;
      if (i % 32 === 31) yield;
    }
    fresh = true;
    return true;
  } finally {
    if (!fresh) {
      if (stacks.get(stack.spec.key) === stack) stacks.delete(stack.spec.key);
      closeStack(stack);
    }
  }
}

/** Names one state of an index file; null when there is none. */
function unitKey(level: LevelSpec): string | null {
  // What is frozen never changes.
  if (level.kind === 'frozen') return `${level.id}\0${level.treeDir}`;
  const stat = statSync(level.indexFile, { throwIfNoEntry: false, bigint: true });
  if (stat === undefined) return null;
  return `${level.id}\0${level.treeDir}\0${level.indexFile}\0${stat.ino}\0${stat.mtimeNs}\0${stat.size}`;
}

function openUnit(level: LevelSpec): Unit {
  const key = unitKey(level);
  const known = key === null ? undefined : units.get(key);
  if (known !== undefined) {
    known.refs++;
    return known;
  }
  const overlay = level.kind !== 'software';
  const frozen = level.kind === 'frozen' ? openFrozenIndex(level.treeDir) : null;
  if (frozen === null && !lstatSync(level.treeDir, { throwIfNoEntry: false })?.isDirectory()) {
    throw new StrataError('NOT_FOUND', `layer ${level.id} has no tree (${level.treeDir})`, {
      hint: 'the layer was removed; import it again',
    });
  }
  const unit: Unit = {
    id: level.id,
    treeDir: level.treeDir,
    index: frozen ?? openIndex(level, key !== null, overlay),
    frozen,
    overlay,
    givesAttributes: level.kind !== 'policy',
    inoBase: unitInoBase(nameFromText(level.id)),
    setDir: whiteoutSetDir(level.id),
    cacheKey: key,
    rootFd: -1,
    refs: 1,
  };
  if (key !== null) units.set(key, unit);
  return unit;
}

function openIndex(level: LevelSpec, exists: boolean, overlay: boolean): TreeIndex {
  try {
    if (exists) return openTreeIndex(level.indexFile);
    if (overlay) return indexTreeSync(level.treeDir, { overlay: true });
  } catch (error) {
    if (error instanceof StrataError) throw error;
    throw new StrataError('IO', `layer ${level.id} cannot be opened: ${(error as Error).message}`, {
      cause: error,
    });
  }
  throw new StrataError('NOT_FOUND', `layer ${level.id} has no index (${level.indexFile})`, {
    hint: 'the layer was removed or never imported; import it again, or rebuild its index with: strata repo index NAME',
  });
}

function releaseUnit(unit: Unit): void {
  unit.refs--;
  if (unit.refs > 0) return;
  if (unit.cacheKey !== null && units.get(unit.cacheKey) === unit) units.delete(unit.cacheKey);
  unit.frozen?.close();
  if (unit.rootFd >= 0) close(unit.rootFd);
  unit.rootFd = -1;
}

/** `REPO/LAYER VERSION` -> `REPO/LAYER_VERSION`; throws BAD_NAME for an identity that would leave whiteouts/. */
export function whiteoutSetDir(id: string): string {
  const dir = nameFromText(id).replaceAll(' ', '_');
  if (
    dir === '' ||
    dir.split('/').some((part) => part === '' || part === '.' || part === '..' || part.includes('\0'))
  ) {
    throw new StrataError('BAD_NAME', `${JSON.stringify(id)} cannot name a layer`);
  }
  return dir;
}
