/**
 * Reset: a fresh private layer and fresh whiteouts, but for the paths that are kept (as hard links to the same files, so open ones stay what they
 * are). Both are built in the work directory; the rename to `reset-private` decides, and what follows is repeated after a crash
 * (`finishReset`) until it is done.
 */
import { existsSync, mkdtempSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { nameFromText, nameToText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  fchmod,
  fchown,
  fgetxattr,
  flistxattr,
  fsetxattr,
  fstat,
  fsync,
  futimens,
  linkat,
  mkdirat,
  mknodat,
  newStat,
  readDirectory,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  splitXattrList,
  statAt,
} from '../../sys/index.ts';
import { deleteAside } from '../aside/delete-aside.ts';
import { type Core, step } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { eachEntries } from '../listing/entries-steps.ts';
import { detachName, forgetInode } from '../nodes/nodes.ts';
import { confirm } from '../operations/lookup.ts';
import { dropDirectoryFd } from '../private-layer/directory-fds.ts';
import { openPrivateDir } from '../private-layer/private-layer.ts';
import { removeTree, removeTreeSteps, workFd } from '../private-layer/work-dir.ts';
import { splitPath } from '../split-path.ts';
import { OPAQUE } from '../stack/merged-directory.ts';
import type { Steps } from '../steps.ts';
import { eachSet, loadAllHidden, OPENED, openDirectory } from '../whiteouts/whiteout-sets.ts';
import { makeWhole } from '../whiteouts/whiteouts.ts';
import { hideFrozenBut } from './reset-frozen.ts';
import { hideOldPlaces, keptTargets, redirectOf } from './reset-places.ts';

const STAGED = 'reset-private';
const BUILDING = 'reset-private.new';
const STAGED_WHITEOUTS = 'reset-whiteouts';
/** Entries between two steps. */
const A_STEP = 32;

/**
 * Gives the VLFS a fresh private layer, keeping the given paths (directories with all below), in steps between which nothing else may change the VLFS. Throws before
 * the decision, never after.
 */
export function* reset(core: Core, keep: readonly string[]): Steps<void> {
  if (core.readOnly) throw systemFailure(-E.ROFS, 'reset');
  const kept = keep.map(splitPath);
  must(makeWhole(core), 'reset');
  const work = must(workFd(core), 'open the work directory');
  removeTree(work, BUILDING);
  removeTree(work, STAGED_WHITEOUTS);
  must(mkdirat(work, BUILDING, 0o700), 'reset');
  must(mkdirat(work, STAGED_WHITEOUTS, 0o755), 'reset');
  const fresh = must(openDirectory(work, BUILDING), 'reset');
  const whiteouts = must(openDirectory(work, STAGED_WHITEOUTS), 'reset');
  try {
    copyDirectoryAttributes(core.rootFd, fresh);
    const targets = new Set<string>();
    for (const parts of kept) yield* keepPath(core.rootFd, fresh, parts, targets);
    const paths = kept.map((parts) => parts.join('/'));
    const { inLayers, originals } = keptTargets(core, targets, paths);
    yield* keepWhiteouts(core, whiteouts, kept, inLayers);
    yield* hideFrozenBut(core, whiteouts, kept);
    const [privateDir, whiteoutsDir] = [BUILDING, STAGED_WHITEOUTS].map((name) => join(core.workDir, name));
    hideOldPlaces(
      core,
      {
        name: core.name,
        privateDir: privateDir!,
        whiteoutsDir: whiteoutsDir!,
        stack: core.stack.spec,
        readOnly: false,
      },
      originals,
      paths,
    );
    removeTree(work, 'work');
  } finally {
    close(fresh);
    close(whiteouts);
  }
  step(core, 'reset: decide');
  renameSync(join(core.workDir, BUILDING), join(core.workDir, STAGED));
  // A journalling file system keeps the order of all that is done here. Waiting for the disk is the caller's on a serving thread.
  if (!core.background) fsync(work);
  const trash = placeReset(core.privateDir, core.whiteoutsDir, core.workDir, core.onStep);
  yield* reopen(core);
  if (trash === null) return;
  for (const parts of kept) yield* dropReplaced(join(trash, 'private'), parts);
  deleteAside(trash, core.background);
}

/** What is kept has its old names no longer, which count as links of it. */
function* dropReplaced(dir: string, parts: readonly string[]): Steps<void> {
  let fd = openDirectory(AT_FDCWD, nameFromText(dir));
  for (const part of parts.slice(0, -1)) {
    if (fd < 0) return;
    const below = openDirectory(fd, part);
    close(fd);
    fd = below;
  }
  if (fd < 0) return;
  try {
    const names = parts.length > 0 ? parts.slice(-1) : namesOfDirectory(fd);
    for (const name of names) yield* removeTreeSteps(fd, name);
  } finally {
    close(fd);
  }
}

function namesOfDirectory(fd: number): string[] {
  const entries = readDirectory(fd);
  return typeof entries === 'number' ? [] : entries.map(({ name }) => name);
}

/** At opening: puts a decided reset in place; a no-op when there is none. What it replaced is deleted with the rest of the work directory. */
export function finishReset(privateDir: string, whiteoutsDir: string, workDir: string): void {
  placeReset(privateDir, whiteoutsDir, workDir, null);
}

/** Safe to repeat. Returns the directory that holds what was replaced, or null when nothing was decided. */
function placeReset(
  privateDir: string,
  whiteoutsDir: string,
  workDir: string,
  onStep: ((step: string) => void) | null,
): string | null {
  const staged = join(workDir, STAGED);
  if (!existsSync(staged)) return null;
  const trash = mkdtempSync(join(workDir, 'trash-'));
  const stagedWhiteouts = join(workDir, STAGED_WHITEOUTS);
  if (existsSync(stagedWhiteouts)) {
    onStep?.('reset: whiteouts away');
    if (existsSync(whiteoutsDir)) renameSync(whiteoutsDir, join(trash, 'whiteouts'));
    onStep?.('reset: whiteouts');
    renameSync(stagedWhiteouts, whiteoutsDir);
  }
  onStep?.('reset: private away');
  if (existsSync(privateDir)) renameSync(privateDir, join(trash, 'private'));
  onStep?.('reset: private');
  renameSync(staged, privateDir);
  onStep?.('reset: trash');
  return trash;
}

/** The open VLFS goes over to the new directories. */
function* reopen(core: Core): Steps<void> {
  openPrivateAnew(core);
  core.hidden = loadAllHidden(core.whiteoutsDir, core.stack);
  core.moved = null;
  core.generation++;
  yield* detachGone(core);
}

/** Another directory is the private layer now. */
export function openPrivateAnew(core: Core): void {
  close(core.rootFd);
  for (const fd of [core.whiteoutsFd, core.changedSetFd]) if (fd >= 0) close(fd);
  core.changedSetFd = -1;
  core.rootFd = openPrivateDir(core.privateDir);
  core.whiteoutsFd = openDirectory(AT_FDCWD, nameFromText(core.whiteoutsDir));
}

/** Private files that are not there any more lose their names; who has them open keeps them. */
export function* detachGone(core: Core): Steps<void> {
  let looked = 0;
  for (const node of core.nodes.values()) {
    if (++looked % A_STEP === 0) yield;
    if (node.children !== null) dropDirectoryFd(node);
  }
  for (const node of [...core.nodes.values()]) {
    if (++looked % A_STEP === 0) yield;
    if (node.children !== null || !node.priv || node.parent === null || confirm(core, node) === 0) continue;
    while (node.parent !== null) {
      const { parent, name } = node as { parent: NonNullable<typeof node.parent>; name: string };
      if (parent.children!.get(name) === node) detachName(core, parent, name);
      else node.parent = null;
    }
    forgetInode(core, node);
  }
}

const stat = newStat();

/** Gives a directory the owner, mode, extended attributes and times of another. */
export function copyDirectoryAttributes(from: number, to: number): void {
  must(fstat(from, stat), 'reset');
  const { uid, gid, mode, mtimeSec, mtimeNsec } = stat;
  must(fchown(to, uid, gid), 'reset');
  const list = flistxattr(from);
  for (const name of typeof list === 'number' ? [] : splitXattrList(list)) {
    const value = fgetxattr(from, name);
    if (typeof value !== 'number') must(fsetxattr(to, name, value), 'reset');
  }
  must(fchmod(to, mode & 0o7777), 'reset');
  futimens(to, mtimeSec, mtimeNsec, mtimeSec, mtimeNsec);
}

/** Links one kept path of the old private tree into the new one. A path that the private layer does not have is kept by being shared. */
function* keepPath(from: number, to: number, parts: readonly string[], targets: Set<string>): Steps<void> {
  const [name, ...rest] = parts;
  if (name === undefined) {
    yield* keepChildren(from, to, targets);
    return;
  }
  if (statAt(from, name, stat) !== 0) return;
  if (rest.length === 0 || (stat.mode & S_IFMT) !== S_IFDIR) {
    if (rest.length === 0) yield* keepEntry(from, to, name, targets);
    return;
  }
  yield* withBoth(from, to, name, targets, (below, fresh) => keepPath(below, fresh, rest, targets));
}

function* keepEntry(from: number, to: number, name: string, targets: Set<string>): Steps<void> {
  must(statAt(from, name, stat), `keep ${nameToText(name)}`);
  if ((stat.mode & S_IFMT) === S_IFDIR) {
    yield* withBoth(from, to, name, targets, (below, fresh) => keepChildren(below, fresh, targets));
    return;
  }
  const linked = linkat(from, name, to, name);
  if (linked !== -E.EXIST) must(linked, `keep ${nameToText(name)}`);
}

function* keepChildren(from: number, to: number, targets: Set<string>): Steps<void> {
  const listing = must(openDirectory(from, '.'), 'reset');
  try {
    const read = yield* eachEntries(listing, function* (entries) {
      for (const [i, { name }] of entries.entries()) {
        if (i % A_STEP === 0) yield;
        yield* keepEntry(from, to, name, targets);
      }
    });
    must(read, 'reset');
  } finally {
    close(listing);
  }
}

/** `targets` gets where redirects lead. */
function* withBoth(
  from: number,
  to: number,
  name: string,
  targets: Set<string>,
  use: (below: number, fresh: number) => Steps<void>,
): Steps<void> {
  const below = must(openDirectory(from, name), `keep ${nameToText(name)}`);
  const made = mkdirat(to, name, 0o700);
  if (made !== -E.EXIST) must(made, `keep ${nameToText(name)}`);
  const fresh = must(openDirectory(to, name), `keep ${nameToText(name)}`);
  const target = redirectOf(below);
  if (target !== null) targets.add(target);
  try {
    yield* use(below, fresh);
    copyDirectoryAttributes(below, fresh);
  } finally {
    close(below);
    close(fresh);
  }
}

/** Copies the whiteouts at and below the kept paths, in every set; and those below what kept redirects lead to. */
function* keepWhiteouts(
  core: Core,
  to: number,
  kept: readonly string[][],
  targets: ReadonlySet<string>,
): Steps<void> {
  if (core.whiteoutsFd < 0 || kept.length === 0) return;
  const sets: string[] = [];
  eachSet(core.whiteoutsFd, core.stack.levelOfSet, (setDir, level) => {
    if (level >= 0) sets.push(setDir);
  });
  for (const setDir of sets) {
    for (const parts of kept) yield* copyWhiteouts(core.whiteoutsFd, to, [...setDir.split('/'), ...parts], 0);
    for (const target of targets) {
      const parts = `${setDir}/${target}`.split('/');
      yield* copyWhiteouts(core.whiteoutsFd, to, parts, parts.length);
    }
  }
}

/** `plain`: marks of so many directories on the way do not count. */
function* copyWhiteouts(from: number, to: number, parts: readonly string[], plain: number): Steps<void> {
  const [name, ...rest] = parts;
  if (name === undefined) {
    yield* eachEntries(from, function* (entries) {
      for (const entry of entries) yield* copyWhiteouts(from, to, [entry.name], 0);
    });
    return;
  }
  if (statAt(from, name, stat) !== 0) return;
  if ((stat.mode & S_IFMT) === S_IFCHR) {
    if (plain > 0) return;
    // A whiteout above a kept path hides it too.
    const made = mknodat(to, name, S_IFCHR, 0);
    if (made !== -E.EXIST) must(made, 'reset');
    return;
  }
  const below = must(openDirectory(from, name), 'reset');
  mkdirat(to, name, 0o755);
  const fresh = must(openDirectory(to, name), 'reset');
  for (const mark of [OPAQUE, OPENED]) {
    const value = mark === OPAQUE && plain > 0 ? -E.NODATA : fgetxattr(below, mark);
    if (typeof value !== 'number') must(fsetxattr(fresh, mark, value), 'reset');
  }
  yield* copyWhiteouts(below, fresh, rest, Math.max(0, plain - 1));
  close(below);
  close(fresh);
}

function must(result: number, doing: string): number {
  if (result < 0) throw systemFailure(result, doing);
  return result;
}
