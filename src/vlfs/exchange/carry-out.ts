/**
 * What an adoption does to the private layer, once it is decided: names go, directories get the attributes of the layer. Safe to repeat, by the same process or by one that takes
 * over: the list is in the work directory until all of it is done, and then the layer is adopted.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  fchmod,
  fchown,
  fgetxattr,
  flistxattr,
  fremovexattr,
  fsetxattr,
  fstat,
  futimens,
  newStat,
  splitXattrList,
  unlinkat,
} from '../../sys/index.ts';
import { attributesMoved, type Core, type Node, step } from '../core.ts';
import { openBelow } from '../freeze/open-files.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { lastAttr, loseName } from '../operations/remove-ops.ts';
import { MARK_XATTR } from '../policy/marks.ts';
import { RELAYER_FILES } from '../private-layer/work-dir.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { ADOPT_FILE, type AdoptAction, type Adoption } from './adopt.ts';

export function adoptionNote(workDir: string): string {
  return join(workDir, `${RELAYER_FILES}-adopt.json`);
}

/** The core shows the stack with the layer. */
export function carryOut(core: Core, { dir, actions }: Adoption): void {
  const layer = openDirectory(AT_FDCWD, nameFromText(join(dir, 'private')));
  for (const action of actions) {
    step(core, `adopt: ${action.how}`);
    if (action.how === 'remove') removeName(core, action);
    else if (action.how === 'remove-directory') removeDirectory(core, action);
    else giveAttributes(core, layer, action);
  }
  if (layer >= 0) close(layer);
  step(core, 'adopt: done');
  rmSync(join(dir, ADOPT_FILE), { force: true });
}

/** After a takeover from a process that was killed when it had decided an adoption. */
export function finishAdoption(core: Core): void {
  const note = adoptionNote(core.workDir);
  let adoption: Adoption;
  try {
    adoption = JSON.parse(readFileSync(note, 'utf8'));
  } catch {
    return;
  }
  carryOut(core, adoption);
  rmSync(note, { force: true });
}

/** The node that the kernel knows at a path, as nodes are: nothing is looked at again. */
function knownAt(core: Core, parts: readonly string[]): Node | null {
  let node: Node | undefined = core.root;
  for (const part of parts) node = node?.children?.get(part);
  return node ?? null;
}

function removeName(core: Core, { path }: AdoptAction): void {
  const parts = path.split('/');
  const name = parts.pop()!;
  const fd = openBelow(core.rootFd, parts);
  if (fd < 0) return;
  const parent = knownAt(core, parts);
  const known = parent?.children?.get(name);
  const last = known?.priv ? lastAttr(core, known) : null;
  const done = unlinkat(fd, name);
  if (done === 0 && parent !== null && known?.priv) loseName(core, known, parent, name, last);
  close(fd);
}

function removeDirectory(core: Core, { path }: AdoptAction): void {
  const parts = path.split('/');
  const name = parts.pop()!;
  const fd = openBelow(core.rootFd, parts);
  if (fd < 0) return;
  unlinkat(fd, name, AT_REMOVEDIR);
  close(fd);
}

const mine = newStat();
const theirs = newStat();

function giveAttributes(core: Core, layer: number, { path, how }: AdoptAction): void {
  const parts = path === '' ? [] : path.split('/');
  const to = openBelow(core.rootFd, parts);
  const from = layer < 0 ? layer : openBelow(layer, parts);
  if (to >= 0 && from >= 0 && fstat(to, mine) === 0 && fstat(from, theirs) === 0) {
    if (how === 'attributes') copyAttributes(from, to);
    const { atimeSec, atimeNsec, mtimeSec, mtimeNsec } = isLater(theirs, mine) ? theirs : mine;
    futimens(to, atimeSec, atimeNsec, mtimeSec, mtimeNsec);
  }
  for (const fd of [to, from]) if (fd >= 0) close(fd);
  attributesMoved(core, knownAt(core, parts));
}

const isLater = (one: typeof mine, two: typeof mine): boolean =>
  one.mtimeSec === two.mtimeSec ? one.mtimeNsec > two.mtimeNsec : one.mtimeSec > two.mtimeSec;

/** Owner, mode and attributes of programs, and what keeps it from clones; what the private layer notes for itself stays. */
function copyAttributes(from: number, to: number): void {
  fchown(to, theirs.uid, theirs.gid);
  const counts = (name: string): boolean => !isInternal(name) || name === MARK_XATTR;
  const namesOf = (fd: number): string[] => {
    const list = flistxattr(fd);
    return (typeof list === 'number' ? [] : splitXattrList(list)).filter(counts);
  };
  const wanted = namesOf(from);
  for (const name of namesOf(to)) if (!wanted.includes(name)) fremovexattr(to, name);
  for (const name of wanted) {
    const value = fgetxattr(from, name);
    if (typeof value !== 'number') fsetxattr(to, name, value);
  }
  fchmod(to, theirs.mode & 0o7777);
}
