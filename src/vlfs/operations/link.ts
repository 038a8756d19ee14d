/** link: one more name for a file, which is copied up first; a file made by O_TMPFILE gets its first name. */
import { E, linkat, linkFd, newStat, statAt } from '../../sys/index.ts';
import type { Caller, EntryOut } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { type Core, type Node, step } from '../core.ts';
import { keepRedirect } from '../delta/partial-file.ts';
import { STEP } from '../ledger/layout.ts';
import { fillEntry } from '../nodes/attributes.ts';
import { attachName } from '../nodes/nodes.ts';
import { keepRulesOfLink } from '../policy/enforce.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { checkName, NOTHING, refresh, resolve } from './lookup.ts';
import { leave, type Place, placeFor, settle } from './new-place.ts';

const stat = newStat();

export function link(
  core: Core,
  caller: Caller,
  given: Node,
  newParent: Node,
  newName: string,
  out: EntryOut,
): number {
  if (core.readOnly) return -E.ROFS;
  const bad = checkName(newName);
  if (bad < 0) return bad;
  const before = linkedBefore(core, given, newParent, newName);
  if (before !== null) return fillEntry(core, before, out);
  const where = resolve(core, newParent, newName);
  if (where !== NOTHING) return where < 0 ? where : -E.EXIST;
  if (given.children !== null) return -E.PERM;
  let node = given.successor ?? given;
  if (!node.priv) {
    const copied = copyUp(core, caller, node);
    if (copied === -E.STALE && node.successor !== null) node = node.successor;
    else if (copied !== 0) return copied;
  }
  const kept = keepRulesOfLink(core, node, { parent: newParent, name: newName });
  if (kept < 0) return kept;
  const place = placeFor(core, caller, newParent, newName, 0);
  if (typeof place === 'number') return place;
  step(core, 'link');
  const linked = linkInto(core, node, place);
  if (linked < 0) {
    leave(core, place);
    return linked;
  }
  const settled = settle(core, place, newName, false);
  if (settled < 0) return settled;
  attachName(core, node, newParent, newName);
  return fillEntry(core, node, out);
}

/** The node, when a killed process made this very link before it could say so; else null. */
function linkedBefore(core: Core, given: Node, newParent: Node, newName: string): Node | null {
  const step = core.ledger?.journal.resumed?.step ?? STEP.none;
  if (step !== STEP.link && step !== STEP.settled) return null;
  const node = given.successor ?? given;
  if (!node.priv || refresh(core, newParent) < 0 || !newParent.priv) return null;
  const fd = directoryFd(core, newParent);
  if (fd < 0 || statAt(fd, newName, stat) < 0 || stat.ino !== node.privIno) return null;
  if (newParent.children!.get(newName) !== node) attachName(core, node, newParent, newName);
  return node;
}

function linkInto(core: Core, node: Node, place: Place): number {
  if (node.parent === null) {
    if (node.backing === null || node.backing.shared) return -E.NOENT;
    return linkFd(node.backing.fd, place.fd, place.name);
  }
  const fd = directoryFd(core, node.parent);
  const kept = fd < 0 ? fd : keepRedirect(core, node, fd, node.name);
  return kept < 0 ? kept : linkat(fd, node.name, place.fd, place.name);
}
