/**
 * The quota of an appliance: limits, and what it takes, kept in numbers that each operation changes by what it did (docs/decisions/0018-quotas.md).
 * What counts is what the appliance shows of its own, private or frozen: an inode each, the allocated bytes of files and links (hard links once), DIRECTORY_BYTES for a
 * directory. Whiteouts do not count: who is at the limit must be able to delete. Without limits `core.quota` is null and nothing here costs anything.
 */
import type { Name } from '../../base/index.ts';
import { E, fdatasync, fstat, fstatfs, newStat, S_IFDIR, S_IFMT, type Stat } from '../../sys/index.ts';
import type { StatfsOut } from '../contract.ts';
import type { Backing, Core, Node } from '../core.ts';
import { PARTIAL_XATTR } from '../delta/partial-form.ts';
import { fillAttr, newAttr, statNode } from '../nodes/attributes.ts';
import { dropAllParked } from '../private-layer/parked-files.ts';
import { entryOf, topOf, unitOf } from '../stack/merged-directory.ts';
import type { Unit } from '../stack/stack.ts';
import type { Count } from './count.ts';
import {
  endUsage,
  openUsage,
  type QuotaLimits,
  readLimits,
  readUsage,
  type Usage,
  writeUsage,
} from './usage-file.ts';

export const DIRECTORY_BYTES = 4096;
const XFS_MAGIC = 0x58465342;
const BLOCK = 4096;

export interface Quota {
  limits: QuotaLimits;
  bytes: number;
  inodes: number;
  /** Descriptor of the usage file, or a negative errno. */
  readonly fd: number;
  /** What each object but directories that was looked at counts for. */
  readonly charged: WeakMap<Node, number>;
  /** Files of which the kernel's cache holds nothing older than this. */
  readonly coherent: WeakSet<Node>;
  /** XFS allocates behind the end of a file as it likes: that does not count. */
  readonly capped: boolean;
  /** Removals may take the inodes that they need. */
  lenient: boolean;
  /** The count under way, or null: the numbers are right. */
  count: Count | null;
  /** They are not, and nothing is under way. */
  unsure: boolean;
}

/** The quota as the files say; null: there is none. */
export function openQuota(core: Core): Quota | null {
  const limits = core.readOnly ? null : readLimits(core.privateDir);
  if (limits === null) return null;
  const known = readUsage(core.privateDir);
  const quota = newQuota(core, limits, known, openUsage(core.privateDir));
  storeUsage(quota);
  // After a power cut the old numbers must not count as exact.
  if (known?.state === 'exact' && quota.fd >= 0) fdatasync(quota.fd);
  return quota;
}

/** `fd`: the usage file. */
export function newQuota(core: Core, limits: QuotaLimits, known: Usage | null, fd: number): Quota {
  const fs = { type: 0, bsize: 0, blocks: 0, bfree: 0, bavail: 0, files: 0, ffree: 0, namelen: 0, frsize: 0 };
  return {
    limits,
    bytes: known?.bytes ?? 0,
    inodes: known?.inodes ?? 0,
    fd,
    charged: new WeakMap(),
    coherent: new WeakSet(),
    capped: fstatfs(core.rootFd, fs) === 0 && fs.type === XFS_MAGIC,
    lenient: false,
    count: null,
    unsure: known?.state !== 'exact',
  };
}

/** Reads the limits anew: a quota begins, changes or ends. */
export function readQuota(core: Core): void {
  const limits = core.readOnly ? null : readLimits(core.privateDir);
  const { quota } = core;
  if (limits !== null && quota !== null) quota.limits = limits;
  else if (limits === null) closeQuota(core);
  else {
    // What is kept open for passthrough would be given to the kernel again.
    dropAllParked(core);
    core.quota = openQuota(core);
    // The file may know the numbers of an earlier quota.
    recount(core);
  }
}

export function closeQuota(core: Core): void {
  const { quota } = core;
  core.quota = null;
  if (quota === null) return;
  quota.count?.end();
  endUsage(quota.fd, {
    bytes: quota.bytes,
    inodes: quota.inodes,
    state: quota.unsure || quota.count !== null ? 'stale' : 'exact',
  });
}

/** Something changed the private layer by other ways than operations: it is counted again. */
export function recount(core: Core): void {
  const { quota } = core;
  if (quota === null) return;
  quota.count?.end();
  quota.count = null;
  quota.unsure = true;
}

/** Writes the numbers into the usage file. */
export function storeUsage({ fd, bytes, inodes }: Quota): void {
  writeUsage(fd, { bytes, inodes, state: 'open' });
}

/** 0, or -EDQUOT when that much more would exceed the quota. */
export function mayTake(core: Core, bytes: number, inodes: number): number {
  const { quota } = core;
  if (quota === null || quota.lenient) return 0;
  if (inodes > 0 && quota.limits.inodes !== null && quota.inodes + inodes > quota.limits.inodes)
    return -E.DQUOT;
  return bytes > roomOf(quota) ? -E.DQUOT : 0;
}

/** Bytes that may still be taken. */
export function roomOf({ limits, bytes }: Quota): number {
  return limits.bytes === null ? Number.POSITIVE_INFINITY : Math.max(0, limits.bytes - bytes);
}

/** The numbers change; `ino`: the object on the disk. `born`: it was not there before. */
export function charge(quota: Quota, ino: number, bytes: number, inodes: number, born = false): void {
  if (bytes === 0 && inodes === 0) return;
  quota.bytes = Math.max(0, quota.bytes + bytes);
  quota.inodes = Math.max(0, quota.inodes + inodes);
  quota.count?.changed(ino, bytes, inodes, born);
  storeUsage(quota);
}

/** Bytes that an object counts for. */
export function bytesOf({ capped }: { capped: boolean }, stat: Stat): number {
  const kind = stat.mode & S_IFMT;
  if (kind === S_IFDIR) return DIRECTORY_BYTES;
  const allocated = stat.blocks * 512;
  return capped ? Math.min(allocated, Math.ceil(stat.size / BLOCK) * BLOCK) : allocated;
}

const stat = newStat();
const attr = newAttr();

export interface Measure {
  ino: number;
  bytes: number;
  nlink: number;
}

/** What a node of the appliance's own counts for; null: it is not its own, or gone. */
export function measure(core: Core, node: Node): Measure | null {
  const quota = core.quota!;
  if (node.children !== null) {
    const ino = directoryInode(core, node);
    return ino === 0 ? null : { ino, bytes: DIRECTORY_BYTES, nlink: 1 };
  }
  if (node.priv) {
    if (statNode(core, node, stat) !== 0) return null;
    return { ino: stat.ino, bytes: bytesOf(quota, stat), nlink: stat.nlink };
  }
  const frozen = node.unit?.frozen ?? null;
  if (frozen === null || fillAttr(core, node, attr) !== 0) return null;
  const found = frozen.stat(node.entry);
  return { ino: found.ino, bytes: bytesOf(quota, found), nlink: attr.nlink };
}

/** The inode that stands for a directory of the appliance's own; 0: it is not. */
export function directoryInode(core: Core, node: Node): number {
  if (node.priv) return statNode(core, node, stat) === 0 ? stat.ino : 0;
  const ref = node.merged === null ? -1 : topOf(node.merged);
  const unit = ref < 0 ? null : unitOf(core.stack, ref);
  return unit === null || unit.frozen === null ? 0 : unit.frozen.stat(entryOf(ref)).ino;
}

/** Before an operation that may change what an object takes. */
export function knowBytes(core: Core, node: Node): void {
  const quota = core.quota!;
  if (!node.priv || node.children !== null || quota.charged.has(node)) return;
  if (statNode(core, node, stat) === 0) quota.charged.set(node, bytesOf(quota, stat));
}

/** After it. */
export function settleBytes(core: Core, given: Node): void {
  const quota = core.quota!;
  const node = given.successor ?? given;
  if (!node.priv || node.children !== null) return;
  if (statNode(core, node, stat) !== 0) return;
  const now = bytesOf(quota, stat);
  const before = quota.charged.get(node) ?? now;
  quota.charged.set(node, now);
  charge(quota, stat.ino, now - before, 0);
}

/** A new object of the private layer. */
export function chargeBorn(core: Core, node: Node, born: Stat): void {
  const quota = core.quota!;
  const bytes = bytesOf(quota, born);
  quota.charged.set(node, bytes);
  quota.coherent.add(node);
  charge(quota, born.ino, bytes, 1, true);
  if (node.children !== null) quota.count?.bornDirectory(born.ino);
}

/** A private copy took the place of what `unit` has; `copy`: its stat. */
export function chargeCopy(
  core: Core,
  node: Node,
  from: { unit: Unit | null; entry: number },
  copy: Stat,
): void {
  const quota = core.quota!;
  const frozen = from.unit?.frozen ?? null;
  if (frozen !== null) {
    const was = frozen.stat(from.entry);
    charge(quota, was.ino, -bytesOf(quota, was), -1);
  }
  const bytes = bytesOf(quota, copy);
  quota.charged.set(node, bytes);
  charge(quota, copy.ino, bytes, 1, true);
}

/** As chargeCopy, for a directory; `was`: what directoryInode said before. */
export function chargeDirectory(core: Core, was: number, ino: number): void {
  const quota = core.quota!;
  if (was === 0) charge(quota, ino, DIRECTORY_BYTES, 1, true);
  else quota.count?.renumbered(was, ino);
}

/** Bytes that a whole copy of a shared or frozen file will take more than the appliance takes now. */
export function copyBytes(node: Node): number {
  const { index, frozen } = node.unit!;
  const blocks = index.blocks(node.entry) * 512;
  if (frozen === null) return blocks;
  // A frozen partial file has fewer blocks than it shows.
  return frozen.xattrs(node.entry).has(PARTIAL_XATTR as Name) ? index.size(node.entry) : 0;
}

/** The last close of a private file: what has no name any more is given back. */
export function closing(core: Core, node: Node, backing: Backing): void {
  const quota = core.quota!;
  if (fstat(backing.fd, stat) !== 0) return;
  const now = bytesOf(quota, stat);
  const before = quota.charged.get(node);
  if (stat.nlink === 0) {
    quota.charged.delete(node);
    charge(quota, stat.ino, -(before ?? now), -1);
  } else if (before !== undefined) {
    quota.charged.set(node, now);
    charge(quota, stat.ino, now - before, 0);
  }
}

/** An object lost a name; `was`: what it counted for before. */
export function removed(core: Core, node: Node, was: Measure | null): void {
  const quota = core.quota!;
  if (was === null || was.nlink > 1) return;
  // Who has it open keeps it, and what it takes.
  if (node.backing !== null && !node.backing.shared) return;
  charge(quota, was.ino, -(quota.charged.get(node) ?? was.bytes), -1);
}

/** The quota is the size of the file system that programs see; what is free is no more than the disk has. */
export function limitStatfs(core: Core, out: StatfsOut): void {
  const quota = core.quota!;
  const { bytes, inodes } = quota.limits;
  if (bytes !== null) {
    const size = out.frsize;
    const free = Math.floor(roomOf(quota) / size);
    out.blocks = Math.max(Math.floor(bytes / size), Math.ceil(quota.bytes / size));
    out.bfree = free;
    out.bavail = Math.min(out.bavail, free);
  }
  if (inodes === null) return;
  out.files = Math.max(inodes, quota.inodes);
  out.ffree = Math.max(0, Math.min(out.ffree, inodes - quota.inodes));
}
