/**
 * What an open VLFS does for its policy beside hiding names, which merged directories do: it notes what was asked for, takes back what was open when
 * the policy became stricter, and keeps what a program moves or links out of an excluded place from the clones of this appliance.
 */
import { fgetxattr, fsetxattr, setxattrAt } from '../../sys/index.ts';
import type { Caller, EntryOut } from '../contract.ts';
import { type Core, type Node, step } from '../core.ts';
import { pathOf } from '../nodes/nodes.ts';
import { NOTHING, nodeAt, refresh, resolve } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { MARK_XATTR, WAS_XATTR } from './marks.ts';
import { NO_RULE } from './matcher.ts';
import { ruleText } from './stack-policy.ts';

/** The kernel asks again after this time for a name that was denied, so that repeats are counted. */
const DENIED_VALID_MS = 1000;
/** Former paths of one directory; who renames it more often has it marked instead. */
const MOST_FORMER_PATHS = 16;
const YES = Buffer.from('y');

/** After a lookup that found nothing: notes it when the policy hides the name, and limits how long the kernel trusts the answer. */
export function noteDenied(core: Core, caller: Caller, parent: Node, name: string, out: EntryOut): void {
  const rule = parent.merged?.denied?.get(name);
  if (rule === undefined || core.denials === null) return;
  const path = pathOf(core, parent, name);
  if (path === null) return;
  out.entryValidMs = DENIED_VALID_MS;
  core.denials.note(path, ruleText(core.stack.policy!, rule), caller);
}

/** After the policy changed: files that are open and that it hides now cannot be opened once more by who has them open. */
export function revokeDenied(core: Core): void {
  if (core.stack.policy === null) return;
  for (const handle of core.handles) {
    if (handle === null || handle.node.priv || handle.node.parent === null) continue;
    if (isDenied(core, handle.node)) core.revoked.add(handle.node);
  }
}

function isDenied(core: Core, node: Node): boolean {
  const path = pathOf(core, node.parent!, node.name);
  let at = core.root;
  for (const name of path?.split('/') ?? []) {
    if (at.children === null || refresh(core, at) < 0) return false;
    if (resolve(core, at, name) === NOTHING) return at.merged?.denied?.has(name) === true;
    const next = nodeAt(core, at, name);
    if (typeof next === 'number') return false;
    at = next;
  }
  return false;
}

interface Place {
  parent: Node;
  name: string;
}

/**
 * Before a private object leaves `from` for `to`: what rules keep from clones at the old name they must keep from them at the new one. Nothing that a
 * program can see changes. 0 or a negative errno.
 */
export function keepRules(core: Core, from: Place, to: Place): number {
  const matcher = core.stack.policy?.matcher;
  if (matcher === undefined || matcher.rules.length === 0) return 0;
  const node = nodeAt(core, from.parent, from.name);
  if (typeof node === 'number' || !node.priv) return 0;
  const before = pathOf(core, from.parent, from.name);
  const after = pathOf(core, to.parent, to.name);
  if (before === null || after === null) return 0;
  const fd = directoryFd(core, from.parent);
  if (fd < 0) return fd;
  const isDirectory = node.children !== null;
  if (matcher.ruleOfPath(after, isDirectory) !== NO_RULE) return 0;
  if (matcher.ruleOfPath(before, isDirectory) !== NO_RULE) return mark(core, fd, from.name);
  if (!isDirectory || !matcher.reachesMore(matcher.stateOf(before), matcher.stateOf(after))) return 0;
  return keepFormerPath(core, node, fd, from.name, before);
}

function mark(core: Core, fd: number, name: string): number {
  step(core, 'policy: mark');
  return setxattrAt(fd, name, MARK_XATTR, YES);
}

function keepFormerPath(core: Core, node: Node, parentFd: number, name: string, path: string): number {
  const fd = directoryFd(core, node);
  if (fd < 0) return fd;
  const value = fgetxattr(fd, WAS_XATTR);
  const known = typeof value === 'number' ? [] : Buffer.from(value).toString('latin1').split('\0');
  if (known.includes(path)) return 0;
  if (known.length >= MOST_FORMER_PATHS) return mark(core, parentFd, name);
  step(core, 'policy: former path');
  const kept = fsetxattr(fd, WAS_XATTR, Buffer.from([...known, path].join('\0'), 'latin1'));
  // No room for a long path: then the whole directory is kept from clones.
  return kept < 0 ? mark(core, parentFd, name) : 0;
}

/** Before a file gets one more name: one that is excluded by only one of them is marked, so that it stays so when that name goes. */
export function keepRulesOfLink(core: Core, node: Node, to: Place): number {
  const matcher = core.stack.policy?.matcher;
  if (matcher === undefined || matcher.rules.length === 0 || node.parent === null) return 0;
  const before = pathOf(core, node.parent, node.name);
  const after = pathOf(core, to.parent, to.name);
  if (before === null || after === null) return 0;
  const was = matcher.ruleOfPath(before, false) !== NO_RULE;
  if (was === (matcher.ruleOfPath(after, false) !== NO_RULE)) return 0;
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : mark(core, fd, node.name);
}
