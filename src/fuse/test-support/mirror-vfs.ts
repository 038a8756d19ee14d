/**
 * A plain VFS for tests of the protocol and the loop: it shows a directory of the host one to one (stack.key is its path), and a relayer
 * exchanges that directory. Not hardened and not fast; the layered file system is in vlfs/.
 */
import type { Name } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import {
  type Attr,
  type Caller,
  type EntryOut,
  type OpenOut,
  PENDING,
  type SetAttrIn,
  type SlowJob,
  type StackSpec,
  type StaleName,
  type VfsOperations,
  type VlfsSpec,
} from '../../vlfs/contract.ts';
import { FATTR } from '../abi/constants.ts';
import type { ServedVlfs } from '../loop/served-vlfs.ts';

interface MirrorNode {
  id: number;
  path: string;
  lookups: number;
}

const DAY_MS = 24 * 3600 * 1000;

export function openVlfs(spec: VlfsSpec): ServedVlfs {
  let root = spec.stack.key;
  const byId = new Map<number, MirrorNode>();
  const byPath = new Map<string, MirrorNode>();
  const directories = new Map<number, { name: string; type: number; ino: number }[]>();
  const files = new Map<number, number>();
  /** Paths the kernel may have cached, absent ones too. */
  const asked = new Set<string>();
  let nextNode = 2;
  let passthrough = false;
  let slowCopy: SlowJob | null = null;
  let slowDone = false;
  const stat = sys.newStat();
  const rootNode: MirrorNode = { id: 1, path: '', lookups: 1 };
  byId.set(1, rootNode);
  byPath.set('', rootNode);

  const full = (path: string): string => root + path;
  const child = (parent: number, name: string): string => `${byId.get(parent)?.path ?? '/gone'}/${name}`;

  function fillAttr(out: Attr): void {
    const { dev: _dev, ...rest } = stat;
    Object.assign(out, rest);
  }

  function attrOf(path: string, out: Attr): number {
    const errno = sys.statAt(sys.AT_FDCWD, full(path) || '/', stat);
    if (errno < 0) return errno;
    fillAttr(out);
    return 0;
  }

  function entryFor(path: string, out: EntryOut): number {
    const errno = attrOf(path, out.attr);
    out.entryValidMs = DAY_MS;
    out.attrValidMs = DAY_MS;
    out.generation = 0;
    asked.add(path);
    if (errno < 0) {
      out.nodeId = 0;
      return errno === -sys.E.NOENT ? 0 : errno;
    }
    let node = byPath.get(path);
    if (node === undefined) {
      node = { id: nextNode++, path, lookups: 0 };
      byId.set(node.id, node);
      byPath.set(path, node);
    }
    node.lookups++;
    out.nodeId = node.id;
    return 0;
  }

  function own(path: string, caller: Caller): void {
    sys.fchownat(sys.AT_FDCWD, full(path), caller.uid, caller.gid);
  }

  function opened(fd: number, out: OpenOut): number {
    if (fd < 0) return fd;
    files.set(fd, fd);
    out.fh = fd;
    out.backingFd = passthrough ? fd : -1;
    out.backingReadOnly = false;
    out.directIo = false;
    out.keepCache = true;
    out.keepsBacking = false;
    return 0;
  }

  function made(result: number, path: string, caller: Caller, out: EntryOut): number {
    if (result < 0) return result;
    own(path, caller);
    return entryFor(path, out);
  }

  function moved(from: string, to: string): void {
    for (const [path, node] of [...byPath]) {
      if (path !== from && !path.startsWith(`${from}/`)) continue;
      byPath.delete(path);
      node.path = to + path.slice(from.length);
      byPath.set(node.path, node);
    }
  }

  const ops: VfsOperations = {
    init(capabilities) {
      passthrough = capabilities.passthrough && !spec.name.endsWith('-plain');
    },
    lookup: (_c, parent, name, out) => {
      if (name === 'slow-copy' && !slowDone) {
        slowCopy ??= {
          kind: 'copy-data',
          // biome-ignore lint/suspicious/noThenProperty: the contract's field
          then: 'retry',
          fromFd: sys.openat(sys.AT_FDCWD, full('/big'), sys.O_RDONLY),
          toFd: sys.openat(sys.AT_FDCWD, full('/slow-copy'), sys.O_RDWR | sys.O_CREAT | sys.O_TRUNC, 0o600),
          sizeBytes: 2 ** 29,
          done: () => {
            slowDone = true;
          },
        };
        _c.job = slowCopy;
        return PENDING;
      }
      return entryFor(child(parent, name), out);
    },
    forget(id, count) {
      const node = byId.get(id);
      if (node === undefined || id === 1) return;
      node.lookups -= count;
      if (node.lookups > 0) return;
      byId.delete(id);
      if (byPath.get(node.path) === node) byPath.delete(node.path);
    },
    attrValidMs: () => DAY_MS,
    getattr(_c, id, fh, out) {
      if (fh >= 0 && files.has(fh)) {
        const errno = sys.fstat(fh, stat);
        if (errno === 0) fillAttr(out);
        return errno;
      }
      const node = byId.get(id);
      return node === undefined ? -sys.E.STALE : attrOf(node.path, out);
    },
    setattr(_c, id, change: SetAttrIn, out) {
      const node = byId.get(id);
      if (node === undefined) return -sys.E.STALE;
      const path = full(node.path);
      const { valid } = change;
      if ((valid & FATTR.MODE) !== 0) sys.fchmodat(sys.AT_FDCWD, path, change.mode & 0o7777);
      if ((valid & (FATTR.UID | FATTR.GID)) !== 0)
        sys.fchownat(
          sys.AT_FDCWD,
          path,
          (valid & FATTR.UID) !== 0 ? change.uid : 0xffffffff,
          (valid & FATTR.GID) !== 0 ? change.gid : 0xffffffff,
        );
      if ((valid & FATTR.SIZE) !== 0) {
        const fd = sys.openat(sys.AT_FDCWD, path, sys.O_WRONLY);
        if (fd < 0) return fd;
        sys.ftruncate(fd, change.size);
        sys.close(fd);
      }
      if ((valid & (FATTR.ATIME | FATTR.MTIME)) !== 0)
        sys.utimensat(
          sys.AT_FDCWD,
          path,
          change.atimeSec,
          (valid & FATTR.ATIME) !== 0 ? change.atimeNsec : sys.UTIME_OMIT,
          change.mtimeSec,
          (valid & FATTR.MTIME) !== 0 ? change.mtimeNsec : sys.UTIME_OMIT,
        );
      return attrOf(node.path, out);
    },
    readlink(_c, id) {
      const node = byId.get(id);
      return node === undefined
        ? -sys.E.STALE
        : (sys.readlinkat(sys.AT_FDCWD, full(node.path)) as Name | number);
    },
    mknod(c, parent, name, mode, rdev, out) {
      const path = child(parent, name);
      return made(sys.mknodat(sys.AT_FDCWD, full(path), mode, rdev), path, c, out);
    },
    mkdir(c, parent, name, mode, out) {
      const path = child(parent, name);
      return made(sys.mkdirat(sys.AT_FDCWD, full(path), mode & ~c.umask), path, c, out);
    },
    symlink(c, parent, name, target, out) {
      const path = child(parent, name);
      return made(sys.symlinkat(target, sys.AT_FDCWD, full(path)), path, c, out);
    },
    link(_c, id, parent, name, out) {
      const node = byId.get(id);
      if (node === undefined) return -sys.E.STALE;
      const path = child(parent, name);
      const errno = sys.linkat(sys.AT_FDCWD, full(node.path), sys.AT_FDCWD, full(path));
      if (errno < 0) return errno;
      return entryFor(path, out);
    },
    unlink: (_c, parent, name) => {
      const path = child(parent, name);
      byPath.delete(path);
      return sys.unlinkat(sys.AT_FDCWD, full(path));
    },
    rmdir: (_c, parent, name) => {
      const path = child(parent, name);
      byPath.delete(path);
      return sys.unlinkat(sys.AT_FDCWD, full(path), sys.AT_REMOVEDIR);
    },
    rename(_c, parent, name, newParent, newName, flags) {
      const from = child(parent, name);
      const to = child(newParent, newName);
      const errno = sys.renameat2(sys.AT_FDCWD, full(from), sys.AT_FDCWD, full(to), flags);
      if (errno === 0) moved(from, to);
      return errno;
    },
    open(_c, id, flags, out) {
      const node = byId.get(id);
      if (node === undefined) return -sys.E.STALE;
      return opened(sys.openat(sys.AT_FDCWD, full(node.path), flags & ~0o100), out);
    },
    create(c, parent, name, flags, mode, out, open) {
      const path = child(parent, name);
      const fd = sys.openat(sys.AT_FDCWD, full(path), flags | sys.O_CREAT, mode & ~c.umask & 0o7777);
      if (fd < 0) return fd;
      own(path, c);
      const errno = entryFor(path, out);
      return errno < 0 ? errno : opened(fd, open);
    },
    tmpfile: () => -sys.E.OPNOTSUPP,
    read: (_c, _id, fh, offset, into) => sys.pread(fh, into, into.length, offset),
    write: (_c, _id, fh, offset, from) => sys.pwrite(fh, from, from.length, offset),
    flush: () => 0,
    release(_id, fh) {
      if (!files.delete(fh)) return 0;
      return sys.close(fh);
    },
    fsync(c, _id, fh, dataOnly) {
      // biome-ignore lint/suspicious/noThenProperty: the contract's field
      c.job = { kind: 'fsync', then: 'reply', fd: fh, dataOnly };
      return PENDING;
    },
    opendir(_c, id, out) {
      const node = byId.get(id);
      if (node === undefined) return -sys.E.STALE;
      const fd = sys.openat(sys.AT_FDCWD, full(node.path) || '/', sys.O_RDONLY | sys.O_DIRECTORY);
      if (fd < 0) return fd;
      const list = sys.readDirectory(fd);
      if (typeof list === 'number') return list;
      out.keepCache = false;
      directories.set(fd, [
        { name: '.', type: sys.DT_DIR, ino: 1 },
        { name: '..', type: sys.DT_DIR, ino: 1 },
        ...list,
      ]);
      out.fh = fd;
      return 0;
    },
    readdir(_c, id, fh, cookie, sink) {
      const list = directories.get(fh);
      const node = byId.get(id);
      if (list === undefined || node === undefined) return -sys.E.BADF;
      const entry: EntryOut = { nodeId: 0, generation: 0, attr: {} as Attr, entryValidMs: 0, attrValidMs: 0 };
      for (let i = cookie; i < list.length; i++) {
        const { name, type, ino } = list[i]!;
        if (!sink.plus) {
          if (!sink.add(name as Name, ino, type, i + 1)) return 0;
          continue;
        }
        if (!sink.hasRoomFor(name as Name)) return 0;
        if (i < 2) {
          attrOf(node.path, entry.attr);
          entry.nodeId = 0;
        } else entryFor(`${node.path}/${name}`, entry);
        sink.addPlus(name as Name, i + 1, type, entry);
      }
      return 0;
    },
    releasedir(_id, fh) {
      if (!directories.delete(fh)) return 0;
      return sys.close(fh);
    },
    fsyncdir: () => 0,
    statfs(_c, _id, out) {
      const fd = sys.openat(sys.AT_FDCWD, root, sys.O_PATH);
      const found = { type: 0, ...out };
      const errno = sys.fstatfs(fd, found);
      sys.close(fd);
      Object.assign(out, found);
      return errno;
    },
    getxattr: () => -sys.E.NODATA,
    listxattr: () => new Uint8Array(0),
    setxattr: () => -sys.E.OPNOTSUPP,
    removexattr: () => -sys.E.OPNOTSUPP,
    fallocate(c, _id, fd, mode, offset, length) {
      // biome-ignore lint/suspicious/noThenProperty: the contract's field
      c.job = { kind: 'fallocate', then: 'reply', fd, mode, offset, length };
      return PENDING;
    },
    fileFlags: () => -sys.E.NOTTY,
    setFileFlags: () => -sys.E.NOTTY,
    lseek: (_c, _id, fh, offset, whence) => sys.lseek(fh, offset, whence),
    copyFileRange(c, _n, fromFd, fromOffset, _n2, toFd, toOffset, sizeBytes) {
      // biome-ignore lint/suspicious/noThenProperty: the contract's field
      c.job = { kind: 'copy-range', then: 'reply', fromFd, fromOffset, toFd, toOffset, sizeBytes };
      return PENDING;
    },
    destroy() {
      for (const fd of [...files.keys(), ...directories.keys()]) sys.close(fd);
    },
  };
  const relayer = (stack: StackSpec): void => {
    root = stack.key;
    // New content is a new inode, as vlfs/ does it.
    for (const node of [...byPath.values()]) {
      if (node.id === 1 || sys.statAt(sys.AT_FDCWD, full(node.path), stat) < 0) continue;
      if ((stat.mode & sys.S_IFMT) !== sys.S_IFDIR) byPath.delete(node.path);
    }
  };
  return {
    ...ops,
    relayer,
    beginRelayer: (stack) => ({
      step: () => 'ready',
      names() {
        const names: StaleName[] = [];
        for (const path of asked) {
          const slash = path.lastIndexOf('/');
          const parent = byPath.get(path.slice(0, slash));
          if (parent !== undefined) names.push({ parent: parent.id, name: path.slice(slash + 1) as Name });
        }
        return names;
      },
      unchanged: () => new Set(),
      commit: () => relayer(stack),
      abort() {},
    }),
    takeStaleNames: () => [],
    beginRevert: (paths) => ({ step: () => ({ result: paths }) }),
    beginReset: () => ({ step: () => ({ result: undefined }) }),
    stats: () => ({ openFiles: files.size }),
  };
}
