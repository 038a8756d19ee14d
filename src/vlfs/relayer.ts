/**
 * Relayer: the exchange of a VLFS's stack in one turn of the thread. Everything that can fail and all that takes long is done before, in steps between which
 * requests are served: the new stack is opened, the files that change with it are written beside the private layer, the names that will change are
 * listed (so the next stack's directories are merged). Then memory changes; directories and files find their new
 * content when they are next asked for. Repeating it does no harm, so a crash is answered by repeating. A process that takes over after kill -9 finds
 * in the ledger whether it was decided, and in the work directory which files it has yet to put in place: exactly before, or exactly after.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../base/index.ts';
import {
  close,
  fchmod,
  fchown,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_RDWR,
  O_TRUNC,
  openat,
  renameat2,
  type Stat,
  unlinkat,
  write,
} from '../sys/index.ts';
import type { PrivateFile, RelayerWork, StackSpec } from './contract.ts';
import { directoryByPath } from './copy-up/copy-up-links.ts';
import { slowJob } from './copy-up/slow-job.ts';
import { type Core, type Node, step } from './core.ts';
import { systemFailure } from './failure.ts';
import { holdOpenContent } from './nodes/handles.ts';
import { isLeaving } from './nodes/opens-on-demand.ts';
import { type Changes, staleNames } from './nodes/stale-names.ts';
import { PRIVATE, resolve } from './operations/lookup.ts';
import { lastAttr, loseName } from './operations/remove-ops.ts';
import { revokeDenied } from './policy/enforce.ts';
import { directoryFd } from './private-layer/directory-fds.ts';
import { dropParkedOf } from './private-layer/parked-files.ts';
import { privateDirectory } from './private-layer/private-layer.ts';
import { carryOn } from './private-layer/unfinished.ts';
import { RELAYER_FILES, temporaryName, workFd } from './private-layer/work-dir.ts';
import { recount } from './quota/quota.ts';
import { splitPath } from './split-path.ts';
import { entryOf, type HiddenEntries, unitOf } from './stack/merged-directory.ts';
import { closeStack, hasFrozenLayers, openStackSteps, type Stack, whiteoutSetDir } from './stack/stack.ts';
import { finished, type Steps } from './steps.ts';
import { loadAllHidden } from './whiteouts/whiteout-sets.ts';
import { openBelow, pruneSets } from './whiteouts/whiteouts.ts';

/** Bytes written in one step. */
const WRITE_BYTES = 256 * 1024;

interface StagedFile {
  parts: string[];
  name: string;
  /** Name in the work directory; null: the private copy goes. */
  temporary: string | null;
}

/** A relayer whose long part is done. */
interface Prepared {
  next: Stack;
  staged: StagedFile[];
  changes: Changes;
}

const NO_CHANGES: Changes = { names: [], unchanged: new Set() };

/** Exchanges the stack at once. Throws before anything changed when the new one cannot be opened or a file cannot be written. */
export function relayer(core: Core, spec: StackSpec, privateFiles: readonly PrivateFile[] = []): void {
  const prepared = finished(prepare(core, spec, privateFiles, false));
  const previous = exchangeOrDrop(core, prepared);
  finished(tidy(core, previous));
}

/** The same in steps, for a VLFS that is used meanwhile. */
export function beginRelayer(
  core: Core,
  spec: StackSpec,
  privateFiles: readonly PrivateFile[] = [],
): RelayerWork {
  let steps: Steps<Prepared | null> = prepare(core, spec, privateFiles, true);
  let prepared: Prepared | null = null;
  return {
    step(untilMs) {
      const went = carryOn(core, steps, untilMs);
      if (went === 'more' || !('result' in went)) return went;
      prepared ??= went.result;
      return 'ready';
    },
    names: () => prepared!.changes.names,
    unchanged: () => prepared!.changes.unchanged,
    commit() {
      steps = tidy(core, exchangeOrDrop(core, prepared!));
    },
    abort() {
      steps.return(null);
      if (prepared !== null) drop(core, prepared.next, prepared.staged);
    },
  };
}

/** Everything that can fail, and the stale names when somebody wants them. */
function* prepare(
  core: Core,
  spec: StackSpec,
  privateFiles: readonly PrivateFile[],
  wantsNames: boolean,
): Steps<Prepared> {
  const next = yield* openStackSteps(spec);
  const staged: StagedFile[] = [];
  let done = false;
  try {
    for (const file of privateFiles) {
      staged.push(yield* stage(core, file));
      yield;
    }
    const changes = wantsNames ? yield* staleNames(core, next, privateFiles) : NO_CHANGES;
    yield* holdOpenContent(core);
    done = true;
    return { next, staged, changes };
  } finally {
    if (!done) drop(core, next, staged);
  }
}

function drop(core: Core, next: Stack, staged: readonly StagedFile[]): void {
  closeStack(next);
  for (const { temporary } of staged) if (temporary !== null) unlinkat(workFd(core), temporary);
}

/** Until it is decided everything can be taken back. */
function exchangeOrDrop(core: Core, prepared: Prepared): Stack {
  try {
    refuseHidden(core, prepared.next);
    // Files that were opened since; the units that go may be deleted from now on.
    finished(holdOpenContent(core));
    if (core.ledger !== null && prepared.staged.length > 0) noteStaged(core, prepared.staged);
    step(core, 'relayer');
  } catch (error) {
    drop(core, prepared.next, prepared.staged);
    throw error;
  }
  return exchange(core, prepared);
}

/** What the appliance itself has hidden in frozen layers that were merged since would show again: then they stay. */
function refuseHidden(core: Core, next: Stack): void {
  for (const { mergedFrom } of next.spec.levels) {
    for (const id of mergedFrom ?? []) {
      const setDir = whiteoutSetDir(id);
      if (next.levelOfSet.has(setDir) || !core.stack.levelOfSet.has(setDir)) continue;
      const fd = core.whiteoutsFd < 0 ? -1 : openBelow(core.whiteoutsFd, setDir.split('/'), null);
      if (fd < 0) continue;
      close(fd);
      throw new StrataError('BUSY', `the appliance has removed something of ${id}`);
    }
  }
}

/** The change itself, in one turn. Returns the former stack, to be closed. */
function exchange(core: Core, { next, staged }: Prepared): Stack {
  core.ledger?.decide();
  step(core, 'relayer: decided');
  const previous = swap(core, next);
  installAll(core, staged);
  return previous;
}

function installAll(core: Core, staged: readonly StagedFile[]): void {
  for (const file of staged) install(core, file);
  if (core.ledger !== null && staged.length > 0) unlinkat(workFd(core), RELAYER_FILES);
}

/** Which files go where, for a process that takes over in the midst. */
function noteStaged(core: Core, staged: readonly StagedFile[]): void {
  const fd = openat(workFd(core), RELAYER_FILES, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0o600);
  if (fd < 0) throw systemFailure(fd, 'note the files of a relayer');
  try {
    const text = Buffer.from(JSON.stringify(staged));
    for (let done = 0; done < text.length; )
      done += must(write(fd, text.subarray(done), text.length - done), 'note the files of a relayer');
  } finally {
    close(fd);
  }
}

/** After a takeover from a process that was killed when it had decided a relayer: its files are put in place. The stack is the new one already. */
export function finishRelayer(core: Core): void {
  let staged: StagedFile[];
  try {
    staged = JSON.parse(readFileSync(join(core.workDir, RELAYER_FILES), 'utf8'));
  } catch {
    // All of them are in place.
    return;
  }
  installAll(core, staged);
}

/** What the exchange left behind. Nobody waits for it, and a crash before its end is answered by the next relayer. */
function* tidy(core: Core, previous: Stack): Steps<null> {
  const stay = new Set(core.stack.units);
  try {
    // Nobody knows which of them are open; the files are there until the relayer is answered.
    if (core.noOpen) core.leaving = yield* core.demand!.keepAll((node) => isLeaving(node, stay), true);
    yield* dropParkedOf(core, stay);
    yield* pruneSets(core);
  } finally {
    closeStack(previous);
  }
  return null;
}

/** From here on every lookup sees the new stack. Returns the former one. */
function swap(core: Core, next: Stack): Stack {
  const previous = core.stack;
  core.hidden = carryHidden(core, previous, next);
  core.stack = next;
  core.hasFrozen = hasFrozenLayers(next);
  core.generation++;
  if (previous.policy !== next.policy) revokeDenied(core);
  // What a stricter policy hides does not count any more.
  if (rulesOf(previous) !== rulesOf(next)) recount(core);
  else core.quota?.count?.startAnew();
  return previous;
}

function rulesOf({ spec }: Stack): string | undefined {
  return spec.policy?.rules.join('\0');
}

/** The whiteouts of units that stay are kept as they are; those of units that come are read. */
function carryHidden(core: Core, previous: Stack, next: Stack): HiddenEntries {
  const levelBefore = new Map(previous.units.map((unit, level) => [unit, level]));
  const fresh = loadAllHidden(core.whiteoutsDir, next, (unit) => !levelBefore.has(unit));
  const hidden: Required<HiddenEntries> = { opened: [], ...fresh };
  const keep = (from: (Set<number> | undefined)[], to: (Set<number> | undefined)[]): void => {
    for (const [level, unit] of next.units.entries()) {
      const before = levelBefore.get(unit);
      const set = before === undefined ? undefined : from[before];
      if (set === undefined || set.size === 0) continue;
      to[level] = set;
      hidden.count += set.size;
    }
  };
  keep(core.hidden.levels, hidden.levels);
  keep(core.hidden.opened ?? [], hidden.opened);
  return hidden;
}

const stat = newStat();

function* stage(core: Core, file: PrivateFile): Steps<StagedFile> {
  const parts = splitPath(file.path);
  const name = parts.pop();
  if (name === undefined) throw new StrataError('USAGE', `${file.path} is not a file's path`);
  if (file.content === null) return { parts, name, temporary: null };
  const parent = directoryByPath(core, parts);
  if (parent !== null) must(privateDirectory(core, parent), `prepare ${file.path}`);
  const work = must(workFd(core), 'open the work directory');
  const temporary = `${RELAYER_FILES}-${temporaryName(core)}`;
  const fd = must(
    openat(work, temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600),
    `write ${file.path}`,
  );
  let staged = false;
  try {
    for (let done = 0; done < file.content.length; ) {
      const size = Math.min(file.content.length - done, WRITE_BYTES);
      done += must(write(fd, file.content.subarray(done), size), `write ${file.path}`);
      yield;
    }
    const owner = parent === null ? null : attributesAt(core, parent, name, stat);
    must(fchown(fd, owner?.uid ?? 0, owner?.gid ?? 0), `write ${file.path}`);
    must(fchmod(fd, (owner?.mode ?? 0o644) & 0o7777), `write ${file.path}`);
    let synced = 0;
    yield slowJob('reply', {
      kind: 'fsync',
      fd,
      dataOnly: false,
      done(errno) {
        synced = errno;
      },
    });
    must(synced, `write ${file.path}`);
    staged = true;
    return { parts, name, temporary };
  } finally {
    close(fd);
    if (!staged) unlinkat(work, temporary);
  }
}

/** Owner and mode of what is at a name now. */
function attributesAt(core: Core, parent: Node, name: string, into: Stat): Stat | null {
  const where = resolve(core, parent, name);
  if (where === PRIVATE) return core.stat;
  if (where <= 0) return null;
  const unit = unitOf(core.stack, core.ref);
  into.uid = unit.index.uid(entryOf(core.ref));
  into.gid = unit.index.gid(entryOf(core.ref));
  into.mode = unit.index.mode(entryOf(core.ref));
  return into;
}

function install(core: Core, file: StagedFile): void {
  const parent = directoryByPath(core, file.parts);
  const work = workFd(core);
  if (parent === null) {
    if (file.temporary !== null) unlinkat(work, file.temporary);
    return;
  }
  const isPrivate = resolve(core, parent, file.name) === PRIVATE;
  if (file.temporary === null && !isPrivate) return;
  const known = parent.children!.get(file.name);
  if (core.noOpen && known?.priv === true) core.demand!.keep(known);
  const last = known === undefined || !known.priv ? null : lastAttr(core, known);
  const fd = file.temporary === null ? directoryFd(core, parent) : privateDirectory(core, parent);
  step(core, 'relayer: private file');
  const done =
    fd < 0
      ? fd
      : file.temporary === null
        ? unlinkat(fd, file.name)
        : renameat2(work, file.temporary, fd, file.name);
  if (done === 0 && known !== undefined) loseName(core, known, parent, file.name, last);
}

function must(result: number, doing: string): number {
  if (result < 0) throw systemFailure(result, doing);
  return result;
}
