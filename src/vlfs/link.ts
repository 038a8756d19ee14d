/** link: one more name for a file, which is copied up first; a file made by O_TMPFILE gets its first name. */
import { E, linkat, linkFd } from '../sys/index.ts';
import { fillEntry } from './attributes.ts';
import type { Caller, EntryOut } from './contract.ts';
import { copyUp } from './copy-up.ts';
import { type Core, type Node, step } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { checkName, NOTHING, resolve } from './lookup.ts';
import { leave, type Place, placeFor, settle } from './new-place.ts';
import { attachName } from './nodes.ts';

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
  const where = resolve(core, newParent, newName);
  if (where !== NOTHING) return where < 0 ? where : -E.EXIST;
  if (given.children !== null) return -E.PERM;
  let node = given.successor ?? given;
  if (!node.priv) {
    const copied = copyUp(core, caller, node);
    if (copied === -E.STALE && node.successor !== null) node = node.successor;
    else if (copied !== 0) return copied;
  }
  const place = placeFor(core, newParent, newName);
  if (typeof place === 'number') return place;
  step(core, 'link');
  const linked = linkInto(core, node, place);
  if (linked < 0) {
    leave(core, place);
    return linked;
  }
  const settled = settle(core, place, newName, false);
  if (settled < 0) return settled;
  attachName(node, newParent, newName);
  return fillEntry(core, node, out);
}

function linkInto(core: Core, node: Node, place: Place): number {
  if (node.parent === null) {
    if (node.backing === null || node.backing.shared) return -E.NOENT;
    return linkFd(node.backing.fd, place.fd, place.name);
  }
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : linkat(fd, node.name, place.fd, place.name);
}
