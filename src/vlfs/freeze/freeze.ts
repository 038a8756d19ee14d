/**
 * The freeze of a private layer that is served meanwhile. An empty frozen layer stands on top of the next stack already, which shows the same as the present
 * one; so in one turn of the thread private/ changes places with that layer's directory, and nothing that one can see changes, wherever a kill cuts
 * it off. Nodes that were private find themselves frozen at their next use. Files that somebody has open stay the appliance's live inodes: they move into the
 * new private layer, and the frozen one gets copies of what they are at this instant.
 */
import { join } from 'node:path';
import { nameFromText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  fgetxattr,
  fsetxattr,
  fstat,
  futimens,
  keepsOrder,
  linkat,
  mkdirat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  openat,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  readDirectory,
  renameat2,
  type Stat,
  unlinkat,
} from '../../sys/index.ts';
import { copyDirectoryAttributes } from '../changes/reset.ts';
import type { FreezeWork, StackSpec } from '../contract.ts';
import { attributesMoved, type Core, step } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { encodeIno, INO_XATTR } from '../nodes/ino-xattr.ts';
import { directoryFd, dropDirectoryFds } from '../private-layer/directory-fds.ts';
import { openPrivateDir, privateDirectory } from '../private-layer/private-layer.ts';
import { carryOn } from '../private-layer/unfinished.ts';
import { workFd } from '../private-layer/work-dir.ts';
import type { HiddenEntries } from '../stack/merged-directory.ts';
import { closeStack, openStackSteps, type Stack } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';
import { loadAllHidden, openDirectory } from '../whiteouts/whiteout-sets.ts';
import { type Ahead, type Copy, copyAhead, dropCopies, takeCopies } from './copies.ts';
import { markOf } from './finish.ts';
import {
  dropFollowers,
  type Follower,
  follow,
  followersOf,
  followingOf,
  forgetFollowers,
  noteFollowers,
} from './follow.ts';
import { inPool } from './in-pool.ts';
import { isMappedAbove, nameOpenFiles, openFiles, unnamedLinks } from './open-files.ts';

/**
 * Begins the freeze. `spec`: the next stack, with the frozen layer in `dir` on top, whose private/ and whiteouts/ are there and empty. Between the steps
 * requests are served.
 */
export function beginFreeze(core: Core, spec: StackSpec, dir: string): FreezeWork {
  let next: Stack | null = null;
  let followers: Follower[] = [];
  const ahead: Ahead = new Map();
  let steps: Steps<void> = prepare();
  core.freezing = true;

  function* prepare(): Steps<void> {
    next ??= yield* openStackSteps(spec, { below: core.stack });
    if (core.readOnly) return;
    const files = yield* nameOpenFiles(core);
    yield* copyAhead(core, ahead, files);
  }

  function again<T>(outcome: T): T {
    steps = prepare();
    return outcome;
  }

  function end(): void {
    dropCopies(core, [...ahead.values()]);
    core.freezing = false;
  }

  return {
    step(untilMs) {
      const went = carryOn(core, steps, untilMs);
      return went === 'more' || !('result' in went) ? went : 'ready';
    },
    commit(held) {
      if (core.filling > 0) return again('wait');
      if (core.noOpen) core.demand?.closeNamed();
      const files = core.readOnly ? [] : openFiles(core);
      if (unnamedLinks(files).size > 0) return again('wait');
      const mapped = files.filter(isMappedAbove);
      const loose = mapped.filter(({ node }) => !held.has(node.id));
      if (loose.length > 0) return again(loose.map(({ node: { id, ino } }) => ({ node: id, ino })));
      const { copies, changed, missing } = takeCopies(core, files, ahead, held);
      if (missing) return again('wait');
      if (changed.length > 0) return again(changed.map(({ node: { id, ino } }) => ({ node: id, ino })));
      try {
        followers = followersOf(core, copies);
        exchange(core, { next: next!, dir, copies, followers });
      } catch (error) {
        dropFollowers(followers);
        dropCopies(core, copies);
        throw error;
      }
      next = null;
      core.following = followingOf(followers);
      end();
      core.quota?.count?.startAnew();
      const noted = new Set(followers.map(({ copy }) => copy));
      steps = syncCopies(
        dir,
        copies.filter((copy) => !noted.has(copy)),
      );
      return { mapped: mapped.map(({ node }) => node.id) };
    },
    follow() {
      if (followers.length > 0) steps = follow(core, dir, followers);
    },
    abort() {
      steps.return();
      if (next !== null) closeStack(next);
      next = null;
      end();
    },
  };
}

/** What the clone is told of is on the disk before it is, as the source's programs left it there. */
function* syncCopies(dir: string, copies: readonly Copy[]): Steps<void> {
  const fds = copies.map(({ fd }) => fd);
  try {
    if (fds.length > 0 && keepsOrder(dir)) yield* inPool((done) => ({ kind: 'write-out', fds, done }));
    else for (const fd of fds) yield* inPool((done) => ({ kind: 'fsync', fd, dataOnly: false, done }));
  } finally {
    for (const fd of fds) close(fd);
  }
}

/** What an open file's names were in the directories that are frozen now. */
interface Place {
  copy: Copy;
  /** Descriptors of the directories of its names, in their order. */
  fds: number[];
}

/** The change itself, in one turn. Throws with everything as it was. */
function exchange(
  core: Core,
  { next, dir, copies, followers }: { next: Stack; dir: string; copies: Copy[]; followers: Follower[] },
): void {
  const undo: (() => void)[] = [];
  const frozen = { private: join(dir, 'private'), whiteouts: join(dir, 'whiteouts') };
  const places = copies.map((copy): Place => ({ copy, fds: [] }));
  try {
    for (const part of [frozen.private, frozen.whiteouts]) refuseFull(part);
    prepareRoot(core, frozen.private);
    for (const { copy, fds } of places)
      for (const { parent } of copy.file.names)
        fds.push(must(openDirectory(must(directoryFd(core, parent)), '.')));
    if (core.whiteoutsFd < 0) mkdirat(AT_FDCWD, nameFromText(core.whiteoutsDir), 0o755);
    step(core, 'freeze');
    core.ledger?.decide();
    step(core, 'freeze: decided');
    const mark = nameFromText(markOf(dir));
    if (places.length > 0) close(must(openat(AT_FDCWD, mark, O_CREAT | O_CLOEXEC, 0o600)));
    step(core, 'freeze: marked');
    undo.push(() => forgetFollowers(dir));
    noteFollowers(dir, followers);
    step(core, 'freeze: noted');
    swap(core.privateDir, frozen.private, undo);
    step(core, 'freeze: private');
    swap(core.whiteoutsDir, frozen.whiteouts, undo);
    step(core, 'freeze: whiteouts');
    const leave = goOver(core, next, undo);
    for (const place of places) move(core, place, undo);
    leave();
  } catch (error) {
    for (const back of undo.reverse()) back();
    throw error;
  } finally {
    if (places.length > 0) unlinkat(AT_FDCWD, nameFromText(markOf(dir)));
    for (const { fds } of places) for (const fd of fds) close(fd);
  }
  step(core, 'freeze: done');
}

/** What was exchanged once must not be exchanged back. */
function refuseFull(dir: string): void {
  const fd = must(openDirectory(AT_FDCWD, nameFromText(dir)));
  const entries = readDirectory(fd);
  close(fd);
  if (typeof entries === 'number' || entries.length > 0)
    throw new StrataError('IO', `the new frozen layer is not empty (${dir})`);
}

/** The next private/ says of itself what the present one does. */
function prepareRoot(core: Core, to: string): void {
  const fd = must(openDirectory(AT_FDCWD, nameFromText(to)));
  try {
    copyDirectoryAttributes(core.rootFd, fd);
    // An empty stack gave it another number than a frozen layer does.
    if (typeof fgetxattr(fd, INO_XATTR) === 'number')
      must(fsetxattr(fd, INO_XATTR, encodeIno(core.root.ino)));
    must(fstat(core.rootFd, stat));
    futimens(fd, stat.atimeSec, stat.atimeNsec, stat.mtimeSec, stat.mtimeNsec);
  } finally {
    close(fd);
  }
}

function swap(one: string, two: string, undo: (() => void)[]): void {
  const go = (): number =>
    renameat2(AT_FDCWD, nameFromText(one), AT_FDCWD, nameFromText(two), RENAME_EXCHANGE);
  must(go());
  undo.push(go);
}

/** From here on every request sees the empty private layer over the frozen one. What is returned lets go of the former state. */
function goOver(core: Core, next: Stack, undo: (() => void)[]): () => void {
  const { rootFd, whiteoutsFd, stack, hidden, hasFrozen, hasRedirects } = core;
  const fresh = must(openPrivateDir(core.privateDir));
  const go = (to: Pick<Core, 'rootFd' | 'whiteoutsFd' | 'stack' | 'hidden' | 'hasFrozen'>): void => {
    Object.assign(core, to);
    core.hasRedirects = hasRedirects;
    core.moved = null;
    core.generation++;
    dropDirectoryFds(core);
  };
  go({
    rootFd: fresh,
    whiteoutsFd: Math.max(-1, openDirectory(AT_FDCWD, nameFromText(core.whiteoutsDir))),
    stack: next,
    hidden: shifted(core, stack, next),
    hasFrozen: true,
  });
  undo.push(() => {
    for (const fd of [core.rootFd, core.whiteoutsFd]) if (fd >= 0) close(fd);
    go({ rootFd, whiteoutsFd, stack, hidden, hasFrozen });
  });
  return () => {
    for (const fd of [rootFd, whiteoutsFd]) if (fd >= 0) close(fd);
    closeStack(stack);
  };
}

/** The whiteouts are the same, of levels with other numbers. Units that were opened anew (their index was made again) have other entries. */
function shifted(core: Core, before: Stack, next: Stack): HiddenEntries {
  const levelBefore = new Map(before.units.map((unit, level) => [unit, level]));
  const others = new Set(next.units.slice(1).filter((unit) => !levelBefore.has(unit)));
  const fresh = others.size === 0 ? null : loadAllHidden(core.whiteoutsDir, next, (unit) => others.has(unit));
  const to: Required<HiddenEntries> = { count: 0, levels: [], opened: [], ...fresh };
  const keep = (from: (Set<number> | undefined)[] | undefined, into: (Set<number> | undefined)[]): void => {
    for (const [level, unit] of next.units.entries()) {
      const was = levelBefore.get(unit);
      const set = was === undefined ? undefined : from?.[was];
      if (set === undefined) continue;
      into[level] = set;
      to.count += set.size;
    }
  };
  keep(core.hidden.levels, to.levels);
  keep(core.hidden.opened, to.opened);
  return to;
}

const stat = newStat();

/** An open file's names go to the new private layer, one by one; its copy takes their places in the frozen one. */
function move(core: Core, { copy, fds }: Place, undo: (() => void)[]): void {
  const { file, temporary } = copy;
  for (const [i, { parent, name }] of file.names.entries()) {
    const from = fds[i]!;
    const to = must(privateDirectory(core, parent));
    const times = [from, to].map(timesOf);
    step(core, 'freeze: move');
    must(renameat2(from, name, to, name, RENAME_NOREPLACE));
    undo.push(() => {
      renameat2(to, name, from, name);
      times[0]!();
    });
    step(core, 'freeze: copy');
    const work = must(workFd(core));
    must(i === 0 ? renameat2(work, temporary, from, name) : linkat(fds[0]!, file.names[0]!.name, from, name));
    for (const restore of times) restore();
  }
  // The move changed its change time.
  attributesMoved(core, file.node);
}

/** What gives a directory its present times back. */
function timesOf(fd: number): () => void {
  const times: Stat = newStat();
  if (fstat(fd, times) < 0) return () => {};
  return () => void futimens(fd, times.atimeSec, times.atimeNsec, times.mtimeSec, times.mtimeNsec);
}

function must(result: number): number {
  if (result === -E.MLINK) throw systemFailure(result, 'give an open file its names');
  if (result < 0) throw systemFailure(result, 'freeze the private layer');
  return result;
}
