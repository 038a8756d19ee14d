/** Handlers of requests on open files and directories: open to release, data, space, and directory reading. */
import { E } from '../../sys/index.ts';
import {
  FOPEN,
  FUSE_FSYNC_FDATASYNC,
  FUSE_OPCODE,
  FUSE_OPEN_KILL_SUIDGID,
  FUSE_WRITE_KILL_SUIDGID,
} from '../abi/constants.ts';
import {
  COPY_FILE_RANGE_IN,
  COPY_FILE_RANGE_OUT,
  FALLOCATE_IN,
  FSYNC_IN,
  IN_HEADER,
  LSEEK_IN,
  LSEEK_OUT,
  OPEN_IN,
  OPEN_OUT,
  READ_IN,
  RELEASE_IN,
  WRITE_IN,
  WRITE_OUT,
} from '../abi/layout.ts';
import { getU64, MAX_WRITE_BYTES, putU64 } from './buffers.ts';
import { PAYLOAD, type Session } from './session.ts';

const BODY = IN_HEADER.size;
/** One copy_file_range request; a longer one is answered as a partial copy. */
const MAX_COPY_BYTES = 2 ** 30;

/** Writes fuse_open_out for s.open and counts the open; when the kernel would refuse it, releases it and returns the errno. */
export function putOpen(s: Session, node: number, at: number): number {
  // Without opens there is nothing to count, and no close will come.
  if (s.features?.noOpen) return putFlags(s, at, 0, FOPEN.KEEP_CACHE, 0);
  // A kernel that knows idmapped mounts tells who the caller is only where something is created.
  const flags = s.backing.opened(node, s.open, s.caller.uid === 0);
  if (flags < 0) {
    s.ops.release(node, s.open.fh);
    return flags;
  }
  return putFlags(s, at, s.open.fh, flags, s.backing.backingId());
}

function putFlags(s: Session, at: number, fh: number, flags: number, backingId: number): number {
  putU64(s.out, at + OPEN_OUT.fh, fh);
  s.out.setUint32(at + OPEN_OUT.open_flags, flags, true);
  s.out.setInt32(at + OPEN_OUT.backing_id, backingId, true);
  s.grantFh = fh;
  return OPEN_OUT.size;
}

export function open(s: Session): number {
  if (s.features?.noOpen) return -E.NOSYS;
  s.caller.killPriv = (s.view.getUint32(BODY + OPEN_IN.open_flags, true) & FUSE_OPEN_KILL_SUIDGID) !== 0;
  const result = s.ops.open(s.caller, s.node, s.view.getUint32(BODY + OPEN_IN.flags, true), s.open);
  if (result < 0) return result;
  const written = putOpen(s, s.node, PAYLOAD);
  if (written < 0) return written;
  s.grant = 'open';
  s.grantNode = s.node;
  return written;
}

export function opendir(s: Session): number {
  const result = s.ops.opendir(s.caller, s.node, s.open);
  if (result < 0) return result;
  putU64(s.out, PAYLOAD + OPEN_OUT.fh, s.open.fh);
  const cached = s.open.keepCache && !s.shortLived;
  s.out.setUint32(PAYLOAD + OPEN_OUT.open_flags, cached ? FOPEN.CACHE_DIR | FOPEN.KEEP_CACHE : 0, true);
  s.out.setInt32(PAYLOAD + OPEN_OUT.backing_id, 0, true);
  s.grant = 'opendir';
  s.grantNode = s.node;
  s.grantFh = s.open.fh;
  return OPEN_OUT.size;
}

export function release(s: Session): number {
  // Of a file that was made before the kernel learned that closes need not be told.
  if (s.features?.noOpen) return 0;
  const fh = getU64(s.view, BODY + RELEASE_IN.fh);
  if (fh < 0) return -E.BADF;
  s.backing.released(s.node, fh);
  return s.ops.release(s.node, fh);
}

export function releasedir(s: Session): number {
  const fh = getU64(s.view, BODY + RELEASE_IN.fh);
  return fh < 0 ? -E.BADF : s.ops.releasedir(s.node, fh);
}

export function read(s: Session): number {
  const fh = getU64(s.view, BODY + READ_IN.fh);
  const offset = getU64(s.view, BODY + READ_IN.offset);
  const size = Math.min(s.view.getUint32(BODY + READ_IN.size_, true), MAX_WRITE_BYTES);
  if (fh < 0) return -E.BADF;
  if (offset < 0) return -E.INVAL;
  const count = s.ops.read(s.caller, s.node, fh, offset, s.buffers.readRoom(size));
  return count > size ? -E.IO : count;
}

export function write(s: Session): number {
  const fh = getU64(s.view, BODY + WRITE_IN.fh);
  const offset = getU64(s.view, BODY + WRITE_IN.offset);
  const size = s.view.getUint32(BODY + WRITE_IN.size_, true);
  if (fh < 0) return -E.BADF;
  if (offset < 0) return -E.FBIG;
  if (size > MAX_WRITE_BYTES || BODY + WRITE_IN.size + size > s.end) return -E.INVAL;
  const killPriv = (s.view.getUint32(BODY + WRITE_IN.write_flags, true) & FUSE_WRITE_KILL_SUIDGID) !== 0;
  const count = s.ops.write(s.caller, s.node, fh, offset, s.buffers.writeData(size), killPriv);
  return count < 0 ? count : putCount(s, count);
}

/** fuse_write_out. */
function putCount(s: Session, count: number): number {
  s.out.setUint32(PAYLOAD, count, true);
  s.out.setUint32(PAYLOAD + 4, 0, true);
  return WRITE_OUT.size;
}

export function fsync(s: Session): number {
  const fh = getU64(s.view, BODY + FSYNC_IN.fh);
  if (fh < 0) return -E.BADF;
  const dataOnly = (s.view.getUint32(BODY + FSYNC_IN.fsync_flags, true) & FUSE_FSYNC_FDATASYNC) !== 0;
  return s.opcode === FUSE_OPCODE.FSYNCDIR
    ? s.ops.fsyncdir(s.caller, s.node, fh, dataOnly)
    : s.ops.fsync(s.caller, s.node, fh, dataOnly);
}

/** READDIR and READDIRPLUS. */
export function readdir(s: Session): number {
  const fh = getU64(s.view, BODY + READ_IN.fh);
  const cookie = getU64(s.view, BODY + READ_IN.offset);
  if (fh < 0) return -E.BADF;
  if (cookie < 0) return -E.INVAL;
  const plus = s.opcode === FUSE_OPCODE.READDIRPLUS;
  s.sink.shortLived = s.shortLived;
  s.sink.begin(plus, Math.min(s.view.getUint32(BODY + READ_IN.size_, true), MAX_WRITE_BYTES));
  const result = s.ops.readdir(s.caller, s.node, fh, cookie, s.sink);
  if (result < 0) return result;
  if (plus) s.grant = 'plus';
  return s.sink.length();
}

export function fallocate(s: Session): number {
  const fh = getU64(s.view, BODY + FALLOCATE_IN.fh);
  const offset = getU64(s.view, BODY + FALLOCATE_IN.offset);
  const length = getU64(s.view, BODY + FALLOCATE_IN.length);
  if (fh < 0) return -E.BADF;
  if (offset < 0 || length < 0 || !Number.isSafeInteger(offset + length)) return -E.FBIG;
  const mode = s.view.getUint32(BODY + FALLOCATE_IN.mode, true);
  return s.ops.fallocate(s.caller, s.node, fh, mode, offset, length);
}

export function lseek(s: Session): number {
  const fh = getU64(s.view, BODY + LSEEK_IN.fh);
  const offset = getU64(s.view, BODY + LSEEK_IN.offset);
  if (fh < 0) return -E.BADF;
  if (offset < 0) return -E.NXIO;
  const found = s.ops.lseek(s.caller, s.node, fh, offset, s.view.getUint32(BODY + LSEEK_IN.whence, true));
  if (found < 0) return found;
  putU64(s.out, PAYLOAD, found);
  return LSEEK_OUT.size;
}

/** COPY_FILE_RANGE and COPY_FILE_RANGE_64. */
export function copyFileRange(s: Session): number {
  const { view } = s;
  const fhIn = getU64(view, BODY + COPY_FILE_RANGE_IN.fh_in);
  const offsetIn = getU64(view, BODY + COPY_FILE_RANGE_IN.off_in);
  const nodeOut = getU64(view, BODY + COPY_FILE_RANGE_IN.nodeid_out);
  const fhOut = getU64(view, BODY + COPY_FILE_RANGE_IN.fh_out);
  const offsetOut = getU64(view, BODY + COPY_FILE_RANGE_IN.off_out);
  const asked = getU64(view, BODY + COPY_FILE_RANGE_IN.len);
  if (fhIn < 0 || fhOut < 0 || nodeOut <= 0) return -E.BADF;
  if (offsetIn < 0 || offsetOut < 0) return -E.FBIG;
  const length = asked < 0 ? MAX_COPY_BYTES : Math.min(asked, MAX_COPY_BYTES);
  const count = s.ops.copyFileRange(s.caller, s.node, fhIn, offsetIn, nodeOut, fhOut, offsetOut, length);
  return count < 0 ? count : putCopied(s, count);
}

/** The reply of a copy, in the form of the request's opcode. */
export function putCopied(s: Session, count: number): number {
  if (s.opcode !== FUSE_OPCODE.COPY_FILE_RANGE_64) return putCount(s, count);
  putU64(s.out, PAYLOAD, count);
  return COPY_FILE_RANGE_OUT.size;
}
