/**
 * Before a place of the layers is shown again: what was deleted below it in a directory that was renamed away is marked by whiteouts in the sets, which
 * count at both places. Private whiteouts at the other places take over, and the marks go: nothing that one can see changes, but the place comes back whole.
 */
import { close, E, fsetxattr, mknodat, S_IFCHR, S_IFDIR, S_IFMT } from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { type Core, type Node, step } from '../core.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { NOTHING, PRIVATE, resolve } from '../operations/lookup.ts';
import { keepTimes, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import { entryOf, OPAQUE, type Reference, reference, unitOf } from '../stack/merged-directory.ts';
import { openDirectory } from './whiteout-sets.ts';
import { uncover } from './whiteouts.ts';

/** `path`: of a directory in the layers; `place`: where it will be shown, relative to the root. 0 or a negative errno. */
export function keepApart(core: Core, path: string, place: string): number {
  if (!core.hasRedirects || core.hidden.count === 0) return 0;
  const marks = hiddenBelow(core, path);
  const taken: Reference[] = [];
  for (const { ref, path: at } of marks) {
    let apart = false;
    for (const parts of placesOfLayerPath(core, at)) {
      const shown = parts.join('/');
      if (shown === place || shown.startsWith(`${place}/`)) continue;
      const covered = coverAt(core, parts, at);
      if (covered < 0) return covered;
      apart ||= covered > 0;
    }
    if (apart) taken.push(ref);
  }
  if (taken.length === 0) return 0;
  for (const ref of taken) {
    const gone = uncover(core, [ref]);
    if (gone < 0) return gone;
  }
  core.generation++;
  return 0;
}

/** Marks below a directory of the layers, those of directories before what lies in them. */
function hiddenBelow(core: Core, path: string): { ref: Reference; path: string }[] {
  const found: { ref: Reference; path: string }[] = [];
  for (const [level, set] of core.hidden.levels.entries()) {
    for (const entry of set ?? []) {
      const ref = reference(level, entry);
      const at: string = unitOf(core.stack, ref).index.path(entryOf(ref));
      if (at.startsWith(`${path}/`)) found.push({ ref, path: at });
    }
  }
  return found.sort((a, b) => a.path.length - b.path.length);
}

/** 1: the private layer hides it there; 0: this is no place of it. */
function coverAt(core: Core, parts: readonly string[], path: string): number {
  const name = parts.at(-1)!;
  const parent = directoryByPath(core, parts.slice(0, -1));
  if (parent === null) return 0;
  const isPlace = parent.merged !== null && `${parent.merged.path}/${name}` === path;
  const result = isPlace ? cover(core, parent, name) : 0;
  releaseIfUnused(core, parent);
  return result;
}

function cover(core: Core, parent: Node, name: string): number {
  const where = resolve(core, parent, name);
  if (where < 0) return where;
  // The mark is not what hides it.
  if (where !== NOTHING && where !== PRIVATE) return 0;
  if (core.whiteout) return 1;
  const isDirectory = where === PRIVATE && (core.stat.mode & S_IFMT) === S_IFDIR;
  if (where === PRIVATE && !isDirectory) return 1;
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  if (!isDirectory) {
    const times = keepTimes(parentFd);
    step(core, 'keep apart: whiteout');
    const made = mknodat(parentFd, name, S_IFCHR, 0);
    restoreTimes(parentFd, times);
    return made < 0 && made !== -E.EXIST ? made : 1;
  }
  const fd = openDirectory(parentFd, name);
  if (fd < 0) return fd;
  step(core, 'keep apart: opaque');
  const set = fsetxattr(fd, OPAQUE, Buffer.from('y'));
  close(fd);
  return set < 0 ? set : 1;
}
