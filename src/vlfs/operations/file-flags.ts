/**
 * The flags that chattr sets (FS_*_FL): those of the private file or directory. What makes a file immutable or append-only for root too is refused: neither revert, reset
 * nor the end of the appliance could remove it.
 */
import {
  close,
  E,
  ioctlBuffer,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  S_IFREG,
} from '../../sys/index.ts';
import type { Caller } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { type Core, type Node, step } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { chainPrivate } from '../private-layer/private-chain.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { confirm, refresh } from './lookup.ts';

const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
/** SYNC, NODUMP, NOATIME, DIRSYNC. */
const KNOWN = 0x8 | 0x40 | 0x80 | 0x10000;

const word = new Uint32Array(2);
const argument = new Uint8Array(word.buffer);

/** The flags of a file or directory; what is shared has none. Or a negative errno. */
export function fileFlags(core: Core, node: Node): number {
  return onPrivate(core, node, (fd) => {
    const got = ioctlBuffer(fd, FS_IOC_GETFLAGS, argument);
    return got < 0 ? without(got) : word[0]! & KNOWN;
  });
}

/** Sets the flags; who may is checked by the kernel. 0, PENDING or a negative errno: EOPNOTSUPP for flags that an appliance cannot have. */
export function setFileFlags(core: Core, caller: Caller, node: Node, flags: number): number {
  if (core.readOnly) return -E.ROFS;
  if (flags & ~KNOWN) return -E.OPNOTSUPP;
  if (node.children !== null) {
    const above = chainPrivate(core, caller, node);
    if (above !== 0) return above;
    const fd = privateDirectory(core, node);
    if (fd < 0) return fd;
  } else {
    const copied = copyUp(core, caller, node);
    if (copied !== 0) return copied;
  }
  return onPrivate(core, node, (fd) => {
    const got = ioctlBuffer(fd, FS_IOC_GETFLAGS, argument);
    if (got < 0) return without(got);
    word[0] = ((word[0]! & ~KNOWN) | flags) >>> 0;
    step(core, 'flags');
    return ioctlBuffer(fd, FS_IOC_SETFLAGS, argument);
  });
}

/** A file system below that knows no flags. */
function without(errno: number): number {
  return errno === -E.NOTTY ? -E.OPNOTSUPP : errno;
}

/** Calls `use` with a descriptor of the private object; 0 when there is none. */
function onPrivate(core: Core, node: Node, use: (fd: number) => number): number {
  if (node.children === null && node.kind !== S_IFREG) return -E.NOTTY;
  const known = node.children !== null ? refresh(core, node) : confirm(core, node);
  if (known < 0) return -E.STALE;
  if (!node.priv) return 0;
  if (node.children !== null) return use(directoryFd(core, node));
  if (node.backing !== null && !node.backing.shared) return use(node.backing.fd);
  if (node.parent === null) return -E.STALE;
  const parentFd = directoryFd(core, node.parent);
  const fd = openat(parentFd, node.name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  try {
    return use(fd);
  } finally {
    close(fd);
  }
}
