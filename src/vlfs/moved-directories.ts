/**
 * Where the parts of the stack show that were renamed: the directories of the private layer with a redirect. Found by one walk through the
 * private layer's directories, only when somebody asks and there are any; then kept true by every rename.
 */
import { LIMITS } from '../base/index.ts';
import { close, DT_DIR, fgetxattr, readDirectory } from '../sys/index.ts';
import type { Core } from './core.ts';
import { REDIRECT } from './merged-directory.ts';
import { openDirectory } from './whiteout-sets.ts';

export interface MovedDirectory {
  /** Path in the layers. */
  from: string;
  /** Path where it shows. */
  to: string;
}

function movedDirectories(core: Core): readonly MovedDirectory[] {
  if (!core.hasRedirects) return [];
  if (core.moved === null) {
    core.moved = [];
    const fd = openDirectory(core.rootFd, '.');
    if (fd >= 0) {
      collectMoved(fd, '', core.moved);
      close(fd);
    }
  }
  return core.moved;
}

/** The renamed directories in an open tree. */
export function collectMoved(fd: number, path: string, into: MovedDirectory[]): void {
  const entries = readDirectory(fd);
  for (const { name, type } of typeof entries === 'number' ? [] : entries) {
    if (type !== DT_DIR && type !== 0) continue;
    const at = path === '' ? name : `${path}/${name}`;
    // What no path leads to shows nothing that a program finds by its old name.
    if (at.length > LIMITS.pathBytes) continue;
    const sub = openDirectory(fd, name);
    if (sub < 0) continue;
    const redirect = fgetxattr(sub, REDIRECT);
    if (typeof redirect !== 'number') {
      const target = Buffer.from(redirect).toString('latin1');
      if (target.startsWith('/')) into.push({ from: target.slice(1), to: at });
    }
    collectMoved(sub, at, into);
    close(sub);
  }
}

/** The paths at which a path of the layers may show: its own, and those below directories that were renamed. */
export function placesOfLayerPath(core: Core, path: string): string[][] {
  const places = [path.split('/')];
  for (const { from, to } of movedDirectories(core)) {
    if (path.startsWith(`${from}/`)) places.push(`${to}${path.slice(from.length)}`.split('/'));
  }
  return places;
}

/** As placesOfLayerPath, for a directory of the layers: also where it itself was renamed to. */
export function placesOfLayerDirectory(core: Core, path: string): string[][] {
  const places = placesOfLayerPath(core, path);
  for (const { from, to } of movedDirectories(core)) if (from === path) places.push(to.split('/'));
  return places;
}

/** Whether some renamed directory shows this directory of the layers. */
export function isMovedAway(core: Core, path: string): boolean {
  return countMoved(core, path) > 0;
}

/** How many renamed directories show this directory of the layers. */
export function countMoved(core: Core, path: string): number {
  return movedDirectories(core).filter(({ from }) => from === path).length;
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
