/**
 * Extended attributes. Those by which the private layer keeps its own books (trusted.overlay.*, trusted.strata.*) are invisible to the appliance
 * and cannot be set by it.
 */
import {
  chmodPathFd,
  close,
  E,
  fgetxattr,
  flistxattr,
  fremovexattr,
  fsetxattr,
  fstat,
  getxattrAt,
  listxattrAt,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_PATH,
  openat,
  removexattrAt,
  S_IFLNK,
  S_IFMT,
  S_ISGID,
  setxattrAt,
  splitXattrList,
  XATTR_CREATE,
  XATTR_REPLACE,
} from '../../sys/index.ts';
import type { Caller } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { type Core, type Node, step } from '../core.ts';
import { STEP } from '../ledger/layout.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { entryOf, topOf, unitOf } from '../stack/merged-directory.ts';
import { isInternal } from './internal-xattrs.ts';
import { confirm, refresh } from './lookup.ts';

const NONE: ReadonlyMap<string, Uint8Array> = new Map();
const CAPABILITY = 'security.capability';
const SELINUX = 'security.selinux';
const stat = newStat();

/** Where the attributes of a private node are: an open descriptor, or a name in an open directory. */
type Place = { fd: number; name: null } | { fd: number; name: string } | number;

function placeOf(core: Core, node: Node): Place {
  if (node.backing !== null && !node.backing.shared) return { fd: node.backing.fd, name: null };
  if (node.children !== null) {
    const fd = directoryFd(core, node);
    return fd < 0 ? fd : { fd, name: null };
  }
  const confirmed = confirm(core, node);
  if (confirmed < 0) return confirmed;
  if (node.parent === null) return -E.STALE;
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : { fd, name: node.name };
}

/** Attributes of a node that the private layer does not have. */
function sharedXattrs(core: Core, node: Node): ReadonlyMap<string, Uint8Array> {
  const ref = node.children !== null && node.merged !== null ? topOf(node.merged) : -1;
  const unit = ref >= 0 ? unitOf(core.stack, ref) : node.unit;
  const entry = ref >= 0 ? entryOf(ref) : node.entry;
  return unit?.index.hasXattrs(entry) ? unit.index.xattrs(entry) : NONE;
}

/** -ESTALE for a directory that went, else 0; follows a node to its successor. */
function current(core: Core, node: Node): Node | number {
  if (node.successor !== null) return node.successor;
  if (node.children !== null && refresh(core, node) < 0) return -E.STALE;
  return node;
}

export function getxattr(core: Core, given: Node, name: string): Uint8Array | number {
  const value = valueAt(core, given, name);
  // Labels are the host's. Who asks for each file's (`ls -l`) asks no more when it hears that there are none here; each question is a round trip.
  return value === -E.NODATA && name === SELINUX ? -E.OPNOTSUPP : value;
}

function valueAt(core: Core, given: Node, name: string): Uint8Array | number {
  if (isInternal(name)) return -E.NODATA;
  const node = current(core, given);
  if (typeof node === 'number') return node;
  if (!node.priv) return sharedXattrs(core, node).get(name) ?? -E.NODATA;
  if (node.noCapability && name === CAPABILITY) return -E.NODATA;
  const place = placeOf(core, node);
  if (typeof place === 'number') return place;
  const value = place.name === null ? fgetxattr(place.fd, name) : getxattrAt(place.fd, place.name, name);
  if (value === -E.NODATA && name === CAPABILITY && node.children === null) node.noCapability = true;
  return value;
}

export function listxattr(core: Core, given: Node): Uint8Array | number {
  const node = current(core, given);
  if (typeof node === 'number') return node;
  let names: string[];
  if (node.priv) {
    const place = placeOf(core, node);
    if (typeof place === 'number') return place;
    const list = place.name === null ? flistxattr(place.fd) : listxattrAt(place.fd, place.name);
    if (typeof list === 'number') return list;
    names = splitXattrList(list);
  } else names = [...sharedXattrs(core, node).keys()];
  return Buffer.from(
    names
      .filter((name) => !isInternal(name))
      .map((name) => `${name}\0`)
      .join(''),
    'latin1',
  );
}

/** The place where a node's attributes may be changed, after copy-up; PENDING or a negative errno otherwise. */
function writablePlace(core: Core, caller: Caller, given: Node): Place {
  if (core.readOnly) return -E.ROFS;
  const node = given.successor ?? given;
  if (node.children !== null) {
    const above = chainPrivate(core, caller, node);
    if (above !== 0) return above;
    const fd = privateDirectory(core, node);
    return fd < 0 ? fd : { fd, name: null };
  }
  if (!node.priv) {
    const copied = copyUp(core, caller, node);
    if (copied === -E.STALE && node.successor !== null) return placeOf(core, node.successor);
    if (copied !== 0) return copied;
  }
  return placeOf(core, node);
}

export function setxattr(
  core: Core,
  caller: Caller,
  node: Node,
  name: string,
  value: Uint8Array,
  flags: number,
  clearSgid: boolean,
): number {
  if (isInternal(name)) return -E.PERM;
  const resumed = core.ledger?.journal.resumed ?? null;
  if (resumed !== null && resumed.step !== STEP.none) flags &= ~XATTR_CREATE; // It may be ours.
  if ((flags & (XATTR_CREATE | XATTR_REPLACE)) !== 0) {
    const present = getxattr(core, node, name);
    if (flags & XATTR_CREATE && typeof present !== 'number') return -E.EXIST;
    if (flags & XATTR_REPLACE && present === -E.NODATA) return -E.NODATA;
  }
  const place = writablePlace(core, caller, node);
  if (typeof place === 'number') return place;
  if (name === CAPABILITY) (node.successor ?? node).noCapability = false;
  step(core, 'setxattr');
  const result =
    place.name === null
      ? fsetxattr(place.fd, name, value, flags)
      : setxattrAt(place.fd, place.name, name, value, flags);
  if (result < 0) return result;
  if (name === 'system.posix_acl_default' && node.children !== null) node.defaultAcl = value.length > 4;
  if (clearSgid) clearSetGroupId(place);
  return 0;
}

function clearSetGroupId(place: Exclude<Place, number>): void {
  const fd = place.name === null ? place.fd : openat(place.fd, place.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  if (fstat(fd, stat) === 0 && (stat.mode & S_IFMT) !== S_IFLNK && (stat.mode & S_ISGID) !== 0) {
    chmodPathFd(fd, stat.mode & 0o7777 & ~S_ISGID);
  }
  if (place.name !== null) close(fd);
}

export function removexattr(core: Core, caller: Caller, node: Node, name: string): number {
  if (isInternal(name)) return -E.NODATA;
  const present = getxattr(core, node, name);
  const resumed = core.ledger?.journal.resumed ?? null;
  if (present === -E.NODATA && resumed !== null && resumed.step !== STEP.none) return 0;
  if (typeof present === 'number') return present;
  const place = writablePlace(core, caller, node);
  if (typeof place === 'number') return place;
  step(core, 'removexattr');
  const result =
    place.name === null ? fremovexattr(place.fd, name) : removexattrAt(place.fd, place.name, name);
  if (result === 0 && name === 'system.posix_acl_default' && node.children !== null) node.defaultAcl = false;
  return result;
}
