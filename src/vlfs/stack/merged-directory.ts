/**
 * A merged directory: what the levels of a stack together show in one directory, computed once, on first use, and shared by all VLFSs of the stack. Its names are
 * merged-names.ts, the directories in it child-directories.ts. Nothing here knows of private layers; `hidden` sets are given by the caller and never cached.
 */
import { S_IFDIR } from '../../sys/index.ts';
import { directoryIno, privateIno } from '../nodes/inode-numbers.ts';
import type { Stack, Unit } from './stack.ts';

/**
 * One entry of one level, as a number: level * 2^22 + entry. base/limits keeps entries below 2^22 and levels below 2^14. Among the candidates of a
 * name -1 - reference is a whiteout of a frozen layer: unless it is hidden itself, what comes after it does not show.
 *
 * Of frozen levels that follow each other only those are candidates that can ever show: there may be a thousand of them. What hides an entry
 * hides what it covers, too; older directories still contribute (`MergedDirectory.older`).
 */
export type Reference = number;
const ENTRIES = 2 ** 22;

export const OPAQUE = 'trusted.overlay.opaque';
export const REDIRECT = 'trusted.overlay.redirect';

/** On private/ itself: a directory of the stack was renamed once. */
export const REDIRECTS_XATTR = 'trusted.strata.redirects';

export interface MergedDirectory {
  readonly stack: Stack;
  /** Path in the layers, latin1, '' for the root. */
  readonly path: string;
  /** The path that it has below the frozen layers that renamed it or a directory above it. */
  readonly originalPath: string;
  /** The directories that are merged here, top first; the first gives the attributes. Empty for an empty stack. */
  readonly contributors: readonly Reference[];
  /** Per contributor, its state in the stack's policy; null without a policy. */
  readonly states: readonly number[] | null;
  /** Names that the policy hides in some level, with the rule; known with `names`. */
  denied: Map<string, number> | null;
  names: Map<string, Reference | Reference[]> | null;
  /** By the newest frozen directory of a name, the older ones that contribute after it; known with `names`, null when there are none. */
  older: Map<Reference, Reference[]> | null;
  children: Map<string, MergedDirectory | null> | null;
  ino: number;
  times: { mtimeSec: number; mtimeNsec: number } | null;
}

/** Per level, entries that one appliance's whiteouts hide. */
export interface HiddenEntries {
  count: number;
  readonly levels: (Set<number> | undefined)[];
  /** Frozen directories that hide nothing below them any more, though they are opaque; counted too. */
  readonly opened?: (Set<number> | undefined)[];
}

export function reference(level: number, entry: number): Reference {
  return level * ENTRIES + entry;
}

export function levelOf(ref: Reference): number {
  return Math.floor(ref / ENTRIES);
}

export function entryOf(ref: Reference): number {
  return ref % ENTRIES;
}

export function unitOf(stack: Stack, ref: Reference): Unit {
  return stack.units[levelOf(ref)]!;
}

export function isHidden(hidden: HiddenEntries, ref: Reference): boolean {
  const at = ref < 0 ? -1 - ref : ref;
  return hidden.count > 0 && hidden.levels[levelOf(at)]?.has(entryOf(at)) === true;
}

export function isOpened(hidden: HiddenEntries, ref: Reference): boolean {
  return ref >= 0 && hidden.count > 0 && hidden.opened?.[levelOf(ref)]?.has(entryOf(ref)) === true;
}

export function newMergedDirectory(
  stack: Stack,
  path: string,
  contributors: readonly Reference[],
  states: readonly number[] | null,
  originalPath: string = path,
): MergedDirectory {
  return {
    stack,
    path,
    originalPath,
    contributors,
    states,
    denied: null,
    names: null,
    older: null,
    children: null,
    ino: 0,
    times: null,
  };
}

/** The contributor that gives the directory its attributes. -1 for an empty stack. */
export function topOf({ stack, contributors }: MergedDirectory): Reference {
  return contributors.find((ref) => unitOf(stack, ref).givesAttributes) ?? contributors[0] ?? -1;
}

/** st_ino of the directory while the private layer does not have it. */
export function mergedIno(directory: MergedDirectory): number {
  if (directory.ino === 0) directory.ino = frozenIno(directory) || directoryIno(directory.originalPath);
  return directory.ino;
}

/** What it was while its topmost part was private; 0: that part is not frozen, or had the number of the path. */
function frozenIno({ stack, contributors }: MergedDirectory): number {
  const top = contributors[0];
  const frozen = top === undefined ? null : unitOf(stack, top).frozen;
  if (frozen === null || top === undefined) return 0;
  const kept = frozen.keptIno(entryOf(top));
  return kept > 0 || contributors.length > 1 ? kept : privateIno(frozen.stat(entryOf(top)).ino);
}

/**
 * The newest of the contributors' modification times, so that a directory that got something by an update looks changed; those of a frozen
 * one, because it is as the private layer had it.
 */
export function mergedTimes(directory: MergedDirectory): { mtimeSec: number; mtimeNsec: number } {
  if (directory.times !== null) return directory.times;
  const times = { mtimeSec: Number.NEGATIVE_INFINITY, mtimeNsec: 0 };
  for (const ref of directory.contributors) {
    const { index, frozen } = unitOf(directory.stack, ref);
    const seconds = index.mtimeSec(entryOf(ref));
    const nanoseconds = index.mtimeNsec(entryOf(ref));
    if (seconds < times.mtimeSec || (seconds === times.mtimeSec && nanoseconds <= times.mtimeNsec)) continue;
    times.mtimeSec = seconds;
    times.mtimeNsec = nanoseconds;
    if (frozen !== null && ref === directory.contributors[0]) break;
  }
  directory.times = times;
  return times;
}

export function isDirectory(stack: Stack, ref: Reference): boolean {
  return ref >= 0 && unitOf(stack, ref).index.kind(entryOf(ref)) === S_IFDIR;
}

export const NOTHING_HIDDEN: HiddenEntries = { count: 0, levels: [] };
