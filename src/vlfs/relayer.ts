/**
 * Relayer: the exchange of a VLFS's stack in one step. Everything that can fail is done before: the new stack is opened, the files that change
 * with it are written beside the private layer. Then memory changes in one turn of the thread; directories and files find their new
 * content when they are next asked for. Repeating it does no harm, so a crash is answered by repeating.
 */
import { nameFromPrinted, StrataError } from '../base/index.ts';
import {
  close,
  fchmod,
  fchown,
  fsync,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_RDWR,
  openat,
  renameat2,
  type Stat,
  unlinkat,
  write,
} from '../sys/index.ts';
import type { PrivateFile, StackSpec } from './contract.ts';
import { directoryByPath } from './copy-up-links.ts';
import { type Core, type Node, step } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { systemFailure } from './failure.ts';
import { checkName, PRIVATE, resolve } from './lookup.ts';
import { entryOf, type HiddenEntries, unitOf } from './merged-directory.ts';
import { privateDirectory } from './private-layer.ts';
import { lastAttr, loseName } from './remove-ops.ts';
import { closeStack, openStack, type Stack } from './stack.ts';
import { loadSet } from './whiteout-sets.ts';
import { pruneSets } from './whiteouts.ts';
import { temporaryName, workFd } from './work-dir.ts';

interface StagedFile {
  parts: string[];
  name: string;
  /** Name in the work directory; null: the private copy goes. */
  temporary: string | null;
}

/** Exchanges the stack. Throws before anything changed when the new one cannot be opened or a file cannot be written. */
export function relayer(core: Core, spec: StackSpec, privateFiles: readonly PrivateFile[] = []): void {
  const next = openStack(spec);
  let staged: StagedFile[] = [];
  try {
    staged = stageAll(core, privateFiles);
  } catch (error) {
    closeStack(next);
    throw error;
  }
  step(core, 'relayer');
  swap(core, next);
  for (const file of staged) install(core, file);
  pruneSets(core);
}

/** From here on every lookup sees the new stack. */
function swap(core: Core, next: Stack): void {
  const previous = core.stack;
  core.hidden = carryHidden(core, previous, next);
  core.stack = next;
  core.generation++;
  closeStack(previous);
}

/** The whiteouts of units that stay are kept as they are; those of units that come are read. */
function carryHidden(core: Core, previous: Stack, next: Stack): HiddenEntries {
  const hidden: HiddenEntries = { count: 0, levels: [] };
  const levelBefore = new Map(previous.units.map((unit, level) => [unit, level]));
  for (const [level, unit] of next.units.entries()) {
    const before = levelBefore.get(unit);
    const set =
      before !== undefined
        ? core.hidden.levels[before]
        : core.whiteoutsFd >= 0
          ? loadSet(core.whiteoutsFd, unit)
          : undefined;
    if (set === undefined || set.size === 0) continue;
    hidden.levels[level] = set;
    hidden.count += set.size;
  }
  return hidden;
}

function stageAll(core: Core, files: readonly PrivateFile[]): StagedFile[] {
  const staged: StagedFile[] = [];
  try {
    for (const file of files) staged.push(stage(core, file));
    return staged;
  } catch (error) {
    for (const { temporary } of staged) if (temporary !== null) unlinkat(workFd(core), temporary);
    throw error;
  }
}

const stat = newStat();

function stage(core: Core, file: PrivateFile): StagedFile {
  const parts = splitPath(file.path);
  const name = parts.pop();
  if (name === undefined) throw new StrataError('USAGE', `${file.path} is not a file's path`);
  if (file.content === null) return { parts, name, temporary: null };
  const parent = directoryByPath(core, parts);
  if (parent !== null) must(privateDirectory(core, parent), `prepare ${file.path}`);
  const work = must(workFd(core), 'open the work directory');
  const temporary = temporaryName(core);
  const fd = must(
    openat(work, temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600),
    `write ${file.path}`,
  );
  try {
    for (let done = 0; done < file.content.length; ) {
      done += must(write(fd, file.content.subarray(done), file.content.length - done), `write ${file.path}`);
    }
    const owner = parent === null ? null : attributesAt(core, parent, name, stat);
    must(fchown(fd, owner?.uid ?? 0, owner?.gid ?? 0), `write ${file.path}`);
    must(fchmod(fd, (owner?.mode ?? 0o644) & 0o7777), `write ${file.path}`);
    must(fsync(fd), `write ${file.path}`);
    return { parts, name, temporary };
  } catch (error) {
    unlinkat(work, temporary);
    throw error;
  } finally {
    close(fd);
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

/** The components of a path below the root of the VLFS (UTF-8 text). Throws BAD_NAME for '..' and the like. */
export function splitPath(path: string): string[] {
  const parts = nameFromPrinted(path)
    .split('/')
    .filter((part) => part !== '' && part !== '.');
  for (const part of parts) {
    if (checkName(part) < 0)
      throw new StrataError('BAD_NAME', `${JSON.stringify(path)} is not a path in the file system`);
  }
  return parts;
}

function must(result: number, doing: string): number {
  if (result < 0) throw systemFailure(result, doing);
  return result;
}
