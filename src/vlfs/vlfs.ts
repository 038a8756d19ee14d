import { E, fstatfs, S_IFLNK, S_IFREG } from '../sys/index.ts';
import { reset } from './changes/reset.ts';
import { revert } from './changes/revert.ts';
import { readScanOnOpen } from './checks/scan-on-open.ts';
import type {
  ChangeWork,
  FreezeWork,
  FreshPrivate,
  PrivateFile,
  RelayerWork,
  SlowJob,
  StackSpec,
  StaleName,
  VfsOperations,
  VlfsSpec,
} from './contract.ts';
import type { Core, Node } from './core.ts';
import { takeFill } from './delta/fill.ts';
import { finishAdoption } from './exchange/carry-out.ts';
import { exchange } from './exchange/exchange.ts';
import { finishFresh } from './exchange/fresh-private.ts';
import { finishFreeze } from './freeze/finish.ts';
import { beginFreeze } from './freeze/freeze.ts';
import { type Revival, reuseHandles, revive } from './ledger/revive.ts';
import { readdir } from './listing/readdir.ts';
import { attrValidMs, fillAttr, fillFound, fillNegative } from './nodes/attributes.ts';
import { dropHandle } from './nodes/handles.ts';
import { movedKnown, movedKnownFor } from './nodes/moved-directories.ts';
import { forget } from './nodes/nodes.ts';
import { withOpensOnDemand } from './nodes/opens-on-demand.ts';
import { takePrunable } from './nodes/shares.ts';
import { everyName, namesOfPaths, privateNames, uncoveredNames } from './nodes/stale-names.ts';
import { closeCore, type OpenOptions, openCore } from './open-core.ts';
import * as creating from './operations/create-ops.ts';
import { catching, type Operations } from './operations/either.ts';
import { fileFlags, setFileFlags } from './operations/file-flags.ts';
import * as files from './operations/file-ops.ts';
import { fsyncdir } from './operations/fsync-directory.ts';
import { link } from './operations/link.ts';
import { checkName, confirm, nodeAt } from './operations/lookup.ts';
import { readlink } from './operations/readlink.ts';
import { rmdir, unlink } from './operations/remove-ops.ts';
import { rename } from './operations/rename.ts';
import { setattr } from './operations/set-attributes.ts';
import * as xattrs from './operations/xattrs.ts';
import { noteDenied } from './policy/enforce.ts';
import { dropAllParked } from './private-layer/parked-files.ts';
import { carryOn } from './private-layer/unfinished.ts';
import { takeCount } from './quota/count.ts';
import { withQuota } from './quota/guard.ts';
import { openQuota, readQuota, recount } from './quota/quota.ts';
import { beginRelayer, finishRelayer, relayer } from './relayer.ts';
import { finished, type Steps } from './steps.ts';

export interface VlfsStats {
  name: string;
  stackKey: string;
  levels: number;
  /** Objects that the kernel or an open handle knows. */
  nodes: number;
  openFiles: number;
  whiteouts: number;
}

/** A VLFS that is open. All methods run on the thread that opened it. */
export interface Vlfs extends VfsOperations {
  /** The names that the kernel must look up again after revert and reset, since the last call. */
  takeStaleNames(): StaleName[];
  /** Every name that the kernel may hold: after a takeover from a process that was killed while it changed names. */
  everyName(): StaleName[];
  /** After a takeover, when the requests that the kernel sent again have been answered. */
  resentAnswered(): void;
  /** Node ids of directories whose listing the kernel may keep, since the last call; those of `but` stay for a later one. */
  takeListed(but?: ReadonlySet<number>): number[];
  /** Node ids that the kernel should be asked to forget, because this VLFS remembers more than its share. */
  takePrunable(): number[];
  /** Node ids of all files that the kernel may have contents of. */
  knownFiles(): number[];
  /** Work that nobody waits for, or null. */
  takeBackgroundJob(): SlowJob | null;
  /**
   * Exchanges the stack in one step: every lookup afterwards sees the new one; open files keep their content. `privateFiles` are written with
   * it. Throws, with everything as before, when the new stack cannot be opened. The server must make the kernel look names up again.
   */
  relayer(stack: StackSpec, privateFiles?: readonly PrivateFile[]): void;
  /** The same in steps between which requests are served, with the names that the kernel must look up again around it. */
  beginRelayer(stack: StackSpec, privateFiles?: readonly PrivateFile[]): RelayerWork;
  /** Freezes the private layer: see VlfsControl. */
  beginFreeze(stack: StackSpec, dir: string): FreezeWork;
  /** Reads anew whether contents are judged before they are opened. */
  readScanOnOpen(): void;
  /** Reads the limits of what the appliance may take anew. */
  readQuota(): void;
  /** Shows shared originals again; returns the absolute paths that changed. The server must make the kernel look names up again. */
  revert(paths: readonly string[]): string[];
  /** A fresh private layer but for `keep`; who acknowledges it to a user syncs the file system first. The server must make the kernel look names up again. */
  reset(keep: readonly string[]): void;
  /** The same in steps, between which the server carries out no request of this VLFS. */
  beginRevert(paths: readonly string[]): ChangeWork<string[]>;
  beginReset(keep: readonly string[]): ChangeWork<void>;
  /** Another stack with what belongs to it: see VlfsControl. */
  beginExchange(stack: StackSpec, fresh: FreshPrivate | null): ChangeWork<void>;
  stats(): VlfsStats;
}

export interface VlfsOptions extends OpenOptions {
  /** Told about what became EIO. */
  onFault?: (operation: string, error: unknown) => void;
  /** What a killed process left; `ledger` is a new one. */
  revive?: Revival;
}

/** Opens a VLFS; throws a StrataError when its stack or its private layer cannot be opened. One at a time may be open for a private layer. */
export function openVlfs(spec: VlfsSpec, options: VlfsOptions = {}): Vlfs {
  const keepRelayer = options.revive?.content.decided === true;
  if (keepRelayer) finishFresh(spec);
  const core = openCore(spec, { background: true, ...options, keepRelayer });
  if (options.revive !== undefined) revive(core, options.revive);
  finishFreeze(core);
  core.quota = openQuota(core);
  if (keepRelayer) {
    finishRelayer(core);
    finishAdoption(core);
  }
  const operations = withOpensOnDemand(core, withQuota(core, operationsOf(core)));
  const caught = catching(operations, (operation, error) => {
    options.onFault?.(operation, error);
    return -E.IO;
  });
  return { ...controlOf(core), ...caught };
}

/**
 * A node that the server knows; null for a number that was never given out or was forgotten. A file that was private before the layer was frozen, or
 * frozen in another layer, becomes what it is now.
 */
function nodeOf(core: Core, id: number): Node | null {
  const node = core.nodes.get(id);
  if (node === undefined) return null;
  if (node.generation !== core.generation && node.children === null && core.hasFrozen) {
    const isOwn = node.priv || (node.unit !== null && node.unit.frozen !== null);
    if (isOwn && node.successor === null && node.parent !== null) confirm(core, node);
  }
  return node;
}

function operationsOf(core: Core): Operations {
  const directory = (id: number): Node | number => {
    const node = core.nodes.get(id);
    if (node === undefined) return -E.STALE;
    return node.children === null ? -E.NOTDIR : node;
  };
  return {
    init(capabilities) {
      core.passthrough = capabilities.passthrough;
      core.posixAcl = capabilities.posixAcl;
      core.noOpen = capabilities.noOpen;
      if (core.noOpen) core.demand?.adopt();
    },
    // What is judged at open must be told.
    wantsNoOpen: () => core.exact && core.scanOnOpen === null,
    lookup(caller, parentId, name, out) {
      const parent = directory(parentId);
      if (typeof parent === 'number') return parent;
      const bad = checkName(name);
      if (bad < 0) return bad;
      const node = nodeAt(core, parent, name);
      if (typeof node !== 'number') {
        core.whoLooks.looked(caller.pid, parentId);
        return movedKnownFor(core, caller, node) || fillFound(core, node, out);
      }
      if (node < 0) return node;
      fillNegative(out);
      if (core.stack.policy !== null) noteDenied(core, caller, parent, name, out);
      return 0;
    },
    forget(id, count) {
      forget(core, id, count);
    },
    getattr(caller, id, _fh, out) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : movedKnownFor(core, caller, node) || fillAttr(core, node, out);
    },
    attrValidMs(id, attr) {
      const node = nodeOf(core, id);
      return node === null ? 0 : attrValidMs(core, node, attr);
    },
    setattr(caller, id, change, out) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : setattr(core, caller, node, change, out);
    },
    readlink(_caller, id) {
      const node = nodeOf(core, id);
      if (node === null) return -E.STALE;
      if (node.kind !== S_IFLNK) return -E.INVAL;
      return readlink(core, node);
    },
    mknod(caller, parentId, name, mode, rdev, out) {
      const parent = directory(parentId);
      return typeof parent === 'number'
        ? parent
        : creating.mknod(core, caller, parent, name, mode, rdev, out);
    },
    mkdir(caller, parentId, name, mode, out) {
      const parent = directory(parentId);
      return typeof parent === 'number' ? parent : creating.mkdir(core, caller, parent, name, mode, out);
    },
    symlink(caller, parentId, name, target, out) {
      const parent = directory(parentId);
      return typeof parent === 'number' ? parent : creating.symlink(core, caller, parent, name, target, out);
    },
    link(caller, id, newParentId, newName, out) {
      const node = nodeOf(core, id);
      const parent = directory(newParentId);
      if (node === null) return -E.STALE;
      return typeof parent === 'number' ? parent : link(core, caller, node, parent, newName, out);
    },
    unlink(caller, parentId, name) {
      const parent = directory(parentId);
      return typeof parent === 'number'
        ? parent
        : movedKnown(core, caller) || unlink(core, caller, parent, name);
    },
    rmdir(caller, parentId, name) {
      const parent = directory(parentId);
      return typeof parent === 'number'
        ? parent
        : movedKnown(core, caller) || rmdir(core, caller, parent, name);
    },
    rename(caller, parentId, name, newParentId, newName, flags) {
      const parent = directory(parentId);
      const newParent = directory(newParentId);
      if (typeof parent === 'number') return parent;
      if (typeof newParent === 'number') return newParent;
      const ready = movedKnown(core, caller);
      if (ready !== 0) return ready;
      return rename(core, caller, { parent, name }, { parent: newParent, name: newName }, flags);
    },
    open(caller, id, flags, out) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : files.open(core, caller, node, flags, out);
    },
    create(caller, parentId, name, flags, mode, out, opened) {
      const parent = directory(parentId);
      if (typeof parent === 'number') return parent;
      return creating.create(core, caller, parent, name, flags, mode, out, opened);
    },
    tmpfile(caller, parentId, flags, mode, out, opened) {
      const parent = directory(parentId);
      if (typeof parent === 'number') return parent;
      return creating.tmpfile(core, caller, parent, flags, mode, out, opened);
    },
    read: (_caller, _id, fh, offset, into) => files.read(core, fh, offset, into),
    write: (caller, _id, fh, offset, from, killPriv) => files.write(core, caller, fh, offset, from, killPriv),
    flush: () => 0,
    release: (_id, fh) => dropHandle(core, fh),
    fsync: (caller, _id, fh, dataOnly) => files.fsync(core, caller, fh, dataOnly),
    opendir(_caller, id) {
      const node = directory(id);
      return typeof node === 'number' ? node : -E.NOSYS;
    },
    readdir(caller, id, _fh, cookie, sink) {
      const node = directory(id);
      return typeof node === 'number' ? node : readdir(core, caller, node, cookie, sink);
    },
    releasedir: () => 0,
    fsyncdir(caller, id, _fh, dataOnly) {
      const node = directory(id);
      return typeof node === 'number' ? node : fsyncdir(core, caller, node, dataOnly);
    },
    statfs: (_caller, _id, out) => statfs(core, out),
    getxattr(_caller, id, name) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : xattrs.getxattr(core, node, name);
    },
    listxattr(_caller, id) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : xattrs.listxattr(core, node);
    },
    setxattr(caller, id, name, value, flags, clearSgid) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : xattrs.setxattr(core, caller, node, name, value, flags, clearSgid);
    },
    removexattr(caller, id, name) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : xattrs.removexattr(core, caller, node, name);
    },
    fallocate: (caller, _id, fh, mode, offset, length) =>
      files.fallocate(core, caller, fh, mode, offset, length),
    fileFlags(_caller, id) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : fileFlags(core, node);
    },
    setFileFlags(caller, id, flags) {
      const node = nodeOf(core, id);
      return node === null ? -E.STALE : setFileFlags(core, caller, node, flags);
    },
    lseek: (_caller, _id, fh, offset, whence) => files.lseek(core, fh, offset, whence),
    copyFileRange: (caller, _in, fhIn, offsetIn, _out, fhOut, offsetOut, length) =>
      files.copyFileRange(core, caller, fhIn, offsetIn, fhOut, offsetOut, length),
    destroy() {
      if (core.rootFd >= 0) closeCore(core);
    },
  };
}

const fsStat = {
  type: 0,
  bsize: 0,
  blocks: 0,
  bfree: 0,
  bavail: 0,
  files: 0,
  ffree: 0,
  namelen: 0,
  frsize: 0,
};

/** The private layer's file system is what limits the appliance. */
function statfs(core: Core, out: Parameters<VfsOperations['statfs']>[2]): number {
  const result = fstatfs(core.rootFd, fsStat);
  if (result < 0) return result;
  const { blocks, bfree, bavail, files: total, ffree, bsize, frsize } = fsStat;
  Object.assign(out, { blocks, bfree, bavail, files: total, ffree, bsize, frsize, namelen: 255 });
  return 0;
}

/** Nothing in it waits for the blocking pool. */
function inSteps<T>(core: Core, steps: Steps<T>): ChangeWork<T> {
  return {
    step(untilMs) {
      const went = carryOn(core, steps, untilMs);
      if (went === 'more' || 'result' in went) return went;
      throw new Error(`${went.kind} in a change`);
    },
  };
}

function controlOf(core: Core): Omit<Vlfs, keyof VfsOperations> {
  let stale: StaleName[] = [];
  function* revertSteps(paths: readonly string[]): Steps<string[]> {
    yield* dropAllParked(core);
    let reverted: string[] = [];
    if (core.noOpen) yield* core.demand!.keepAll((node) => node.priv);
    try {
      reverted = yield* revert(core, paths);
      return reverted;
    } finally {
      recount(core);
      core.demand?.relax();
      stale = stale.concat(yield* namesOfPaths(core, [...paths, ...reverted]));
    }
  }
  function* resetSteps(keep: readonly string[]): Steps<void> {
    yield* dropAllParked(core);
    if (core.noOpen) yield* core.demand!.keepAll((node) => node.priv);
    const { names, closed } = yield* privateNames(core);
    yield* reset(core, keep);
    recount(core);
    core.demand?.relax();
    stale = stale.concat(names, yield* uncoveredNames(core, closed));
  }
  function* exchangeSteps(stack: StackSpec, fresh: FreshPrivate | null): Steps<void> {
    stale = stale.concat(yield* exchange(core, stack, fresh));
  }
  return {
    everyName: () => everyName(core),
    resentAnswered: () => reuseHandles(core),
    takeStaleNames: () => {
      const taken = stale;
      stale = [];
      return taken;
    },
    takeListed: (but) => {
      const taken = [...core.listed].filter((id) => but?.has(id) !== true);
      for (const id of taken) core.listed.delete(id);
      return taken;
    },
    takePrunable: () => takePrunable(core),
    knownFiles: () => [...core.nodes.values()].flatMap(({ id, kind }) => (kind === S_IFREG ? [id] : [])),
    takeBackgroundJob: () =>
      core.freezing ? null : ((core.fills.length === 0 ? null : takeFill(core)) ?? takeCount(core)),
    relayer: (stack, privateFiles) => relayer(core, stack, privateFiles),
    beginRelayer: (stack, privateFiles) => beginRelayer(core, stack, privateFiles),
    beginFreeze: (stack, dir) => beginFreeze(core, stack, dir),
    readScanOnOpen: () => {
      core.scanOnOpen = readScanOnOpen(core.privateDir);
    },
    readQuota: () => readQuota(core),
    revert: (paths) => finished(revertSteps(paths)),
    reset: (keep) => finished(resetSteps(keep)),
    beginRevert: (paths) => inSteps(core, revertSteps(paths)),
    beginReset: (keep) => inSteps(core, resetSteps(keep)),
    beginExchange: (stack, fresh) => inSteps(core, exchangeSteps(stack, fresh)),
    stats: () => ({
      name: core.name,
      stackKey: core.stack.spec.key,
      levels: core.stack.units.length,
      nodes: core.nodes.size,
      openFiles: core.handles.reduce((sum, handle) => sum + (handle === null ? 0 : 1), 0),
      whiteouts: core.hidden.count,
    }),
  };
}
