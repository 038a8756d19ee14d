/** Handlers of requests that work on names: lookup and forget, making, linking, moving and removing entries. */
import { E } from '../../sys/index.ts';
import { FUSE_OPCODE, FUSE_OPEN_KILL_SUIDGID } from '../abi/constants.ts';
import {
  BATCH_FORGET_IN,
  CREATE_IN,
  ENTRY_OUT,
  FORGET_IN,
  FORGET_ONE,
  IN_HEADER,
  LINK_IN,
  MKDIR_IN,
  MKNOD_IN,
  RENAME_IN,
  RENAME2_IN,
} from '../abi/layout.ts';
import { getU64 } from './buffers.ts';
import { putEntry } from './encode.ts';
import { putOpen } from './file-ops.ts';
import { NO_REPLY, PAYLOAD, readName, readTarget, type Session } from './session.ts';

const BODY = IN_HEADER.size;

/** Writes s.entry when the operation succeeded, and notes the lookup it counts. */
function replyEntry(s: Session, result: number): number {
  if (result < 0) return result;
  if (s.shortLived) s.entry.entryValidMs = 0;
  if (s.entry.nodeId > 0) {
    s.grant = 'entry';
    s.grantNode = s.entry.nodeId;
  }
  return putEntry(s.out, PAYLOAD, s.entry);
}

export function lookup(s: Session): number {
  const name = readName(s, BODY);
  if (typeof name === 'number') return name;
  const recent = s.recent[s.recentAt]!;
  recent.parent = s.node;
  recent.name = name;
  s.recentAt = (s.recentAt + 1) % s.recent.length;
  return replyEntry(s, s.ops.lookup(s.caller, s.node, name, s.entry));
}

export function forget(s: Session): number {
  const count = getU64(s.view, BODY + FORGET_IN.nlookup);
  if (count > 0) s.ops.forget(s.node, count);
  return NO_REPLY;
}

export function batchForget(s: Session): number {
  const count = s.view.getUint32(BODY + BATCH_FORGET_IN.count, true);
  let at = BODY + BATCH_FORGET_IN.size;
  for (let i = 0; i < count && at + FORGET_ONE.size <= s.end; i++, at += FORGET_ONE.size) {
    const node = getU64(s.view, at + FORGET_ONE.nodeid);
    const lookups = getU64(s.view, at + FORGET_ONE.nlookup);
    if (node > 0 && lookups > 0) s.ops.forget(node, lookups);
  }
  return NO_REPLY;
}

export function mknod(s: Session): number {
  const name = readName(s, BODY + MKNOD_IN.size);
  if (typeof name === 'number') return name;
  const mode = s.view.getUint32(BODY + MKNOD_IN.mode, true);
  const rdev = s.view.getUint32(BODY + MKNOD_IN.rdev, true);
  s.caller.umask = s.view.getUint32(BODY + MKNOD_IN.umask, true);
  return replyEntry(s, s.ops.mknod(s.caller, s.node, name, mode, rdev, s.entry));
}

export function mkdir(s: Session): number {
  const name = readName(s, BODY + MKDIR_IN.size);
  if (typeof name === 'number') return name;
  const mode = s.view.getUint32(BODY + MKDIR_IN.mode, true);
  s.caller.umask = s.view.getUint32(BODY + MKDIR_IN.umask, true);
  return replyEntry(s, s.ops.mkdir(s.caller, s.node, name, mode, s.entry));
}

export function symlink(s: Session): number {
  const name = readName(s, BODY);
  if (typeof name === 'number') return name;
  const target = readTarget(s, s.after);
  if (typeof target === 'number') return target;
  return replyEntry(s, s.ops.symlink(s.caller, s.node, name, target, s.entry));
}

export function link(s: Session): number {
  const name = readName(s, BODY + LINK_IN.size);
  if (typeof name === 'number') return name;
  const node = getU64(s.view, BODY + LINK_IN.oldnodeid);
  if (node <= 0) return -E.STALE;
  return replyEntry(s, s.ops.link(s.caller, node, s.node, name, s.entry));
}

export function unlink(s: Session): number {
  const name = readName(s, BODY);
  if (typeof name === 'number') return name;
  return s.ops.unlink(s.caller, s.node, name);
}

export function rmdir(s: Session): number {
  const name = readName(s, BODY);
  if (typeof name === 'number') return name;
  return s.ops.rmdir(s.caller, s.node, name);
}

/** RENAME and RENAME2. */
export function rename(s: Session): number {
  const flagged = s.opcode === FUSE_OPCODE.RENAME2;
  const newParent = getU64(s.view, BODY + RENAME_IN.newdir);
  if (newParent <= 0) return -E.STALE;
  const flags = flagged ? s.view.getUint32(BODY + RENAME2_IN.flags, true) : 0;
  const name = readName(s, BODY + (flagged ? RENAME2_IN.size : RENAME_IN.size));
  if (typeof name === 'number') return name;
  const newName = readName(s, s.after);
  if (typeof newName === 'number') return newName;
  return s.ops.rename(s.caller, s.node, name, newParent, newName, flags);
}

export function readlink(s: Session): number {
  const target = s.ops.readlink(s.caller, s.node);
  if (typeof target === 'number') return target;
  if (target.length >= s.reply.length - PAYLOAD) return -E.NAMETOOLONG;
  return s.reply.latin1Write(target, PAYLOAD);
}

/** CREATE and TMPFILE: an entry and an open handle in one reply. */
export function create(s: Session): number {
  const flags = s.view.getUint32(BODY + CREATE_IN.flags, true);
  const mode = s.view.getUint32(BODY + CREATE_IN.mode, true);
  s.caller.umask = s.view.getUint32(BODY + CREATE_IN.umask, true);
  s.caller.killPriv = (s.view.getUint32(BODY + CREATE_IN.open_flags, true) & FUSE_OPEN_KILL_SUIDGID) !== 0;
  let result: number;
  if (s.opcode === FUSE_OPCODE.TMPFILE) {
    result = s.ops.tmpfile(s.caller, s.node, flags, mode, s.entry, s.open);
  } else {
    const name = readName(s, BODY + CREATE_IN.size);
    if (typeof name === 'number') return name;
    result = s.ops.create(s.caller, s.node, name, flags, mode, s.entry, s.open);
  }
  if (result < 0) return result;
  const node = s.entry.nodeId;
  if (s.shortLived) s.entry.entryValidMs = 0;
  putEntry(s.out, PAYLOAD, s.entry);
  const written = putOpen(s, node, PAYLOAD + ENTRY_OUT.size);
  if (written < 0) {
    s.ops.forget(node, 1);
    return written;
  }
  s.grant = 'create';
  s.grantNode = node;
  return ENTRY_OUT.size + written;
}
