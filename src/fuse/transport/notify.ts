/**
 * Messages from the server to the kernel that nobody asked for. INC_EPOCH takes no lock and may be written from the serving thread;
 * INVAL_ENTRY and INVAL_INODE wait for the directory's lock, which a pending LOOKUP holds, so they must be written by another thread.
 */
import { FUSE_EXPIRE_ONLY, FUSE_NOTIFY } from '../abi/constants.ts';
import { NOTIFY_INVAL_ENTRY_OUT, NOTIFY_INVAL_INODE_OUT, OUT_HEADER } from '../abi/layout.ts';
import { putU64 } from '../server/buffers.ts';

function message(code: number, payload: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(OUT_HEADER.size + payload);
  const view = new DataView(bytes.buffer);
  view.setUint32(OUT_HEADER.len, bytes.length, true);
  view.setInt32(OUT_HEADER.error, code, true);
  return { bytes, view };
}

/** Every name the kernel knows is looked up again at its next use. Detaches mounts that lie on a name: see loop/invalidate.ts. */
export function incEpochMessage(): Uint8Array {
  return message(FUSE_NOTIFY.INC_EPOCH, 0).bytes;
}

/** After a restart of the server: requests that were read but not answered come again. */
export function resendMessage(): Uint8Array {
  return message(FUSE_NOTIFY.RESEND, 0).bytes;
}

/** One name; with `expireOnly` it stays until the next lookup of it gives another node, so mounts on it live. */
export function invalEntryMessage(parent: number, name: string, expireOnly: boolean): Uint8Array {
  const { bytes, view } = message(FUSE_NOTIFY.INVAL_ENTRY, NOTIFY_INVAL_ENTRY_OUT.size + name.length + 1);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_ENTRY_OUT.parent, parent);
  view.setUint32(OUT_HEADER.size + NOTIFY_INVAL_ENTRY_OUT.namelen, name.length, true);
  view.setUint32(OUT_HEADER.size + NOTIFY_INVAL_ENTRY_OUT.flags, expireOnly ? FUSE_EXPIRE_ONLY : 0, true);
  Buffer.from(bytes.buffer).latin1Write(name, OUT_HEADER.size + NOTIFY_INVAL_ENTRY_OUT.size);
  return bytes;
}

/** Attributes of a node, and its cached data too when `data`. */
export function invalInodeMessage(node: number, data: boolean): Uint8Array {
  const { bytes, view } = message(FUSE_NOTIFY.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.size);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.ino, node);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.off, data ? 0 : -1);
  putU64(view, OUT_HEADER.size + NOTIFY_INVAL_INODE_OUT.len, 0);
  return bytes;
}
