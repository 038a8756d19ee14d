/**
 * The operations of a VLFS with a quota: those that may take or give back space ask first, and tell afterwards. What comes to the private layer in other ways (copy-up,
 * new objects, the completion of partial files) does so where it happens. Each costs the same however much the appliance holds.
 */
import { E, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } from '../../sys/index.ts';
import type { Core, Handle, Node } from '../core.ts';
import { handleOf } from '../nodes/handles.ts';
import { chooser, type Operations } from '../operations/either.ts';
import { nodeAt } from '../operations/lookup.ts';
import {
  closing,
  knowBytes,
  limitStatfs,
  type Measure,
  mayTake,
  measure,
  removed,
  roomOf,
  settleBytes,
} from './quota.ts';
import { bytesBelow, bytesOfHoles, holesIn, writeWithin } from './write-within.ts';

const WRITES = O_WRONLY | O_RDWR | O_TRUNC;
const RENAME_EXCHANGE = 2;
/** A write that leaves so much needs no look at what it takes: more than the metadata and the edges of blocks. */
const NEAR_BYTES = 1 << 20;
const XATTR_BYTES = 4096;
const KEEP_SIZE = 0x01;
const PUNCH_HOLE = 0x02;
const COLLAPSE_RANGE = 0x08;
const BLOCK = 4096;

export function withQuota(core: Core, plain: Operations): Operations {
  const nodeOf = (id: number): Node | null => core.nodes.get(id) ?? null;

  /** Does something that may change what the file takes. */
  const settled = (node: Node | null, change: () => number): number => {
    if (node !== null) knowBytes(core, node);
    const result = change();
    if (node !== null && core.quota !== null) settleBytes(core, node);
    return result;
  };

  /** The open private file of a handle for writing, or null. */
  const writing = (fh: number): (Handle & { fd: number }) | null => {
    const handle = handleOf(core, fh);
    if (handle === null || handle.backing === null || handle.backing.shared) return null;
    return (handle.flags & 3) === O_RDONLY ? null : { ...handle, fd: handle.backing.fd };
  };

  /** Bytes of [offset, end) that a change may take. */
  const needed = ({ fd, backing }: Handle & { fd: number }, offset: number, end: number): number =>
    backing!.partial === null
      ? bytesOfHoles(holesIn(fd, offset, end))
      : bytesBelow(backing!.partial, offset, end);

  /** What the name holds, before it may lose it. */
  const victimAt = (parentId: number, name: string): { node: Node; was: Measure | null } | null => {
    const parent = nodeOf(parentId);
    const node = parent?.children == null ? 0 : nodeAt(core, parent, name);
    return typeof node === 'number' ? null : { node, was: measure(core, node) };
  };

  const removing = (parentId: number, name: string, remove: () => number): number => {
    const { quota } = core;
    const victim = victimAt(parentId, name);
    quota!.lenient = true;
    try {
      const result = remove();
      if (result === 0 && victim !== null) removed(core, victim.node, victim.was);
      return result;
    } finally {
      quota!.lenient = false;
    }
  };

  /** What the operation does when the appliance has no quota, and else. */
  const either = chooser(plain, () => core.quota !== null);

  return {
    ...plain,
    open: either('open', (caller, id, flags, out) =>
      settled(flags & WRITES ? nodeOf(id) : null, () => plain.open(caller, id, flags, out)),
    ),
    create: either('create', (caller, parent, name, flags, mode, out, opened) => {
      const result = plain.create(caller, parent, name, flags, mode, out, opened);
      if (result === 0) settled(nodeOf(out.nodeId), () => 0);
      return result;
    }),
    mknod: either('mknod', (caller, parent, name, mode, rdev, out) => {
      const result = plain.mknod(caller, parent, name, mode, rdev, out);
      if (result === 0) settled(nodeOf(out.nodeId), () => 0);
      return result;
    }),
    symlink: either('symlink', (caller, parent, name, target, out) => {
      const result = plain.symlink(caller, parent, name, target, out);
      if (result === 0) settled(nodeOf(out.nodeId), () => 0);
      return result;
    }),
    setattr: either('setattr', (caller, id, change, out) =>
      settled(nodeOf(id), () => plain.setattr(caller, id, change, out)),
    ),
    write: either('write', (caller, id, fh, offset, from, killPriv) => {
      const handle = writing(fh);
      const write = (length: number): number =>
        plain.write(caller, id, fh, offset, from.subarray(0, length), killPriv);
      if (handle === null) return write(from.length);
      return settled(handle.node, () => {
        const room = roomOf(core.quota!);
        if (room >= from.length + NEAR_BYTES) return write(from.length);
        if (handle.backing!.partial === null)
          return writeWithin(handle.fd, { offset, length: from.length, room }, write);
        return needed(handle, offset, offset + from.length) > room ? -E.DQUOT : write(from.length);
      });
    }),
    fallocate: either('fallocate', (caller, id, fh, mode, offset, length) => {
      const handle = writing(fh);
      const allocate = (): number => plain.fallocate(caller, id, fh, mode, offset, length);
      if (handle === null || mode & (PUNCH_HOLE | COLLAPSE_RANGE))
        return settled(handle?.node ?? null, allocate);
      return settled(handle.node, () => {
        const { quota } = core;
        let needs = 0;
        if (roomOf(quota!) < length + NEAR_BYTES) {
          needs = needed(handle, offset, offset + length);
          // What was allocated before looks like a hole.
          const whole = Math.ceil((offset + length) / BLOCK) * BLOCK;
          if ((mode & ~KEEP_SIZE) === 0 && offset === 0)
            needs = Math.min(needs, Math.max(0, whole - (quota!.charged.get(handle.node) ?? 0)));
        }
        return mayTake(core, needs, 0) || allocate();
      });
    }),
    copyFileRange: either(
      'copyFileRange',
      (caller, nodeIn, fhIn, offsetIn, nodeOut, fhOut, offsetOut, length) => {
        const handle = writing(fhOut);
        const copy = (size: number): number =>
          plain.copyFileRange(caller, nodeIn, fhIn, offsetIn, nodeOut, fhOut, offsetOut, size);
        if (handle === null) return copy(length);
        return settled(handle.node, () => {
          const room = roomOf(core.quota!);
          if (room >= length + NEAR_BYTES || needed(handle, offsetOut, offsetOut + length) <= room)
            return copy(length);
          const fits = Math.floor(room / BLOCK) * BLOCK - (offsetOut % BLOCK);
          return fits <= 0 ? -E.DQUOT : copy(Math.min(fits, length));
        });
      },
    ),
    setxattr: either('setxattr', (caller, id, name, value, flags, clearSgid) =>
      settled(
        nodeOf(id),
        () => mayTake(core, XATTR_BYTES, 0) || plain.setxattr(caller, id, name, value, flags, clearSgid),
      ),
    ),
    removexattr: either('removexattr', (caller, id, name) =>
      settled(nodeOf(id), () => plain.removexattr(caller, id, name)),
    ),
    link: either('link', (caller, id, parent, name, out) => {
      const result = plain.link(caller, id, parent, name, out);
      const node = nodeOf(id);
      if (result === 0 && node !== null) core.quota?.count?.moved(node.successor ?? node);
      return result;
    }),
    unlink: either('unlink', (caller, parent, name) =>
      removing(parent, name, () => plain.unlink(caller, parent, name)),
    ),
    rmdir: either('rmdir', (caller, parent, name) =>
      removing(parent, name, () => plain.rmdir(caller, parent, name)),
    ),
    rename: either('rename', (caller, parent, name, newParent, newName, flags) => {
      const target = victimAt(newParent, newName);
      const source = victimAt(parent, name)?.node ?? null;
      const result = plain.rename(caller, parent, name, newParent, newName, flags);
      if (result !== 0 || core.quota === null) return result;
      const replaces = (flags & RENAME_EXCHANGE) === 0 && target !== null && target.node !== source;
      if (replaces) removed(core, target.node, target.was);
      const { count } = core.quota;
      for (const node of count === null ? [] : [source, replaces ? null : (target?.node ?? null)]) {
        if (node !== null) count!.moved(node.successor ?? node);
      }
      return result;
    }),
    release: (id, fh) => {
      const backing = core.quota === null ? null : (handleOf(core, fh)?.backing ?? null);
      if (backing !== null && !backing.shared && backing.opens === 1)
        closing(core, handleOf(core, fh)!.node, backing);
      return plain.release(id, fh);
    },
    statfs: (caller, id, out) => {
      const result = plain.statfs(caller, id, out);
      if (result === 0 && core.quota !== null) limitStatfs(core, out);
      return result;
    },
  };
}
