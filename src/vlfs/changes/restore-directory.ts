/** The end of a directory's revert: what is private of it goes when it is empty, else it gets the original's attributes. */
import {
  AT_REMOVEDIR,
  fchmod,
  fchown,
  flistxattr,
  fremovexattr,
  fsetxattr,
  futimens,
  newStat,
  splitXattrList,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import { type Core, type Node, step } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { frozenAt, nodeAt } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { keepTimes, privateDirectory, restoreTimes } from '../private-layer/private-layer.ts';
import { originalOf } from '../stack/child-directories.ts';
import {
  entryOf,
  isDirectory,
  isHidden,
  type MergedDirectory,
  mergedTimes,
  type Reference,
  topOf,
  unitOf,
} from '../stack/merged-directory.ts';
import { namesOf } from '../stack/merged-names.ts';
import { hide } from '../whiteouts/whiteouts.ts';

/** Removes what is private of a directory and empty, or gives it the original's attributes. True when something changed that one can see. */
export function restoreDirectory(core: Core, parent: Node, name: string): boolean {
  const before = newStat();
  const shown = nodeAt(core, parent, name);
  if (typeof shown === 'number' || shown.children === null) return false;
  if (shown.priv) {
    const parentFd = directoryFd(core, parent);
    if (statAt(parentFd, name, before) !== 0) return false;
    const kept = keepTimes(parentFd);
    step(core, 'revert: directory');
    if (unlinkat(parentFd, name, AT_REMOVEDIR) === 0) {
      restoreTimes(parentFd, kept);
      core.generation++;
    }
  } else {
    const top = shown.merged?.contributors[0];
    const frozen = top === undefined ? null : unitOf(core.stack, top).frozen;
    if (frozen === null || top === undefined) return false;
    Object.assign(before, frozen.stat(entryOf(top)));
  }
  const own = frozenAt(core, parent, name);
  if (own.length > 0 && own.every((ref) => isDirectory(core.stack, ref)) && isSpent(core, shown)) {
    const hidden = hide(core, own);
    if (hidden < 0) throw systemFailure(hidden, `revert ${name}`);
    core.generation++;
  }
  const now = nodeAt(core, parent, name);
  const original = typeof now === 'number' || now.merged === null ? null : originalOf(now.merged);
  if (typeof now === 'number' || original === null || !differs(core, original, before)) return false;
  if (now.priv || now.merged !== original) copyAttributes(core, now, original);
  return true;
}

/** Whether everything that frozen layers have in a directory is hidden. */
function isSpent(core: Core, { merged }: Node): boolean {
  if (merged === null) return false;
  for (const candidates of namesOf(merged).values()) {
    const list = typeof candidates === 'number' ? [candidates] : candidates;
    if (list.some((ref) => isOwn(core, ref) && !isHidden(core.hidden, ref))) return false;
  }
  return true;
}

function differs(
  core: Core,
  original: MergedDirectory,
  stat: { mode: number; uid: number; gid: number },
): boolean {
  const ref = topOf(original);
  const { index } = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  return index.mode(entry) !== stat.mode || index.uid(entry) !== stat.uid || index.gid(entry) !== stat.gid;
}

function copyAttributes(core: Core, node: Node, original: MergedDirectory): void {
  const fd = privateDirectory(core, node);
  if (fd < 0) return;
  const ref = topOf(original);
  const { index } = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  fchown(fd, index.uid(entry), index.gid(entry));
  const list = flistxattr(fd);
  for (const name of typeof list === 'number' ? [] : splitXattrList(list))
    if (!isInternal(name)) fremovexattr(fd, name);
  if (index.hasXattrs(entry)) {
    for (const [name, value] of index.xattrs(entry)) if (!isInternal(name)) fsetxattr(fd, name, value);
  }
  fchmod(fd, index.mode(entry) & 0o7777);
  const { mtimeSec, mtimeNsec } = mergedTimes(original);
  futimens(fd, mtimeSec, mtimeNsec, mtimeSec, mtimeNsec);
}

/** An entry, or whiteout, of a frozen layer. */
export function isOwn(core: Core, ref: Reference): boolean {
  return unitOf(core.stack, ref < 0 ? -1 - ref : ref).frozen !== null;
}
