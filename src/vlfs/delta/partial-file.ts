/**
 * Partial files as an open VLFS knows them: which private nodes are partial, and the file of a layer below each. A map that is read from the disk is
 * checked first: blocks that were not known to be there when the machine stopped count only where the file has data.
 */

import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  fstat,
  getxattrAt,
  lseek,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  S_IFMT,
  S_IFREG,
  SEEK_DATA,
  SEEK_HOLE,
  setxattrAt,
} from '../../sys/index.ts';
import type { SlowJob } from '../contract.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { type Unit, unitRootFd } from '../stack/stack.ts';
import { BLOCK, drop, newBlockMap } from './block-map.ts';
import {
  blocksOf,
  decodePartial,
  PARTIAL_XATTR,
  type PartialForm,
  redirectOf,
  storePartial,
  writeBases,
} from './partial-form.ts';

export interface Partial {
  /** What is seen. A file that somebody opened for writing counts as changed, until it is closed without a change. */
  readonly form: PartialForm;
  /** The disk says that nothing but attributes was changed. */
  metaOnDisk: boolean;
  /** Counts changes of the map, so that a sync knows whether it saw all of them. */
  changes: number;
  /** Blocks [from, to) that a job of the pool is copying from the file below: nobody else may change them. */
  filling: Filling | null;
  /** In the queue for the background. */
  queued: boolean;
}

export interface Filling {
  readonly core: Core;
  from: number;
  to: number;
  job: SlowJob;
  /** Somebody runs the job. */
  started: boolean;
  /** The partial file and the one below. */
  fd: number;
  baseFd: number;
  /** The times that the file has for those who look: copying changes those on the disk. */
  times: { atimeSec: number; atimeNsec: number; mtimeSec: number; mtimeNsec: number };
}

const stat = newStat();
const NOTHING_BELOW = { unit: '', path: '', baseSize: 0, baseBlocks: 0, limit: 0, meta: true };

/** The partial file that a private node is, or null. */
export function partialOf(core: Core, node: Node): Partial | null {
  if (node.partial !== undefined) return node.partial;
  if (!node.priv || !core.hasPartials || node.kind !== S_IFREG) return null;
  if (node.parent === null) return null;
  const parentFd = directoryFd(core, node.parent);
  if (parentFd < 0) return null;
  node.partial = loadPartial(parentFd, node.name, core.readOnly);
  return node.partial;
}

/** The partial file at a name, or null for an ordinary one. One whose mark is damaged has nothing below it, so it cannot be opened. */
export function loadPartial(parentFd: number, name: string, readOnly: boolean): Partial | null {
  const value = getxattrAt(parentFd, name, PARTIAL_XATTR);
  if (value === -E.NODATA || value === -E.OPNOTSUPP) return null;
  const form = typeof value === 'number' ? null : decodePartial(value);
  if (form === null) return newPartial({ ...NOTHING_BELOW, map: newBlockMap() });
  if (!form.meta) {
    const fd = openat(parentFd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) {
      if (checkMap(fd, form) && !readOnly) storePartial(fd, form);
      close(fd);
    }
  }
  return newPartial(form);
}

export function newPartial(form: PartialForm): Partial {
  return { form, metaOnDisk: form.meta, changes: 0, filling: null, queued: false };
}

/** Drops from the map what a crash cut off. True when something was. */
export function checkMap(fd: number, form: PartialForm): boolean {
  if (fstat(fd, stat) < 0) return false;
  const limit = Math.min(form.limit, blocksOf(stat.size));
  let changed = limit !== form.limit;
  form.limit = limit;
  if (changed) drop(form.map, limit, Number.MAX_SAFE_INTEGER);
  for (const run of form.map.runs.filter(({ settled }) => !settled)) {
    for (let at = run.from; at < run.to; ) {
      const data = lseek(fd, at * BLOCK, SEEK_DATA);
      const from = data < 0 ? run.to : Math.min(run.to, blocksOf(data));
      const hole = from < run.to ? lseek(fd, from * BLOCK, SEEK_HOLE) : 0;
      const to = from < run.to && hole >= 0 ? (hole >= stat.size ? run.to : Math.floor(hole / BLOCK)) : from;
      if (from > at) {
        drop(form.map, at, from);
        changed = true;
      }
      if (to <= from && from < run.to) {
        // Only a part of the block is there.
        drop(form.map, from, from + 1);
        changed = true;
        at = from + 1;
      } else at = Math.max(to, from);
      if (from >= run.to) break;
    }
  }
  return changed;
}

/** Whether reads of a regular file find a file of a layer: a shared one, or the one below a metadata-only copy. */
export function showsBase(core: Core, node: Node): boolean {
  return !node.priv || partialOf(core, node)?.form.meta === true;
}

/** Before a private file gets another name: the kernel's overlayfs must not take what a layer has there for its content. 0 or a negative errno. */
export function keepRedirect(core: Core, node: Node, dirfd: number, name: string): number {
  const partial = core.hasPartials ? partialOf(core, node) : null;
  if (partial === null) return 0;
  const redirect = redirectOf({ ...partial.form, meta: partial.metaOnDisk });
  return setxattrAt(dirfd, name, redirect.name, redirect.value);
}

/** Opens the file below for reading; a negative errno: -EIO when it is not what it was. */
export function openBase(core: Core, form: PartialForm): number {
  const unit = core.stack.units.find(({ id }) => id === form.unit);
  if (unit !== undefined) return checkedBase(unitRootFd(unit), form, false);
  const dir = core.bases.get(form.unit);
  if (dir === undefined) return -E.IO;
  return checkedBase(openat(AT_FDCWD, nameFromText(dir), O_PATH | O_DIRECTORY | O_CLOEXEC), form, true);
}

function checkedBase(root: number, form: PartialForm, closes: boolean): number {
  if (root < 0) return -E.IO;
  const fd = openat2(root, form.path, O_RDONLY | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  if (closes) close(root);
  if (fd < 0) return fd === -E.MFILE || fd === -E.NFILE ? fd : -E.IO;
  const same = fstat(fd, stat) === 0 && (stat.mode & S_IFMT) === S_IFREG && stat.size === form.baseSize;
  if (same) return fd;
  close(fd);
  return -E.IO;
}

/** Before a partial file of this unit is made: the private layer names the unit, so that it is kept. 0 or a negative errno. */
export function noteBase(core: Core, unit: Unit): number {
  if (core.bases.get(unit.id) === unit.treeDir) return 0;
  const bases = new Map(core.bases).set(unit.id, unit.treeDir);
  const written = writeBases(core.rootFd, core.privateDir, bases);
  if (written < 0) return written;
  core.bases = bases;
  core.hasPartials = true;
  return 0;
}
