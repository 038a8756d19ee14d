/**
 * FUSE_INIT: what this server asks of the kernel, what it got, and so what it must do without. Every flag that is asked for is
 * one the kernel offered. Passthrough excludes the writeback cache, which is never asked for.
 */
import {
  FUSE_INIT,
  FUSE_INIT2,
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  FUSE_MINOR_INC_EPOCH,
  FUSE_MINOR_PRUNE,
  FUSE_OLDEST_MINOR_VERSION,
} from '../abi/constants.ts';
import { COMPAT_INIT_IN_SIZE, IN_HEADER, INIT_IN, INIT_OUT } from '../abi/layout.ts';
import { MAX_PAGES, MAX_WRITE_BYTES } from './buffers.ts';
import { PAYLOAD, type Session } from './session.ts';

/** What a connection can do. */
export interface Features {
  fuseMinor: number;
  passthrough: boolean;
  incEpoch: boolean;
  prune: boolean;
  expireOnly: boolean;
  killPriv: boolean;
  posixAcl: boolean;
  dontMask: boolean;
  setxattrExt: boolean;
  resend: boolean;
  idmap: boolean;
  /** Files are opened and closed by the kernel alone. */
  noOpen: boolean;
}

/** The features beside the version, in the order of their bits where they are stored. */
const STORED = [
  'passthrough',
  'incEpoch',
  'expireOnly',
  'killPriv',
  'posixAcl',
  'dontMask',
  'setxattrExt',
  'resend',
  'idmap',
  'noOpen',
] as const;

export function featureBits(features: Features): number {
  return STORED.reduce((bits, name, i) => (features[name] ? bits | (1 << i) : bits), 0);
}

export function featuresOf(fuseMinor: number, bits: number): Features {
  const flags = Object.fromEntries(STORED.map((name, i) => [name, (bits & (1 << i)) !== 0]));
  return { fuseMinor, ...flags } as unknown as Features;
}

const WANTED =
  FUSE_INIT.ASYNC_READ |
  FUSE_INIT.ATOMIC_O_TRUNC |
  FUSE_INIT.BIG_WRITES |
  FUSE_INIT.DONT_MASK |
  FUSE_INIT.DO_READDIRPLUS |
  FUSE_INIT.READDIRPLUS_AUTO |
  FUSE_INIT.ASYNC_DIO |
  FUSE_INIT.PARALLEL_DIROPS |
  FUSE_INIT.POSIX_ACL |
  FUSE_INIT.MAX_PAGES |
  FUSE_INIT.CACHE_SYMLINKS |
  FUSE_INIT.EXPLICIT_INVAL_DATA |
  FUSE_INIT.HANDLE_KILLPRIV_V2 |
  FUSE_INIT.SETXATTR_EXT |
  FUSE_INIT.INIT_EXT;

const WANTED2 =
  FUSE_INIT2.HAS_EXPIRE_ONLY |
  FUSE_INIT2.DIRECT_IO_ALLOW_MMAP |
  FUSE_INIT2.PASSTHROUGH |
  FUSE_INIT2.HAS_RESEND |
  FUSE_INIT2.ALLOW_IDMAP;

const EPROTO = 71;
/** Requests that the kernel may have under way on its own account (read ahead, writes of mmap). */
const MAX_BACKGROUND = 128;
const CONGESTION_THRESHOLD = 96;
/** Backing files lie on an unstacked file system; ours is one level above it. */
const MAX_STACK_DEPTH = 1;

/** Answers INIT and tells the VLFS what the connection can do. EPROTO for a kernel that is too old. */
export function handleInit(s: Session): number {
  const { view, out } = s;
  const body = IN_HEADER.size;
  const major = view.getUint32(body + INIT_IN.major, true);
  const minor = view.getUint32(body + INIT_IN.minor, true);
  for (let i = 0; i < INIT_OUT.size; i += 4) out.setUint32(PAYLOAD + i, 0, true);
  out.setUint32(PAYLOAD + INIT_OUT.major, FUSE_KERNEL_VERSION, true);
  out.setUint32(PAYLOAD + INIT_OUT.minor, Math.min(minor, FUSE_KERNEL_MINOR_VERSION), true);
  // A newer major version: the kernel sends INIT again with ours.
  if (major > FUSE_KERNEL_VERSION) return INIT_OUT.size;
  if (major < FUSE_KERNEL_VERSION || minor < FUSE_OLDEST_MINOR_VERSION) return -EPROTO;

  const offered = view.getUint32(body + INIT_IN.flags, true);
  const extended = (offered & FUSE_INIT.INIT_EXT) !== 0 && s.end >= body + INIT_IN.size;
  const offered2 = extended ? view.getUint32(body + INIT_IN.flags2, true) : 0;
  const noOpen = (offered & FUSE_INIT.NO_OPEN_SUPPORT) !== 0 && s.ops.wantsNoOpen?.() === true;
  const left = (extended ? 0 : FUSE_INIT.INIT_EXT) | (noOpen ? FUSE_INIT.ATOMIC_O_TRUNC : 0);
  const flags = offered & WANTED & ~left;
  const flags2 = offered2 & WANTED2 & ~(noOpen ? FUSE_INIT2.PASSTHROUGH : 0);

  // A limit; the kernel's default is smaller.
  out.setUint32(PAYLOAD + INIT_OUT.max_readahead, MAX_WRITE_BYTES, true);
  out.setUint32(PAYLOAD + INIT_OUT.flags, flags >>> 0, true);
  out.setUint16(PAYLOAD + INIT_OUT.max_background, MAX_BACKGROUND, true);
  out.setUint16(PAYLOAD + INIT_OUT.congestion_threshold, CONGESTION_THRESHOLD, true);
  out.setUint32(PAYLOAD + INIT_OUT.max_write, MAX_WRITE_BYTES, true);
  out.setUint32(PAYLOAD + INIT_OUT.time_gran, 1, true);
  out.setUint16(PAYLOAD + INIT_OUT.max_pages, MAX_PAGES, true);
  out.setUint32(PAYLOAD + INIT_OUT.flags2, flags2 >>> 0, true);
  const passthrough = (flags2 & FUSE_INIT2.PASSTHROUGH) !== 0;
  if (passthrough) out.setUint32(PAYLOAD + INIT_OUT.max_stack_depth, MAX_STACK_DEPTH, true);

  const features: Features = {
    fuseMinor: Math.min(minor, FUSE_KERNEL_MINOR_VERSION),
    passthrough,
    incEpoch: minor >= FUSE_MINOR_INC_EPOCH,
    prune: minor >= FUSE_MINOR_PRUNE,
    expireOnly: (flags2 & FUSE_INIT2.HAS_EXPIRE_ONLY) !== 0,
    killPriv: (flags & FUSE_INIT.HANDLE_KILLPRIV_V2) !== 0,
    posixAcl: (flags & FUSE_INIT.POSIX_ACL) !== 0,
    dontMask: (flags & FUSE_INIT.DONT_MASK) !== 0,
    setxattrExt: (flags & FUSE_INIT.SETXATTR_EXT) !== 0,
    resend: (flags2 & FUSE_INIT2.HAS_RESEND) !== 0,
    idmap: (flags2 & FUSE_INIT2.ALLOW_IDMAP) !== 0,
    noOpen,
  };
  s.features = features;
  s.backing.enabled = passthrough;
  s.ops.init(features);
  return INIT_OUT.size;
}

export const INIT_MIN_BODY = COMPAT_INIT_IN_SIZE;
