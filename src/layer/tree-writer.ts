/**
 * Writing the tree of a new unit: each entry is created (never opened) by name in its directory's descriptor with O_EXCL and O_NOFOLLOW, gets owner,
 * mode, attributes and times, and is hashed while it is written, so that the index needs no second pass. Refuses anything below a non-directory.
 * Directories get their attributes at finish(), when nothing is written in them any more. Makes nothing durable.
 */
import type { Digest, Name } from '../base/index.ts';
import { FormatError, LIMITS, StrataError } from '../base/index.ts';
import {
  close,
  dup,
  E,
  fchmod,
  fchmodat,
  fchown,
  fchownat,
  fsetxattr,
  futimens,
  linkat,
  mkdirat,
  mknodat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_WRONLY,
  openat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  setxattrAt,
  symlinkat,
  unlinkat,
  utimensat,
} from '../sys/index.ts';
import { checked } from './checked.ts';
import { openDirectoryHandles } from './directory-handles.ts';
import { type FileContent, writeContent } from './file-content.ts';
import type { TreeEntry } from './tree-index-build.ts';
import { isTreeXattr } from './tree-scan.ts';

export interface Attributes {
  /** 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  mtimeSec: number;
  mtimeNsec: number;
  xattrs?: ReadonlyMap<Name, Uint8Array>;
}

export interface TreeWriterOptions {
  /** Descriptor of the empty directory to fill. */
  rootFd: number;
  /** For messages: the package or directory that is being read. */
  label: string;
  /** Whiteouts (0:0 devices) and trusted.overlay.* are allowed: a config layer. */
  overlay?: boolean;
}

export interface TreeWriter {
  readonly entries: ReadonlyMap<string, TreeEntry>;
  readonly totalBytes: number;
  directory(path: Name, attributes: Attributes): void;
  /** Resolves to the content's SHA-256 and, when wanted, its MD5. */
  file(path: Name, attributes: Attributes, content: FileContent): Promise<{ sha256: Digest; md5?: string }>;
  symlink(path: Name, attributes: Attributes, target: Name): void;
  /** A further name of the file at `leader`. */
  hardLink(path: Name, leader: Name): void;
  /** type: S_IFCHR, S_IFBLK or S_IFIFO. */
  special(path: Name, attributes: Attributes, type: number, rdev: number): void;
  /** Takes back a non-directory, because another entry wins its name. */
  remove(path: Name): void;
  /** Gives the directories their attributes; those that no entry described are root's, 0755, of the newest time seen. All entries, root first. */
  finish(): TreeEntry[];
  /** Closes descriptors; to be called in any case. */
  close(): void;
}

const NEW_FILE = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;

export function openTreeWriter(options: TreeWriterOptions): TreeWriter {
  const { rootFd, label, overlay = false } = options;
  const handles = openDirectoryHandles(rootFd);
  const entries = new Map<string, TreeEntry>();
  /** Directories made because something below them came first. */
  const implied = new Set<string>();
  const umask = process.umask();
  let totalBytes = 0;
  let newestSec = 0;

  function refuse(path: string, what: string): never {
    throw new FormatError(label, 0, `${JSON.stringify(path)} ${what}`);
  }

  function split(path: Name): [directory: string, name: string] {
    const slash = path.lastIndexOf('/');
    const name = path.slice(slash + 1);
    if (name === '' || name === '.' || name === '..' || name.includes('\0'))
      refuse(path, 'is not a possible file name');
    if (name.length > LIMITS.nameBytes || path.length > LIMITS.pathBytes) refuse(path, 'is too long a name');
    return [slash < 0 ? '' : path.slice(0, slash), name];
  }

  /** Descriptor of the parent directory (made when it is missing) and the last component of a path that must be new. */
  function place(path: Name): [dirfd: number, name: string] {
    const [directory, name] = split(path);
    if (entries.has(path)) refuse(path, 'occurs twice');
    requireDirectory(directory as Name);
    if (entries.size >= LIMITS.layerEntries) {
      throw new StrataError('LIMIT', `${label} has more than ${LIMITS.layerEntries} entries`);
    }
    return [handles.of(directory), name];
  }

  function requireDirectory(path: Name): void {
    const entry = entries.get(path);
    if (entry === undefined) {
      makeDirectory(path);
      implied.add(path);
    } else if ((entry.mode & S_IFMT) !== S_IFDIR)
      refuse(path, 'is not a directory, but something is below it');
  }

  function makeDirectory(path: Name): void {
    if (path !== '') {
      const [dirfd, name] = place(path);
      checked(mkdirat(dirfd, name, 0o700), 'mkdir', path);
    }
    const attributes = { uid: 0, gid: 0, size: 0, mtimeSec: 0, mtimeNsec: 0 };
    entries.set(path, { path, mode: S_IFDIR | 0o755, ...attributes });
  }

  function keptXattrs(attributes: Attributes): Map<Name, Uint8Array> | undefined {
    if (attributes.xattrs === undefined || attributes.xattrs.size === 0) return undefined;
    const kept = [...attributes.xattrs].filter(([name]) => isTreeXattr(name, overlay));
    return kept.length === 0 ? undefined : new Map(kept);
  }

  function record(path: Name, type: number, attributes: Attributes, more: Partial<TreeEntry>): TreeEntry {
    const { uid, gid, mtimeSec, mtimeNsec } = attributes;
    const mode = type | (attributes.mode & 0o7777);
    const entry: TreeEntry = { path, mode, uid, gid, size: 0, mtimeSec, mtimeNsec, ...more };
    const xattrs = keptXattrs(attributes);
    if (xattrs !== undefined) entry.xattrs = xattrs;
    if (mtimeSec > newestSec) newestSec = mtimeSec;
    return entry;
  }

  function checkXattr(result: number, attribute: string, path: string): void {
    if (result === -E.OPNOTSUPP) {
      throw new StrataError(
        'UNSUPPORTED',
        `${label}: ${path} has ${attribute}, which the repository's file system cannot store`,
        {
          hint: 'keep the repository on a local file system such as ext4, XFS or btrfs',
        },
      );
    }
    checked(result, `setxattr ${attribute}`, path);
  }

  /** Owner, mode, attributes, times of a name that is not a symlink (mode) or is one (not). */
  function applyAt(dirfd: number, name: string, entry: TreeEntry): void {
    const { path, uid, gid, mode } = entry;
    checked(fchownat(dirfd, name, uid, gid), 'chown', path);
    if ((mode & S_IFMT) !== S_IFLNK) checked(fchmodat(dirfd, name, mode & 0o7777), 'chmod', path);
    for (const [attribute, value] of entry.xattrs ?? []) {
      checkXattr(setxattrAt(dirfd, name, attribute, value), attribute, path);
    }
    const { mtimeSec: sec, mtimeNsec: nsec } = entry;
    checked(utimensat(dirfd, name, sec, nsec, sec, nsec), 'utimensat', path);
  }

  return {
    entries,
    get totalBytes() {
      return totalBytes;
    },

    directory(path, attributes) {
      const known = entries.get(path);
      if (known === undefined) makeDirectory(path);
      else if ((known.mode & S_IFMT) !== S_IFDIR) refuse(path, 'occurs twice, once not as a directory');
      entries.set(path, record(path, S_IFDIR, attributes, {}));
      implied.delete(path);
    },

    async file(path, attributes, content) {
      const [dirfd, name] = place(path);
      totalBytes += content.sizeBytes;
      if (totalBytes > LIMITS.layerBytes) {
        throw new StrataError('LIMIT', `${label} has more than ${LIMITS.layerBytes} bytes of files`);
      }
      const { mode, uid, gid } = attributes;
      const plain = (mode & (umask | 0o7000)) === 0;
      const fd = checked(openat(dirfd, name, NEW_FILE, plain ? mode : 0o600), 'create', path);
      // The entry stands before the first wait, so that a second one of the same name is refused.
      const entry = record(path, S_IFREG, attributes, { size: content.sizeBytes });
      entries.set(path, entry);
      try {
        const written = await writeContent(fd, path, label, content);
        entry.digest = written.sha256;
        if (written.blocks !== undefined) entry.blocks = written.blocks;
        checked(fchown(fd, uid, gid), 'chown', path);
        if (!plain) checked(fchmod(fd, mode & 0o7777), 'chmod', path);
        for (const [attribute, value] of entry.xattrs ?? []) {
          checkXattr(fsetxattr(fd, attribute, value), attribute, path);
        }
        checked(
          futimens(fd, entry.mtimeSec, entry.mtimeNsec, entry.mtimeSec, entry.mtimeNsec),
          'utimens',
          path,
        );
        return written;
      } finally {
        close(fd);
      }
    },

    symlink(path, attributes, target) {
      if (target === '' || target.length > LIMITS.symlinkBytes || target.includes('\0')) {
        refuse(path, 'has an impossible link target');
      }
      const [dirfd, name] = place(path);
      checked(symlinkat(target, dirfd, name), 'symlink', path);
      const entry = record(
        path,
        S_IFLNK,
        { ...attributes, mode: 0o777 },
        { linkTarget: target, size: target.length },
      );
      applyAt(dirfd, name, entry);
      entries.set(path, entry);
    },

    hardLink(path, leader) {
      const to = entries.get(leader);
      if (to === undefined)
        refuse(path, `is a hard link to ${JSON.stringify(leader)}, which is not there before it`);
      if ((to.mode & S_IFMT) === S_IFDIR) refuse(path, 'is a hard link to a directory');
      place(path);
      const [leaderDirectory, leaderName] = split(leader);
      const [directory, name] = split(path);
      // A second lookup may close the first one's descriptor.
      const fromFd = checked(dup(handles.of(leaderDirectory)), 'dup', leader);
      try {
        checked(linkat(fromFd, leaderName, handles.of(directory), name), 'link', path);
      } finally {
        close(fromFd);
      }
      to.inode ??= leader;
      entries.set(path, { ...to, path });
    },

    special(path, attributes, type, rdev) {
      if (type !== S_IFCHR && type !== S_IFBLK && type !== S_IFIFO) refuse(path, 'is of an unknown type');
      if (type === S_IFCHR && rdev === 0 && !overlay)
        refuse(path, 'is a whiteout, which a package cannot hold');
      const [dirfd, name] = place(path);
      checked(mknodat(dirfd, name, type | 0o600, rdev), 'mknod', path);
      const entry = record(path, type, attributes, type === S_IFIFO ? {} : { rdev });
      applyAt(dirfd, name, entry);
      entries.set(path, entry);
    },

    remove(path) {
      const entry = entries.get(path);
      if (entry === undefined || (entry.mode & S_IFMT) === S_IFDIR) refuse(path, 'cannot be replaced');
      const [directory, name] = split(path);
      checked(unlinkat(handles.of(directory), name), 'unlink', path);
      entries.delete(path);
    },

    finish() {
      if (!entries.has('')) {
        makeDirectory('' as Name);
        implied.add('');
      }
      const sorted = [...entries.values()].filter((entry) => (entry.mode & S_IFMT) === S_IFDIR);
      for (const entry of sorted.sort((a, b) => (a.path < b.path ? -1 : 1))) {
        if (implied.has(entry.path)) entry.mtimeSec = newestSec;
        if (entry.path === '') continue;
        const [directory, name] = split(entry.path);
        applyAt(handles.of(directory), name, entry);
      }
      applyAt(rootFd, '.', entries.get('')!);
      return [...entries.values()];
    },

    close() {
      handles.close();
    },
  };
}
