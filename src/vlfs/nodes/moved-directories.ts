/**
 * Where the parts of the stack show that were renamed: the directories of the private layer with a redirect. Found by one walk through the
 * private layer's directories, only when somebody asks and there are any; then kept true by every rename.
 */
import { LIMITS, type Name } from '../../base/index.ts';
import {
  close,
  type DirectoryEntry,
  DT_DIR,
  fgetxattr,
  O_CLOEXEC,
  O_DIRECTORY,
  O_RDONLY,
  readSomeEntries,
} from '../../sys/index.ts';
import { type Caller, PENDING } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import type { Core, Node } from '../core.ts';
import { carryOn } from '../private-layer/unfinished.ts';
import { hasRedirects } from '../stack/child-directories.ts';
import { type MergedDirectory, REDIRECT, REDIRECTS_XATTR } from '../stack/merged-directory.ts';
import type { Stack, Unit } from '../stack/stack.ts';
import { finished, type Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

export interface MovedDirectory {
  /** Path in the layers. */
  from: string;
  /** Path where it shows. */
  to: string;
}

function movedDirectories(core: Core): readonly MovedDirectory[] {
  if (!core.hasRedirects) return [];
  core.moved ??= finished(findSteps(core));
  return core.moved;
}

/**
 * Before an operation that asks for them on a thread that serves others: PENDING while they are looked for, which may take a while in a huge private
 * layer; else 0. Directories are renamed only by operations that wait for this too.
 */
export function movedKnown(core: Core, caller: Caller): number {
  if (!core.hasRedirects || core.moved !== null) return 0;
  if (core.movedSearch === null) {
    const search = searchSteps(core);
    core.movedSearch = slowJob('retry', {
      kind: 'steps',
      advance: (untilMs) => (carryOn(core, search, untilMs) === 'more' ? null : 0),
    });
  }
  caller.job = core.movedSearch;
  return PENDING;
}

/** As movedKnown, before the attributes of a node are asked for: the link count of a shared file with several names depends on them. */
export function movedKnownFor(core: Core, caller: Caller, node: Node): number {
  if (!core.hasRedirects || core.moved !== null || node.priv || node.unit === null) return 0;
  return node.unit.index.nlink(node.entry) > 1 ? movedKnown(core, caller) : 0;
}

function* searchSteps(core: Core): Steps<void> {
  let generation: number;
  let found: MovedDirectory[];
  do {
    generation = core.generation;
    found = yield* findSteps(core);
  } while (generation !== core.generation);
  core.moved ??= found;
  core.movedSearch = null;
}

function* findSteps(core: Core): Steps<MovedDirectory[]> {
  const found: MovedDirectory[] = [];
  const fd = openDirectory(core.rootFd, '.');
  if (fd < 0) return found;
  try {
    yield* collectSteps(fd, '', found);
  } finally {
    close(fd);
  }
  return found;
}

/** The renamed directories in an open tree. */
export function collectMoved(fd: number, path: string, into: MovedDirectory[]): void {
  finished(collectSteps(fd, path, into));
}

function* collectSteps(fd: number, path: string, into: MovedDirectory[]): Steps<void> {
  for (let entries: DirectoryEntry[] = []; readSomeEntries(fd, entries, A_STEP_BYTES) > 0; entries = []) {
    yield;
    for (const { name, type } of entries) {
      if (type !== DT_DIR && type !== 0) continue;
      const at = path === '' ? name : `${path}/${name}`;
      // What no path leads to shows nothing that a program finds by its old name.
      if (at.length > LIMITS.pathBytes) continue;
      const sub = openDirectory(fd, name);
      if (sub < 0) continue;
      try {
        const redirect = fgetxattr(sub, REDIRECT);
        if (typeof redirect !== 'number') {
          const target = Buffer.from(redirect).toString('latin1');
          if (target.startsWith('/')) into.push({ from: target.slice(1), to: at });
        }
        yield* collectSteps(sub, at, into);
      } finally {
        close(sub);
      }
    }
  }
}

/** About 250 entries. */
const A_STEP_BYTES = 8192;
/** What was renamed in frozen layers, the lowest first; found once, since they never change. */
const movedInFrozen = new WeakMap<Unit, MovedDirectory[]>();
const movedInStack = new WeakMap<Stack, [Unit, MovedDirectory[]][]>();

function frozenMoves(core: Core): readonly [Unit, MovedDirectory[]][] {
  if (!core.hasFrozen) return [];
  const known = movedInStack.get(core.stack);
  if (known !== undefined) return known;
  const found: [Unit, MovedDirectory[]][] = [];
  movedInStack.set(core.stack, found);
  for (const unit of core.stack.units) {
    if (unit.frozen === null || !unit.frozen.xattrs(0).has(REDIRECTS_XATTR as Name)) continue;
    let moves = movedInFrozen.get(unit);
    if (moves === undefined) {
      moves = [];
      const fd = unit.frozen.open(0, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (fd >= 0) {
        collectMoved(fd, '', moves);
        close(fd);
      }
      movedInFrozen.set(unit, moves);
    }
    found.unshift([unit, moves]);
  }
  return found;
}

/** Whether the appliance, or a level, has renamed a directory of the layers. */
export function hasMoves(core: Core): boolean {
  return core.hasRedirects || hasRedirects(core.stack);
}

/** What was renamed in config levels, the lowest first; found once. */
const movedInConfig = new WeakMap<Stack, MovedDirectory[]>();

function configMoves(stack: Stack): readonly MovedDirectory[] {
  if (!hasRedirects(stack)) return [];
  const known = movedInConfig.get(stack);
  if (known !== undefined) return known;
  const found: MovedDirectory[] = [];
  for (const { overlay, frozen, index } of stack.units.toReversed()) {
    for (let entry = 0; overlay && frozen === null && entry < index.entryCount; entry++) {
      const redirect = index.hasXattrs(entry) ? index.xattrs(entry).get(REDIRECT as Name) : undefined;
      const target = redirect === undefined ? '' : Buffer.from(redirect).toString('latin1');
      if (target.startsWith('/')) found.push({ from: target.slice(1), to: index.path(entry) });
    }
  }
  movedInConfig.set(stack, found);
  return found;
}

/** The paths in the layers of what config levels show at this one: itself, and those that they renamed. */
function pathsBelowConfig(stack: Stack, path: string): string[] {
  const found = [path];
  for (const { from, to } of configMoves(stack).toReversed()) {
    for (const at of [...found])
      if (at === to || at.startsWith(`${to}/`)) found.push(`${from}${at.slice(to.length)}`);
  }
  return found;
}

/** A directory that a frozen layer has renamed. */
export interface FrozenMove {
  unit: Unit;
  /** Its path in that layer. */
  path: string;
  /** Where it may show now. */
  places: string[][];
}

/** Every directory that a frozen layer has renamed, the lowest first. */
export function renamedInFrozen(core: Core): FrozenMove[] {
  return frozenMoves(core).flatMap(([unit, moves]) =>
    moves.map(({ to }) => ({ unit, path: to, places: placesOfLayerDirectory(core, to) })),
  );
}

interface Place {
  path: string;
  /** The directory itself was renamed, not only one above it. */
  renamed: boolean;
}

/** `itself`: also the places that the path itself was renamed to; `config`: by config levels too. */
function places(core: Core, path: string, { itself = false, config = true }): Place[] {
  const found = new Map<string, Place>([[path, { path, renamed: false }]]);
  const frozen = frozenMoves(core).map(([, moves]) => moves);
  for (const moves of [config ? configMoves(core.stack) : [], ...frozen, movedDirectories(core)]) {
    for (const { from, to } of moves) {
      for (const { path: at, renamed } of [...found.values()]) {
        if (!(itself && at === from) && !at.startsWith(`${from}/`)) continue;
        const now = `${to}${at.slice(from.length)}`;
        found.set(now, { path: now, renamed: renamed || at === from });
      }
    }
  }
  return [...found.values()];
}

/** The paths at which a path of the layers may show: its own, and those below directories that were renamed. */
export function placesOfLayerPath(core: Core, path: string): string[][] {
  return places(core, path, {}).map((place) => place.path.split('/'));
}

/** As placesOfLayerPath, for a directory of the layers: also where it itself was renamed to. */
export function placesOfLayerDirectory(core: Core, path: string): string[][] {
  return places(core, path, { itself: true }).map((place) => place.path.split('/'));
}

/** The paths at which a merged directory, or a part of it, may show; more than one only where something was renamed. */
export function placesOfMerged(core: Core, { originalPath }: MergedDirectory): string[][] {
  const paths = pathsBelowConfig(core.stack, originalPath).flatMap((path) =>
    places(core, path, { itself: true }).map((place) => place.path),
  );
  return [...new Set(paths)].map((path) => path.split('/'));
}

/** Only where the appliance itself may have renamed a directory of the layers to. */
export function renamedPlacesOf(core: Core, path: string): string[][] {
  return places(core, path, { itself: true, config: false }).flatMap((place) =>
    place.renamed ? [place.path.split('/')] : [],
  );
}

/** An empty directory at this path went. */
export function forgetMoved(core: Core, path: string | null): void {
  core.moved = core.moved?.filter(({ to }) => to !== path) ?? null;
}

/** A directory got a redirect. Null: where it is, is not known. */
export function noteMoved(core: Core, from: string, to: string | null): void {
  if (to === null) core.moved = null;
  else core.moved?.push({ from, to });
}

/** Directories got other paths, with all below: [old, new] each, at one moment. */
export function followMoved(core: Core, moves: readonly (readonly [string | null, string | null])[]): void {
  if (core.moved === null) return;
  if (moves.some(([old, now]) => old === null || now === null)) {
    core.moved = null;
    return;
  }
  for (const [i, { from, to }] of core.moved.entries()) {
    for (const [old, now] of moves) {
      if (to !== old && !to.startsWith(`${old}/`)) continue;
      core.moved[i] = { from, to: now + to.slice(old!.length) };
      break;
    }
  }
}
