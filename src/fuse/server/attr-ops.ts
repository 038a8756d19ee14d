/** Handlers of requests on attributes: stat, setattr, extended attributes, statfs. */
import { LIMITS } from '../../base/index.ts';
import { E } from '../../sys/index.ts';
import { FATTR, FUSE_GETATTR_FH, FUSE_SETXATTR_ACL_KILL_SGID } from '../abi/constants.ts';
import {
  COMPAT_SETXATTR_IN_SIZE,
  GETATTR_IN,
  GETXATTR_IN,
  GETXATTR_OUT,
  IN_HEADER,
  SETATTR_IN,
  SETXATTR_IN,
  STATX_IN,
} from '../abi/layout.ts';
import { getI64, getU64 } from './buffers.ts';
import { putAttrOut, putStatfs, putStatx } from './encode.ts';
import { PAYLOAD, putBytes, readXattrName, type Session } from './session.ts';

const BODY = IN_HEADER.size;

/** The handle of a GETATTR or STATX, -1 when it has none. */
function handleOf(s: Session, at: number): number {
  return (s.view.getUint32(BODY + GETATTR_IN.getattr_flags, true) & FUSE_GETATTR_FH) !== 0
    ? getU64(s.view, at)
    : -1;
}

export function getattr(s: Session): number {
  const result = s.ops.getattr(s.caller, s.node, handleOf(s, BODY + GETATTR_IN.fh), s.attr);
  return result < 0 ? result : putAttrOut(s.out, PAYLOAD, s.attr, s.ops.attrValidMs(s.node, s.attr));
}

export function statx(s: Session): number {
  const result = s.ops.getattr(s.caller, s.node, handleOf(s, BODY + STATX_IN.fh), s.attr);
  return result < 0 ? result : putStatx(s.out, PAYLOAD, s.attr, s.ops.attrValidMs(s.node, s.attr));
}

export function setattr(s: Session): number {
  const { view, change } = s;
  const at = BODY;
  change.valid = view.getUint32(at + SETATTR_IN.valid, true);
  change.fh = (change.valid & FATTR.FH) !== 0 ? getU64(view, at + SETATTR_IN.fh) : -1;
  change.size = getU64(view, at + SETATTR_IN.size_);
  if ((change.valid & FATTR.SIZE) !== 0 && change.size < 0) return -E.FBIG;
  change.atimeSec = getI64(view, at + SETATTR_IN.atime);
  change.mtimeSec = getI64(view, at + SETATTR_IN.mtime);
  change.ctimeSec = getI64(view, at + SETATTR_IN.ctime);
  change.atimeNsec = view.getUint32(at + SETATTR_IN.atimensec, true);
  change.mtimeNsec = view.getUint32(at + SETATTR_IN.mtimensec, true);
  change.ctimeNsec = view.getUint32(at + SETATTR_IN.ctimensec, true);
  if (change.atimeNsec >= 1e9 || change.mtimeNsec >= 1e9 || change.ctimeNsec >= 1e9) return -E.INVAL;
  change.mode = view.getUint32(at + SETATTR_IN.mode, true);
  change.uid = view.getUint32(at + SETATTR_IN.uid, true);
  change.gid = view.getUint32(at + SETATTR_IN.gid, true);
  const result = s.ops.setattr(s.caller, s.node, change, s.attr);
  return result < 0 ? result : putAttrOut(s.out, PAYLOAD, s.attr, s.ops.attrValidMs(s.node, s.attr));
}

/** A value, its length when `size` is 0, or ERANGE when it does not fit. */
function replyValue(s: Session, value: Uint8Array | number, size: number): number {
  if (typeof value === 'number') return value;
  if (size === 0) {
    s.out.setUint32(PAYLOAD, value.length, true);
    s.out.setUint32(PAYLOAD + 4, 0, true);
    return GETXATTR_OUT.size;
  }
  return value.length > size ? -E.RANGE : putBytes(s, value);
}

export function getxattr(s: Session): number {
  const name = readXattrName(s, BODY + GETXATTR_IN.size);
  if (typeof name === 'number') return name;
  return replyValue(s, s.ops.getxattr(s.caller, s.node, name), s.view.getUint32(BODY, true));
}

export function listxattr(s: Session): number {
  return replyValue(s, s.ops.listxattr(s.caller, s.node), s.view.getUint32(BODY, true));
}

export function setxattr(s: Session): number {
  const extended = s.features?.setxattrExt === true;
  const name = readXattrName(s, BODY + (extended ? SETXATTR_IN.size : COMPAT_SETXATTR_IN_SIZE));
  if (typeof name === 'number') return name;
  const size = s.view.getUint32(BODY + SETXATTR_IN.size_, true);
  if (size > LIMITS.xattrValueBytes || s.after + size > s.end) return -E.INVAL;
  const flags = s.view.getUint32(BODY + SETXATTR_IN.flags, true);
  const more = extended ? s.view.getUint32(BODY + SETXATTR_IN.setxattr_flags, true) : 0;
  const value = s.request.subarray(s.after, s.after + size);
  return s.ops.setxattr(s.caller, s.node, name, value, flags, (more & FUSE_SETXATTR_ACL_KILL_SGID) !== 0);
}

export function removexattr(s: Session): number {
  const name = readXattrName(s, BODY);
  return typeof name === 'number' ? name : s.ops.removexattr(s.caller, s.node, name);
}

export function statfs(s: Session): number {
  const result = s.ops.statfs(s.caller, s.node, s.statfs);
  return result < 0 ? result : putStatfs(s.out, PAYLOAD, s.statfs);
}
