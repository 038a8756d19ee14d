/**
 * Files of a kernel that opens and closes them without telling (OPEN answered ENOSYS): requests name the node alone. A file is opened here when a request
 * needs it, and stays open as one of the last ones that did: a bounded number for all VLFSs of a thread. What could not be opened again stays open until the
 * kernel forgets the node: a file that lost its name, or of which the layer left the stack. These count against the appliance's share of open files (shares.ts).
 */
import { E, O_RDONLY, O_WRONLY, S_IFREG } from '../../sys/index.ts';
import { hasQuarantine, refusedContent } from '../checks/quarantine.ts';
import { type Caller, type OpenOut, PENDING, type SlowJob } from '../contract.ts';
import { openShared } from '../copy-up/shared-content.ts';
import type { Core, Node } from '../core.ts';
import { chooser, type Operations } from '../operations/either.ts';
import type { Unit } from '../stack/stack.ts';
import type { Steps } from '../steps.ts';
import { addHandle, newBacking } from './handles.ts';
import { mayOpen } from './shares.ts';

/** Of a thread. */
const MOST_OPEN = 512;
/** Nodes that are looked at between two steps. */
const A_STEP = 256;
const FATTR_SIZE = 1 << 3;
const FATTR_FH = 1 << 6;

/** The handle of a node. */
export interface DemandedOpen {
  readonly fh: number;
  readonly writes: boolean;
  /** Slow work that uses its descriptor. */
  jobs: number;
  used: boolean;
  /** Of a file whose layer left: it cannot be opened again, whether or not it still has its name here. */
  former: boolean;
  close(): void;
}

/** Those that may be closed at any time, the longest not used first, more or less. */
const recent = new Map<Node, DemandedOpen>();

export interface OpensOnDemand {
  /** Before a file loses its place: its content stays for those who may have it open. 0 or a negative errno. */
  keep(node: Node): number;
  /** The same for all files that the kernel knows of these; returns their ids. What there is no room for is lost to who has it open. */
  keepAll(which: (node: Node) => boolean, former?: boolean): Steps<number[]>;
  /** The backing that a file without a name just got stays open as long as the kernel knows the node. */
  hold(node: Node): void;
  /** After a change of many names: what has a name still may be closed as before. */
  relax(): void;
  /** Closes all that can be opened again, but for what a job uses. */
  closeNamed(): void;
  /** After a takeover: takes up the handles that the former process had. */
  adopt(): void;
}

const newOpenOut = (): OpenOut => ({
  fh: 0,
  backingFd: -1,
  backingReadOnly: true,
  directIo: false,
  keepCache: true,
  keepsBacking: false,
});

/** The operations for either kind of kernel; which it is says init. */
export function withOpensOnDemand(core: Core, plain: Operations): Operations {
  const nobody: Caller = { uid: 0, gid: 0, pid: 0, umask: 0, job: null };
  const out = newOpenOut();

  function remember(node: Node, fh: number, writes: boolean): void {
    const before = node.demanded;
    const open: DemandedOpen = {
      fh,
      writes,
      jobs: 0,
      used: false,
      former: before?.former ?? false,
      close() {
        recent.delete(node);
        node.demanded = null;
        plain.release(node.id, fh);
      },
    };
    node.demanded = open;
    core.ledger?.standing(fh);
    recent.delete(node);
    recent.set(node, open);
    if (before !== null) plain.release(node.id, before.fh);
    if (recent.size > MOST_OPEN) closeOldest();
  }

  /** The handle by which a request works on a node; or PENDING or a negative errno. */
  function handleFor(caller: Caller, id: number, writes: boolean): number {
    const node = core.nodes.get(id);
    if (node === undefined) return -E.STALE;
    // Pages of it that the kernel had were dropped.
    if (hasQuarantine() && refusedContent(core, node) < 0) return -E.PERM;
    const known = node.demanded;
    if (known !== null && (known.writes || !writes)) {
      known.used = true;
      return known.fh;
    }
    const result = plain.open(caller, id, writes ? O_WRONLY : O_RDONLY, out);
    if (result === -E.STALE && !writes) return openFormer(node);
    if (result < 0) return result;
    remember(node, out.fh, writes);
    return out.fh;
  }

  /** A shared file that its name does not lead to any more. */
  function openFormer(node: Node): number {
    if (node.kind !== S_IFREG || node.priv || node.unit === null) return -E.STALE;
    if (!mayOpen(core)) return -E.NFILE;
    const fd = openShared(node.unit, node.entry);
    if (fd < 0) return fd;
    node.backing = newBacking({ fd, shared: true, cached: true });
    const fh = addHandle(core, node, node.backing, O_RDONLY);
    remember(node, fh, false);
    return fh;
  }

  function keep(node: Node): number {
    if (node.kind !== S_IFREG || node.lookups === 0) return 0;
    if (node.demanded === null) {
      const fh = handleFor(nobody, node.id, false);
      if (fh === -E.NFILE || fh === -E.MFILE) return fh;
      // Nobody can read it, by whatever descriptor.
      if (fh < 0) return 0;
    }
    recent.delete(node);
    return 0;
  }

  /** What a name leads to may lose its last one. */
  function keepAt(parentId: number, name: string): number {
    const node = core.nodes.get(parentId)?.children?.get(name);
    return node === undefined || node.moreNames !== null ? 0 : keep(node);
  }

  /** The descriptor of a handle must stay as it is while a job uses it. */
  function whileUsed(caller: Caller, result: number, ...ids: number[]): number {
    const { job } = caller;
    if (result !== PENDING || job === null || job.then !== 'reply') return result;
    const opens = ids.flatMap((id) => core.nodes.get(id)?.demanded ?? []);
    for (const open of opens) open.jobs++;
    const { done } = job as SlowJob & { done?: (errno: number) => void };
    Object.assign(job, {
      done(errno: number) {
        for (const open of opens) open.jobs--;
        done?.(errno);
      },
    });
    return result;
  }

  core.demand = {
    keep,
    *keepAll(which, former = false) {
      const kept: number[] = [];
      let looked = 0;
      for (const node of core.nodes.values()) {
        if (++looked % A_STEP === 0) yield;
        if (!which(node) || keep(node) < 0 || node.demanded === null) continue;
        node.demanded.former ||= former;
        kept.push(node.id);
      }
      return kept;
    },
    hold(node) {
      remember(node, addHandle(core, node, node.backing, O_WRONLY), true);
      recent.delete(node);
    },
    relax() {
      for (const handle of core.handles) {
        const open = handle?.node.demanded;
        if (open == null || open.former || handle!.node.parent === null || recent.has(handle!.node)) continue;
        recent.set(handle!.node, open);
      }
      closeOldest();
    },
    closeNamed() {
      for (const handle of core.handles) {
        const open = handle?.node.demanded;
        if (open != null && !open.former && handle!.node.parent !== null && open.jobs === 0) open.close();
      }
    },
    adopt() {
      for (const [fh, handle] of core.handles.entries()) {
        if (handle === null) continue;
        const { node, flags } = handle;
        const writes = (flags & 3) !== O_RDONLY;
        if (node.lookups === 0 || (node.demanded?.writes === true && !writes)) plain.release(node.id, fh);
        else {
          remember(node, fh, writes);
          if (node.parent === null) recent.delete(node);
        }
      }
    },
  };

  const either = chooser(plain, () => core.noOpen);

  const handedOut = (node: number, flags: number, opened: OpenOut, result: number): number => {
    if (result !== 0) return result;
    remember(core.nodes.get(node)!, opened.fh, (flags & 3) !== O_RDONLY);
    Object.assign(opened, newOpenOut());
    return 0;
  };

  return {
    ...plain,
    open: either('open', () => -E.NOSYS),
    release: either('release', () => 0),
    create: either('create', (caller, parent, name, flags, mode, entry, opened) => {
      const result = plain.create(caller, parent, name, flags, mode, entry, opened);
      return handedOut(entry.nodeId, flags, opened, result);
    }),
    tmpfile: either('tmpfile', (caller, parent, flags, mode, entry, opened) => {
      const result = plain.tmpfile(caller, parent, flags, mode, entry, opened);
      handedOut(entry.nodeId, flags, opened, result);
      if (result === 0) recent.delete(core.nodes.get(entry.nodeId)!);
      return result;
    }),
    forget: either('forget', (id, count) => {
      plain.forget(id, count);
      const node = core.nodes.get(id);
      if (node !== undefined && node.lookups === 0) node.demanded?.close();
    }),
    setattr: either('setattr', (caller, id, change, attr) => {
      change.valid &= ~FATTR_FH;
      const node = core.nodes.get(id);
      const cuts = (change.valid & FATTR_SIZE) !== 0 && node?.kind === S_IFREG;
      // A part of it would be another content.
      if (cuts && change.size > 0 && hasQuarantine() && refusedContent(core, node) < 0) return -E.PERM;
      if (cuts && node.parent === null) {
        const fh = handleFor(caller, id, true);
        if (fh < 0) return fh;
      }
      return plain.setattr(caller, id, change, attr);
    }),
    read: either('read', (caller, id, _fh, offset, into) => {
      const fh = handleFor(caller, id, false);
      return fh < 0 ? fh : plain.read(caller, id, fh, offset, into);
    }),
    write: either('write', (caller, id, _fh, offset, from, killPriv) => {
      const fh = handleFor(caller, id, true);
      return fh < 0 ? fh : plain.write(caller, id, fh, offset, from, killPriv);
    }),
    fsync: either('fsync', (caller, id, _fh, dataOnly) => {
      const fh = handleFor(caller, id, false);
      return fh < 0 ? fh : whileUsed(caller, plain.fsync(caller, id, fh, dataOnly), id);
    }),
    fallocate: either('fallocate', (caller, id, _fh, mode, offset, length) => {
      const fh = handleFor(caller, id, true);
      return fh < 0 ? fh : whileUsed(caller, plain.fallocate(caller, id, fh, mode, offset, length), id);
    }),
    lseek: either('lseek', (caller, id, _fh, offset, whence) => {
      const fh = handleFor(caller, id, false);
      return fh < 0 ? fh : plain.lseek(caller, id, fh, offset, whence);
    }),
    copyFileRange: either('copyFileRange', (caller, from, _fhIn, offsetIn, to, _fhOut, offsetOut, length) => {
      const fhOut = handleFor(caller, to, true);
      if (fhOut < 0) return fhOut;
      const fhIn = handleFor(caller, from, false);
      if (fhIn < 0) return fhIn;
      const result = plain.copyFileRange(caller, from, fhIn, offsetIn, to, fhOut, offsetOut, length);
      return whileUsed(caller, result, from, to);
    }),
    unlink: either(
      'unlink',
      (caller, parent, name) => keepAt(parent, name) || plain.unlink(caller, parent, name),
    ),
    rename: either('rename', (caller, parent, name, newParent, newName, flags) => {
      const kept = keepAt(newParent, newName);
      return kept || plain.rename(caller, parent, name, newParent, newName, flags);
    }),
    destroy() {
      for (const node of recent.keys()) if (core.nodes.get(node.id) === node) recent.delete(node);
      plain.destroy();
    },
  };
}

function closeOldest(): void {
  let left = recent.size;
  for (const [node, open] of recent) {
    if (recent.size <= MOST_OPEN || --left < 0) return;
    if (node.parent === null) recent.delete(node);
    else if (open.used || open.jobs > 0) {
      open.used = false;
      recent.delete(node);
      recent.set(node, open);
    } else open.close();
  }
}

/** Whether a node shows a file of a layer that is not among these. */
export function isLeaving(node: Node, stay: ReadonlySet<Unit>): boolean {
  return node.kind === S_IFREG && !node.priv && node.unit !== null && !stay.has(node.unit);
}
