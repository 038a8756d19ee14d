/** The records of the VLFS as fuse structures in the reply buffer. Pure writers: every byte of a structure is set. */
import type { Attr, EntryOut, StatfsOut } from '../../vlfs/contract.ts';
import { STATX_BASIC_STATS } from '../abi/constants.ts';
import { ATTR, ATTR_OUT, ENTRY_OUT, KSTATFS, STATX_OUT } from '../abi/layout.ts';
import { putU64 } from './buffers.ts';

/** fuse_attr, 88 bytes. */
export function putAttr(view: DataView, at: number, attr: Attr): void {
  putU64(view, at + ATTR.ino, attr.ino);
  putU64(view, at + ATTR.size_, attr.size);
  putU64(view, at + ATTR.blocks, attr.blocks);
  putU64(view, at + ATTR.atime, attr.atimeSec);
  putU64(view, at + ATTR.mtime, attr.mtimeSec);
  putU64(view, at + ATTR.ctime, attr.ctimeSec);
  view.setUint32(at + ATTR.atimensec, attr.atimeNsec, true);
  view.setUint32(at + ATTR.mtimensec, attr.mtimeNsec, true);
  view.setUint32(at + ATTR.ctimensec, attr.ctimeNsec, true);
  view.setUint32(at + ATTR.mode, attr.mode, true);
  view.setUint32(at + ATTR.nlink, attr.nlink, true);
  view.setUint32(at + ATTR.uid, attr.uid, true);
  view.setUint32(at + ATTR.gid, attr.gid, true);
  view.setUint32(at + ATTR.rdev, attr.rdev, true);
  view.setUint32(at + ATTR.blksize, attr.blksize, true);
  view.setUint32(at + ATTR.flags, 0, true);
}

/** A validity time in milliseconds as seconds at `at` and nanoseconds at `nsecAt`. */
function putValidity(view: DataView, at: number, nsecAt: number, ms: number): void {
  const seconds = Math.floor(ms / 1000);
  putU64(view, at, seconds);
  view.setUint32(nsecAt, (ms - seconds * 1000) * 1_000_000, true);
}

/** fuse_entry_out, 128 bytes. A nodeId of 0 is a negative entry that the kernel may keep. */
export function putEntry(view: DataView, at: number, entry: EntryOut): number {
  putU64(view, at + ENTRY_OUT.nodeid, entry.nodeId);
  putU64(view, at + ENTRY_OUT.generation, entry.generation);
  putValidity(view, at + ENTRY_OUT.entry_valid, at + ENTRY_OUT.entry_valid_nsec, entry.entryValidMs);
  putValidity(view, at + ENTRY_OUT.attr_valid, at + ENTRY_OUT.attr_valid_nsec, entry.attrValidMs);
  putAttr(view, at + ENTRY_OUT.attr, entry.attr);
  return ENTRY_OUT.size;
}

/** fuse_attr_out, 104 bytes. */
export function putAttrOut(view: DataView, at: number, attr: Attr, validMs: number): number {
  putValidity(view, at + ATTR_OUT.attr_valid, at + ATTR_OUT.attr_valid_nsec, validMs);
  view.setUint32(at + ATTR_OUT.attr_valid_nsec + 4, 0, true);
  putAttr(view, at + ATTR_OUT.attr, attr);
  return ATTR_OUT.size;
}

/** fuse_statfs_out, 80 bytes. */
export function putStatfs(view: DataView, at: number, out: StatfsOut): number {
  putU64(view, at + KSTATFS.blocks, out.blocks);
  putU64(view, at + KSTATFS.bfree, out.bfree);
  putU64(view, at + KSTATFS.bavail, out.bavail);
  putU64(view, at + KSTATFS.files, out.files);
  putU64(view, at + KSTATFS.ffree, out.ffree);
  view.setUint32(at + KSTATFS.bsize, out.bsize, true);
  view.setUint32(at + KSTATFS.namelen, out.namelen, true);
  view.setUint32(at + KSTATFS.frsize, out.frsize, true);
  for (let i = KSTATFS.frsize + 4; i < KSTATFS.size; i += 4) view.setUint32(at + i, 0, true);
  return KSTATFS.size;
}

/** fuse_statx_out, 288 bytes: the basic statistics; a birth time is not claimed. */
export function putStatx(view: DataView, at: number, attr: Attr, validMs: number): number {
  for (let i = 0; i < STATX_OUT.size; i += 4) view.setUint32(at + i, 0, true);
  putValidity(view, at + STATX_OUT.attr_valid, at + STATX_OUT.attr_valid_nsec, validMs);
  view.setUint32(at + STATX_OUT.mask, STATX_BASIC_STATS, true);
  view.setUint32(at + STATX_OUT.blksize, attr.blksize, true);
  view.setUint32(at + STATX_OUT.nlink, attr.nlink, true);
  view.setUint32(at + STATX_OUT.uid, attr.uid, true);
  view.setUint32(at + STATX_OUT.gid, attr.gid, true);
  view.setUint16(at + STATX_OUT.mode, attr.mode, true);
  putU64(view, at + STATX_OUT.ino, attr.ino);
  putU64(view, at + STATX_OUT.size_, attr.size);
  putU64(view, at + STATX_OUT.blocks, attr.blocks);
  putU64(view, at + STATX_OUT.atime, attr.atimeSec);
  view.setUint32(at + STATX_OUT.atime + 8, attr.atimeNsec, true);
  putU64(view, at + STATX_OUT.ctime, attr.ctimeSec);
  view.setUint32(at + STATX_OUT.ctime + 8, attr.ctimeNsec, true);
  putU64(view, at + STATX_OUT.mtime, attr.mtimeSec);
  view.setUint32(at + STATX_OUT.mtime + 8, attr.mtimeNsec, true);
  // rdev is in new_encode_dev form: minor's low byte, 12 bits of major, the rest of minor.
  view.setUint32(at + STATX_OUT.rdev_major, (attr.rdev >>> 8) & 0xfff, true);
  view.setUint32(at + STATX_OUT.rdev_minor, (attr.rdev & 0xff) | ((attr.rdev >>> 12) & 0xfff00), true);
  return STATX_OUT.size;
}

export function newAttr(): Attr {
  return {
    ino: 0,
    size: 0,
    blocks: 0,
    atimeSec: 0,
    atimeNsec: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
    ctimeSec: 0,
    ctimeNsec: 0,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
  };
}

export function newEntryOut(): EntryOut {
  return { nodeId: 0, generation: 0, attr: newAttr(), entryValidMs: 0, attrValidMs: 0 };
}
