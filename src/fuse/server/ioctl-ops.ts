/** IOCTL: the four requests by which the kernel asks for file flags (lsattr, chattr); all others are ENOTTY. */
import { E } from '../../sys/index.ts';
import { IN_HEADER, IOCTL_IN, IOCTL_OUT } from '../abi/layout.ts';
import { PAYLOAD, type Session } from './session.ts';

const BODY = IN_HEADER.size;
const DATA = BODY + IOCTL_IN.size;
const GETFLAGS = 0x80086601;
const SETFLAGS = 0x40086602;
const FSGETXATTR = 0x801c581f;
const FSSETXATTR = 0x401c5820;
/** struct fsxattr: xflags, extsize, nextents, projid, cowextsize, padding. */
const FSXATTR_BYTES = 28;
/** FS_*_FL beside FS_XFLAG_*: SYNC, NODUMP, NOATIME, and IMMUTABLE, APPEND, which are refused. */
const XFLAGS = [
  [0x8, 0x20],
  [0x40, 0x80],
  [0x80, 0x40],
  [0x10, 0x8],
  [0x20, 0x10],
] as const;

export function ioctl(s: Session): number {
  switch (s.view.getUint32(BODY + IOCTL_IN.cmd, true)) {
    case GETFLAGS: {
      const flags = s.ops.fileFlags(s.caller, s.node);
      return flags < 0 ? flags : putResult(s, flags, 4);
    }
    case FSGETXATTR: {
      const flags = s.ops.fileFlags(s.caller, s.node);
      if (flags < 0) return flags;
      return putResult(s, translated(flags, 0, 1), FSXATTR_BYTES);
    }
    case SETFLAGS: {
      if (s.end < DATA + 4) return -E.INVAL;
      const set = s.ops.setFileFlags(s.caller, s.node, s.view.getUint32(DATA, true));
      return set < 0 ? set : putResult(s, 0, 0);
    }
    case FSSETXATTR: {
      if (s.end < DATA + FSXATTR_BYTES) return -E.INVAL;
      const xflags = s.view.getUint32(DATA, true);
      const known = XFLAGS.reduce((all, [, xflag]) => all | xflag, 0);
      // Extent sizes and project numbers are not kept.
      for (const at of [4, 12, 16]) if (s.view.getUint32(DATA + at, true) !== 0) return -E.OPNOTSUPP;
      if (xflags & ~known) return -E.OPNOTSUPP;
      const set = s.ops.setFileFlags(s.caller, s.node, translated(xflags, 1, 0));
      return set < 0 ? set : putResult(s, 0, 0);
    }
    default:
      return -E.NOTTY;
  }
}

function translated(flags: number, from: 0 | 1, to: 0 | 1): number {
  let result = 0;
  for (const pair of XFLAGS) if (flags & pair[from]) result |= pair[to];
  return result;
}

/** fuse_ioctl_out, then `bytes` of which the first four are `word`. */
function putResult(s: Session, word: number, bytes: number): number {
  s.reply.fill(0, PAYLOAD, PAYLOAD + IOCTL_OUT.size + bytes);
  if (bytes > 0) s.out.setUint32(PAYLOAD + IOCTL_OUT.size, word, true);
  return IOCTL_OUT.size + bytes;
}
