/**
 * Places that a renamed directory left. While some redirect leads to a directory of the layers, its own place stays hidden by the private layer (a
 * whiteout, or what was put there), whatever version of the layer comes. Once the renamed directory is deleted, whiteouts in the sets of the
 * layers take over, which go with their layers; so what is reinstalled is seen again.
 */
import { close, fgetxattr, fremovexattr, S_IFDIR, S_IFMT, unlinkat } from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { type Core, type Node, step } from '../core.ts';
import { hasMoves, placesOfLayerPath, placesOfMerged, renamedPlacesOf } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { PRIVATE, resolve, uncovered } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { keepTimes, restoreTimes } from '../private-layer/private-layer.ts';
import { isOpaque, under } from '../stack/child-directories.ts';
import { isDirectory, OPAQUE, type Reference } from '../stack/merged-directory.ts';
import { openDirectory } from './whiteout-sets.ts';
import { hide } from './whiteouts.ts';

/**
 * Whether what the layers hold at this name must be hidden by the private layer: a directory that shows at another place too (so that the name stays hidden in
 * every version of its layers), or something below one, which whiteouts in the sets would hide at both places.
 */
export function leavesWhiteout(core: Core, parent: Node, name: string): boolean {
  if (parent.merged === null || !hasMoves(core)) return false;
  const left = uncovered(core, parent, name);
  if (left.length === 0) return false;
  const directories = left.filter((ref) => isDirectory(core.stack, ref));
  if (directories.length > 0) {
    const places = renamedPlacesOf(core, originalAt(parent, name));
    if (isShownAt(core, places, directories, null)) return true;
  }
  return showsElsewhere(core, parent);
}

/** Whether the layers' part of this directory is seen at another place too. */
export function showsElsewhere(core: Core, node: Node): boolean {
  if (node.merged === null || !hasMoves(core)) return false;
  const places = placesOfMerged(core, node.merged);
  // What only config levels may have renamed is here then.
  if (places.length === 1 && !core.hasRedirects) return false;
  return isShownAt(core, places, node.merged.contributors, node);
}

/** Whether a directory at one of the places, but not `but`, shows one of these directories of the layers. */
function isShownAt(
  core: Core,
  places: readonly string[][],
  refs: readonly Reference[],
  but: Node | null,
): boolean {
  const wanted = new Set(refs);
  return places.some((parts) => {
    const at = directoryByPath(core, parts);
    if (at === null) return false;
    const isShown = at !== but && (at.merged?.contributors.some((ref) => wanted.has(ref)) ?? false);
    releaseIfUnused(core, at);
    return isShown;
  });
}

/** The path that a name of a directory has in the layers, below all frozen ones. */
function originalAt(parent: Node, name: string): string {
  return under(parent.merged!.originalPath, name);
}

export interface OldPlace {
  parent: Node;
  name: string;
}

/**
 * Before a directory with a redirect is deleted: hides what its old place holds in the sets of the layers. Nothing that one can see changes.
 * The place is for `freeOldPlace`, once the directory is gone; null: there is none. Or a negative errno.
 */
export function hideOldPlace(core: Core, node: Node): OldPlace | null | number {
  if (node.redirect === null || !node.redirect.startsWith('/')) return null;
  // Another directory may show the same part: then it goes on needing its old place hidden.
  if (node.merged !== null) {
    const places = placesOfMerged(core, node.merged);
    if (isShownAt(core, places, node.merged.contributors, node)) return null;
  }
  const place = oldPlaceOf(core, node.redirect.slice(1));
  if (place === null) return null;
  const hidden = hide(core, uncovered(core, place.parent, place.name));
  return hidden < 0 ? hidden : place;
}

/** Where the private layer hides a directory of the layers because it was renamed, or null. */
function oldPlaceOf(core: Core, path: string): OldPlace | null {
  const natural = placeAt(core, path, path.split('/'));
  if (natural !== null) return natural;
  for (const parts of placesOfLayerPath(core, path).slice(1)) {
    const place = placeAt(core, path, parts);
    if (place !== null) return place;
  }
  return null;
}

function placeAt(core: Core, path: string, at: readonly string[]): OldPlace | null {
  const parts = [...at];
  const name = parts.pop()!;
  const parent = directoryByPath(core, parts);
  if (parent === null) return null;
  const hides =
    parent.merged !== null && under(parent.merged.path, name) === path && hidesPrivately(core, parent, name);
  if (hides) return { parent, name };
  releaseIfUnused(core, parent);
  return null;
}

function hidesPrivately(core: Core, parent: Node, name: string): boolean {
  const where = resolve(core, parent, name);
  if (core.whiteout) return true;
  if (where !== PRIVATE || (core.stat.mode & S_IFMT) !== S_IFDIR) return false;
  const parentFd = directoryFd(core, parent);
  const fd = parentFd < 0 ? parentFd : openDirectory(parentFd, name);
  if (fd < 0) return false;
  const opaque = fgetxattr(fd, OPAQUE);
  close(fd);
  return typeof opaque !== 'number' && isOpaque(opaque);
}

/** After the directory is gone; best effort, because the deletion is done. */
export function freeOldPlace(core: Core, { parent, name }: OldPlace): void {
  const where = resolve(core, parent, name);
  const parentFd = directoryFd(core, parent);
  if (parentFd >= 0 && core.whiteout) {
    const times = keepTimes(parentFd);
    step(core, 'old place: whiteout');
    unlinkat(parentFd, name);
    restoreTimes(parentFd, times);
  } else if (parentFd >= 0 && where === PRIVATE) {
    const fd = openDirectory(parentFd, name);
    step(core, 'old place: opaque');
    if (fd >= 0) {
      fremovexattr(fd, OPAQUE);
      close(fd);
    }
  }
  releaseIfUnused(core, parent);
}
