/**
 * What else a reset keeps of directories that were renamed: which of the layers' names were deleted in them, and that their old places stay free. Works on the
 * private layer and the whiteouts that the reset has built and not yet put in place.
 */
import { fgetxattr, mknodat, S_IFCHR } from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { placesOfLayerDirectory, renamedInFrozen } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { closeCore, openCore } from '../open-core.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { directoryAt, originalOf } from '../stack/child-directories.ts';
import {
  entryOf,
  type MergedDirectory,
  REDIRECT,
  type Reference,
  unitOf,
} from '../stack/merged-directory.ts';

/** The directory of the layers that an open private directory shows wherever it is, or null. */
export function redirectOf(fd: number): string | null {
  const value = fgetxattr(fd, REDIRECT);
  if (typeof value === 'number') return null;
  const target = Buffer.from(value).toString('latin1');
  return target.startsWith('/') ? target.slice(1) : null;
}

/** Directories of the layers that what is kept shows at other places. */
export interface KeptTargets {
  /** Their paths in each of their layers, where whiteouts in the sets stand. */
  inLayers: Set<string>;
  /** Their paths below all frozen layers. */
  originals: Set<string>;
}

/** `own`: where kept redirects of the private layer lead, as paths in the stack. `paths`: what is kept. */
export function keptTargets(core: Core, own: ReadonlySet<string>, paths: readonly string[]): KeptTargets {
  const found: KeptTargets = { inLayers: new Set(), originals: new Set() };
  const add = (merged: MergedDirectory): void => {
    found.originals.add(merged.originalPath);
    for (const ref of merged.contributors)
      found.inLayers.add(unitOf(core.stack, ref).index.path(entryOf(ref)));
  };
  for (const path of own) {
    found.inLayers.add(path);
    const merged = directoryAt(core.stack, path, core.hidden);
    if (merged !== null) add(merged);
  }
  for (const { unit, path, places } of renamedInFrozen(core)) {
    for (const parts of places.filter((at) => reaches(at.join('/'), paths))) {
      const node = directoryByPath(core, parts);
      if (node === null) continue;
      const isIt = (ref: Reference): boolean =>
        unitOf(core.stack, ref) === unit && unit.index.path(entryOf(ref)) === path;
      if (node.merged?.contributors.some(isIt)) add(node.merged);
      releaseIfUnused(core, node);
    }
  }
  return found;
}

/** Whether a place is one of the paths, or above or below it. */
function reaches(place: string, paths: readonly string[]): boolean {
  return paths.some(
    (path) => path === '' || `${place}/`.startsWith(`${path}/`) || `${path}/`.startsWith(`${place}/`),
  );
}

/**
 * Hides the places of renamed directories at which the fresh private layer would show them too, and the present one does not. `originals`: paths below all frozen layers;
 * `paths`: what is kept. Throws a StrataError.
 */
export function hideOldPlaces(
  core: Core,
  fresh: VlfsSpec,
  originals: ReadonlySet<string>,
  paths: readonly string[],
): void {
  if (originals.size === 0) return;
  const next = openCore(fresh);
  try {
    for (const original of originals) {
      for (const parts of placesOfLayerDirectory(next, original)) {
        const node = directoryByPath(next, parts);
        const isKept = reaches(parts.join('/'), paths);
        if (node === null || !isOldPlace(next, node, original, isKept) || isShown(core, parts, original))
          continue;
        const parentFd = privateDirectory(next, node.parent!);
        const made = parentFd < 0 ? parentFd : mknodat(parentFd, node.name, S_IFCHR, 0);
        if (made < 0) throw systemFailure(made, `hide the old place of /${original}`);
        next.generation++;
      }
    }
  } finally {
    closeCore(next);
  }
}

/** What is private or frozen there shows what is its own, when it was kept. A frozen directory is there, too, because a renamed one shows it. */
function isOldPlace(core: Core, node: Node, original: string, isKept: boolean): boolean {
  if (node.priv || !showsOriginal(node, original)) return false;
  return !isKept || unitOf(core.stack, node.merged!.contributors[0]!).frozen === null;
}

function isShown(core: Core, parts: readonly string[], original: string): boolean {
  const node = directoryByPath(core, parts);
  if (node === null) return false;
  const shows = showsOriginal(node, original);
  releaseIfUnused(core, node);
  return shows;
}

function showsOriginal({ merged }: Node, original: string): boolean {
  return merged !== null && merged.originalPath === original && originalOf(merged) !== null;
}
