/**
 * Messages from the server to the kernel that nobody asked for. INC_EPOCH takes no lock and may be written from the serving thread;
 * INVAL_ENTRY and INVAL_INODE wait for the directory's lock, which a pending LOOKUP holds, so they must be written by another thread.
 */

import type { StaleName } from '../../vlfs/contract.ts';
import { FUSE_EXPIRE_ONLY, FUSE_NOTIFY } from '../abi/constants.ts';
import {
  NOTIFY_INVAL_ENTRY_OUT,
  NOTIFY_INVAL_INODE_OUT,
  NOTIFY_PRUNE_OUT,
  OUT_HEADER,
} from '../abi/layout.ts';
import { putU64 } from '../server/buffers.ts';

function message(code: number, payload: number): { bytes: Uint8Array<ArrayBuffer>; view: DataView } {
  const bytes = new Uint8Array(OUT_HEADER.size + payload);
  const view = new DataView(bytes.buffer);
  view.setUint32(OUT_HEADER.len, bytes.length, true);
  view.setInt32(OUT_HEADER.error, code, true);
  return { bytes, view };
}

/** Every name the kernel knows is looked up again at its next use. Detaches mounts that lie on a name: see vlfs/contract.ts, VlfsControl. */
export function incEpochMessage(): Uint8Array {
  return message(FUSE_NOTIFY.INC_EPOCH, 0).bytes;
}

/** After a restart of the server: requests that were read but not answered come again. */
export function resendMessage(): Uint8Array {
  return message(FUSE_NOTIFY.RESEND, 0).bytes;
}

/**
 * One message a name, one after the other (each begins with its length). With `expireOnly` a name stays until its next lookup gives
 * another node, so mounts on it live.
 */
export function invalEntryMessages(
  names: readonly StaleName[],
  expireOnly: boolean,
): Uint8Array<ArrayBuffer> {
  const fixed = OUT_HEADER.size + NOTIFY_INVAL_ENTRY_OUT.size + 1;
  let size = 0;
  for (const { name } of names) size += fixed + name.length;
  const bytes = Buffer.from(new ArrayBuffer(size));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { parent, name } of names) {
    view.setUint32(at + OUT_HEADER.len, fixed + name.length, true);
    view.setInt32(at + OUT_HEADER.error, FUSE_NOTIFY.INVAL_ENTRY, true);
    const body = at + OUT_HEADER.size;
    putU64(view, body + NOTIFY_INVAL_ENTRY_OUT.parent, parent);
    view.setUint32(body + NOTIFY_INVAL_ENTRY_OUT.namelen, name.length, true);
    view.setUint32(body + NOTIFY_INVAL_ENTRY_OUT.flags, expireOnly ? FUSE_EXPIRE_ONLY : 0, true);
    bytes.latin1Write(name, body + NOTIFY_INVAL_ENTRY_OUT.size);
    at += fixed + name.length;
  }
  return new Uint8Array(bytes.buffer);
}

/** Of the pages in which the kernel keeps a listing: the first one is enough, it finds that missing and begins anew. */
const LISTING_BYTES = 1;

/**
 * One message a node, one after the other: what the kernel has of files (and the attributes) is asked for again, and the listings that it keeps of directories. Of a
 * listing only the first page is dropped: a kernel that is filling a later one, which is then missing, never fills it again, nor begins anew, as long as the directory
 * is known (fuse_add_dirent_to_cache, fs/fuse/readdir.c of Linux 6.18). So it goes with a listing of which the first page is just being filled, which has few names.
 */
export function invalContentMessages(
  nodes: readonly number[],
  kind: 'files' | 'listings',
): Uint8Array<ArrayBuffer> {
  const size = OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.size;
  const bytes = new Uint8Array(size * nodes.length);
  const most = kind === 'listings' ? LISTING_BYTES : 0;
  for (const [i, node] of nodes.entries()) bytes.set(invalInodeMessage(node, true, most), i * size);
  return bytes;
}

/** The kernel forgets these nodes as far as nobody uses them. It may wait for data of theirs, so another thread must write it. */
export function pruneMessage(nodes: readonly number[]): Uint8Array<ArrayBuffer> {
  const { bytes, view } = message(FUSE_NOTIFY.PRUNE, NOTIFY_PRUNE_OUT.size + nodes.length * 8);
  view.setUint32(OUT_HEADER.size + NOTIFY_PRUNE_OUT.count, nodes.length, true);
  for (const [i, node] of nodes.entries())
    putU64(view, OUT_HEADER.size + NOTIFY_PRUNE_OUT.size + i * 8, node);
  return bytes;
}

/** Attributes of a node, and its cached data too when `data`: the pages of its first `most` bytes, or all of them (0). */
export function invalInodeMessage(node: number, data: boolean, most = 0): Uint8Array {
  const { bytes, view } = message(FUSE_NOTIFY.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.size);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.ino, node);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.off, data ? 0 : -1);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.len, most);
  return bytes;
}
