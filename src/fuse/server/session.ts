/**
 * What a handler sees of one connection: the request's decoded header, the two buffers, and records that are reused for every
 * reply. A handler returns the number of payload bytes it wrote behind the reply header, a negative errno, PENDING or NO_REPLY.
 */
import { LIMITS, type Name } from '../../base/index.ts';
import { E } from '../../sys/index.ts';
import type {
  Attr,
  Caller,
  EntryOut,
  OpenOut,
  SetAttrIn,
  StaleName,
  StatfsOut,
  VfsOperations,
} from '../../vlfs/contract.ts';
import { OUT_HEADER } from '../abi/layout.ts';
import type { BackingTable } from './backing-table.ts';
import type { FuseBuffers } from './buffers.ts';
import { createDirectorySink, type ReplyDirectorySink } from './directory-sink.ts';
import { newAttr, newEntryOut } from './encode.ts';
import type { Features } from './init.ts';

/** The request needs no answer (FORGET, INTERRUPT). */
export const NO_REPLY = -1_000_001;

/** Where the payload of a reply begins. */
export const PAYLOAD = OUT_HEADER.size;

/** What the last reply gave to the kernel, to be taken back when the kernel did not take the reply. */
export type Grant = 'none' | 'entry' | 'open' | 'create' | 'opendir' | 'plus';

export interface Session {
  readonly ops: VfsOperations;
  readonly buffers: FuseBuffers;
  readonly request: Buffer;
  readonly view: DataView;
  readonly reply: Buffer;
  readonly out: DataView;
  readonly caller: Caller;
  readonly attr: Attr;
  readonly entry: EntryOut;
  readonly open: OpenOut;
  readonly change: SetAttrIn;
  readonly statfs: StatfsOut;
  readonly sink: ReplyDirectorySink;
  readonly backing: BackingTable;
  /** The names of the last lookups, a ring. */
  readonly recent: StaleName[];
  recentAt: number;
  /** Names are answered without validity (a relayer is under way). */
  shortLived: boolean;
  /** What INIT agreed on; null before it. */
  features: Features | null;
  opcode: number;
  node: number;
  /** End of the request's body: its length less the extensions. */
  end: number;
  /** Where the name just read ended (behind its NUL). */
  after: number;
  grant: Grant;
  grantNode: number;
  grantFh: number;
}

/** More lookups than can be between the answer and the kernel's use of it. */
const RECENT_NAMES = 256;

export interface SessionOptions {
  ops: VfsOperations;
  buffers: FuseBuffers;
  backing: BackingTable;
}

export function createSession(options: SessionOptions): Session {
  const { ops, buffers, backing } = options;
  return {
    ops,
    buffers,
    request: buffers.request,
    view: buffers.requestView,
    reply: buffers.reply,
    out: buffers.replyView,
    caller: { uid: 0, gid: 0, pid: 0, umask: 0, killPriv: false, job: null },
    attr: newAttr(),
    entry: newEntryOut(),
    open: {
      fh: 0,
      backingFd: -1,
      backingReadOnly: true,
      directIo: false,
      keepCache: false,
      keepsBacking: false,
    },
    change: {
      valid: 0,
      fh: -1,
      size: 0,
      atimeSec: 0,
      atimeNsec: 0,
      mtimeSec: 0,
      mtimeNsec: 0,
      ctimeSec: 0,
      ctimeNsec: 0,
      mode: 0,
      uid: 0,
      gid: 0,
    },
    statfs: { blocks: 0, bfree: 0, bavail: 0, files: 0, ffree: 0, bsize: 4096, namelen: 255, frsize: 4096 },
    sink: createDirectorySink(buffers.reply, buffers.replyView),
    backing,
    recent: Array.from({ length: RECENT_NAMES }, () => ({ parent: 0, name: '' as Name })),
    recentAt: 0,
    shortLived: false,
    features: null,
    opcode: 0,
    node: 0,
    end: 0,
    after: 0,
    grant: 'none',
    grantNode: 0,
    grantFh: 0,
  };
}

/** The NUL-terminated string at `at`, at most `limit` bytes; EINVAL when it has no end or is empty. Sets s.after. */
function readString(s: Session, at: number, limit: number): Name | number {
  if (at >= s.end) return -E.INVAL;
  const nul = s.request.indexOf(0, at);
  if (nul < 0 || nul >= s.end || nul === at) return -E.INVAL;
  if (nul - at > limit) return -E.NAMETOOLONG;
  s.after = nul + 1;
  return s.request.latin1Slice(at, nul) as Name;
}

/** A directory entry's name: one component, never '.' or '..'. */
export function readName(s: Session, at: number): Name | number {
  const name = readString(s, at, LIMITS.nameBytes);
  if (typeof name === 'number') return name;
  return name === '.' || name === '..' || name.includes('/') ? -E.INVAL : name;
}

/** A symbolic link's target. */
export function readTarget(s: Session, at: number): Name | number {
  return readString(s, at, LIMITS.symlinkBytes);
}

/** The name of an extended attribute. */
export function readXattrName(s: Session, at: number): Name | number {
  return readString(s, at, LIMITS.nameBytes);
}

/** Copies bytes into the reply as its payload. */
export function putBytes(s: Session, bytes: Uint8Array): number {
  if (bytes.length > s.reply.length - PAYLOAD) return -E.IO;
  s.reply.set(bytes, PAYLOAD);
  return bytes.length;
}
