/**
 * Before a place of the layers is shown again: what was deleted below it in a directory that was renamed away is marked by whiteouts in the sets, which
 * count at both places. Private whiteouts at the other places take over, and the marks go: nothing that one can see changes, but the place comes back whole.
 */
import { E, fsetxattr, mknodat, S_IFCHR } from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { type Core, type Node, step } from '../core.ts';
import { placesOfLayerPath } from '../nodes/moved-directories.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { nodeAt } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { keepTimes, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import {
  entryOf,
  isDirectory,
  levelOf,
  OPAQUE,
  type Reference,
  reference,
  unitOf,
} from '../stack/merged-directory.ts';
import { uncover } from './whiteouts.ts';

/** `path`: of a directory in the layers, below all frozen ones; `place`: where it will be shown, relative to the root. 0 or a negative errno. */
export function keepApart(core: Core, path: string, place: string): number {
  if (!core.hasRedirects || core.hidden.count === 0) return 0;
  const marks = hiddenBelow(core, path);
  const taken: Reference[] = [];
  for (const { ref, path: at } of marks) {
    let apart = false;
    for (const parts of placesOfLayerPath(core, at)) {
      const shown = parts.join('/');
      if (shown === place || shown.startsWith(`${place}/`)) continue;
      const covered = coverAt(core, parts, ref);
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

/** Marks below a directory of config and software layers, those of directories before what lies in them. */
function hiddenBelow(core: Core, path: string): { ref: Reference; path: string }[] {
  const found: { ref: Reference; path: string }[] = [];
  for (const [level, set] of core.hidden.levels.entries()) {
    if (core.stack.units[level]!.frozen !== null) continue;
    for (const entry of set ?? []) {
      const ref = reference(level, entry);
      const at: string = unitOf(core.stack, ref).index.path(entryOf(ref));
      if (at.startsWith(`${path}/`)) found.push({ ref, path: at });
    }
  }
  return found.sort((a, b) => a.path.length - b.path.length);
}

/** 1: the appliance's own layers hide it there, whether it is marked or not; 0: this is no place of it. */
function coverAt(core: Core, parts: readonly string[], ref: Reference): number {
  const name = parts.at(-1)!;
  const parent = directoryByPath(core, parts.slice(0, -1));
  if (parent === null) return 0;
  const above = reference(levelOf(ref), unitOf(core.stack, ref).index.parent(entryOf(ref)));
  const result = parent.merged?.contributors.includes(above) ? cover(core, parent, name, ref) : 0;
  releaseIfUnused(core, parent);
  return result;
}

function cover(core: Core, parent: Node, name: string, ref: Reference): number {
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number') return node < 0 ? node : core.whiteout ? 1 : coverName(core, parent, name);
  const covered = coverNode(core, node, ref);
  releaseIfUnused(core, node);
  return covered;
}

function coverNode(core: Core, node: Node, ref: Reference): number {
  if (node.children === null) return node.priv || node.unit?.frozen != null ? 1 : 0;
  if (node.merged?.contributors.includes(ref)) return 0;
  if (node.merged !== null) return coverEach(core, node, ref);
  const fd = directoryFd(core, node);
  if (fd < 0) return fd;
  step(core, 'keep apart: opaque');
  const set = fsetxattr(fd, OPAQUE, Buffer.from('y'));
  return set < 0 ? set : 1;
}

/** A private whiteout comes to a name at which nothing shows. */
function coverName(core: Core, parent: Node, name: string): number {
  const parentFd = privateDirectory(core, parent);
  if (parentFd < 0) return parentFd;
  const times = keepTimes(parentFd);
  step(core, 'keep apart: whiteout');
  const made = mknodat(parentFd, name, S_IFCHR, 0);
  restoreTimes(parentFd, times);
  return made < 0 && made !== -E.EXIST ? made : 1;
}

/** What shows other layers' directories cannot be made opaque: name by name. */
function coverEach(core: Core, node: Node, ref: Reference): number {
  const { index } = unitOf(core.stack, ref);
  if (!isDirectory(core.stack, ref)) return 1;
  const first = index.firstChild(entryOf(ref));
  for (let child = first; child < first + index.childCount(entryOf(ref)); child++) {
    const covered = cover(core, node, index.name(child), reference(levelOf(ref), child));
    if (covered < 0) return covered;
  }
  return 1;
}
