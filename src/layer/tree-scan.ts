/**
 * The entries of a directory tree on disk, as the tree index wants them. Names are bytes; no symlink is ever followed (every open
 * is beneath the root's descriptor); a file that changes its type meanwhile is an error, not a hang. One directory is open at a time.
 */
import { createHash, hash } from 'node:crypto';
import type { Digest, Name } from '../base/index.ts';
import { LIMITS, nameToText, StrataError } from '../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  getxattrAt,
  listxattrAt,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  openat,
  openat2,
  pread,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  readDirectory,
  readlinkat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  type Stat,
  splitXattrList,
  statAt,
} from '../sys/index.ts';
import { checked, systemError } from './checked.ts';
import { turnKeeper } from './give-way.ts';
import { blocksFor, type TreeEntry } from './tree-index-build.ts';

export interface ScanOptions {
  /** The tree is an overlayfs upper directory: its `trusted.overlay.*` attributes belong to it. Default false: they are left out. */
  overlay?: boolean;
  /** Compute the SHA-256 of every regular file; default true. */
  digests?: boolean;
  /** The digest of a regular file's content where it is known already, so that it need not be read. */
  knownDigest?: (path: Name, stat: Readonly<Stat>) => Digest | null;
}

/** All entries of the tree at `dir` (root first), as an async function that lets the event loop run every few milliseconds. */
export async function scanTree(dir: string, options: ScanOptions = {}): Promise<TreeEntry[]> {
  const steps = scanSteps(dir, options);
  const giveWay = turnKeeper();
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
    const turn = giveWay();
    if (turn !== undefined) await turn;
  }
}

/** As scanTree, without giving way. For small trees. */
export function scanTreeSync(dir: string, options: ScanOptions = {}): TreeEntry[] {
  const steps = scanSteps(dir, options);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

function* scanSteps(dir: string, options: ScanOptions): Generator<void, TreeEntry[]> {
  const { overlay = false, digests = true, knownDigest = () => null } = options;
  const root = openat(AT_FDCWD, Buffer.from(dir).toString('latin1'), O_PATH | O_DIRECTORY | O_CLOEXEC);
  checked(root, 'open', dir);
  const entries: TreeEntry[] = [];
  const digestOfInode = new Map<string, Digest>();
  const stat = newStat();
  try {
    checked(statAt(root, '.', stat), 'stat', dir);
    entries.push(record(stat, '' as Name, xattrsOf(root, '.', '', overlay)));
    const pending: string[] = [''];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      const fd = checked(
        openat2(
          root,
          path === '' ? '.' : path,
          O_RDONLY | O_DIRECTORY | O_CLOEXEC,
          0,
          RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
        ),
        'open',
        `${dir}/${path}`,
      );
      try {
        const names = readDirectory(fd);
        if (typeof names === 'number') throw systemError(names, 'getdents', `${dir}/${path}`);
        for (const { name } of names) {
          const childPath = (path === '' ? name : `${path}/${name}`) as Name;
          if (entries.length >= LIMITS.layerEntries) {
            throw new StrataError('LIMIT', `${dir} holds more than ${LIMITS.layerEntries} entries`);
          }
          if (childPath.length > LIMITS.pathBytes) throw tooLong(childPath);
          checked(statAt(fd, name, stat), 'stat', `${dir}/${childPath}`);
          const type = stat.mode & S_IFMT;
          if (type === S_IFSOCK) continue; // A socket without its process is nothing; tar and dpkg leave them out too.
          const entry = record(stat, childPath, xattrsOf(fd, name, `${dir}/${childPath}`, overlay));
          if (stat.nlink > 1 && type !== S_IFDIR) entry.inode = `${stat.dev}:${stat.ino}`;
          if (type === S_IFDIR) pending.push(childPath);
          else if (type === S_IFLNK) {
            const target = readlinkat(fd, name);
            if (typeof target === 'number') throw systemError(target, 'readlink', `${dir}/${childPath}`);
            entry.linkTarget = target as Name;
            entry.size = target.length;
          } else if (type === S_IFREG && digests) {
            const known = entry.inode === undefined ? undefined : digestOfInode.get(entry.inode as string);
            entry.digest =
              known ??
              knownDigest(childPath, stat) ??
              (yield* digestFile(fd, name, `${dir}/${childPath}`, stat.size));
            if (entry.inode !== undefined) digestOfInode.set(entry.inode as string, entry.digest);
          }
          entries.push(entry);
          yield;
        }
      } finally {
        close(fd);
      }
    }
    return entries;
  } finally {
    close(root);
  }
}

function tooLong(path: Name): StrataError {
  const shown = nameToText(path.slice(0, 120));
  return new StrataError('LIMIT', `a path is longer than ${LIMITS.pathBytes} bytes: /${shown}...`);
}

function record(stat: Stat, path: Name, xattrs: Map<Name, Uint8Array> | undefined): TreeEntry {
  const type = stat.mode & S_IFMT;
  const entry: TreeEntry = {
    path,
    mode: stat.mode,
    uid: stat.uid,
    gid: stat.gid,
    size: type === S_IFREG ? stat.size : 0,
    mtimeSec: stat.mtimeSec,
    mtimeNsec: stat.mtimeNsec,
  };
  if (type === S_IFREG && stat.blocks < blocksFor(stat.size)) entry.blocks = stat.blocks;
  if (type === S_IFCHR || type === S_IFBLK) entry.rdev = stat.rdev;
  if (xattrs !== undefined) entry.xattrs = xattrs;
  return entry;
}

/** Attributes that belong to the host or the file system, not to the tree. */
const HOST_XATTR =
  /^(security\.(selinux|ima|evm|apparmor|SMACK64.*)|system\.(?!posix_acl_).*|btrfs\..*|trusted\.strata\..*)$/s;

/** What a private layer says to the policies of clones, which read it in its index. */
const POLICY_XATTRS = new Set(['trusted.strata.nonclonable', 'trusted.strata.was']);

/** True when an extended attribute belongs to a tree and so into its index. */
export function isTreeXattr(name: string, overlay: boolean): boolean {
  if (POLICY_XATTRS.has(name)) return overlay;
  return !HOST_XATTR.test(name) && (overlay || !name.startsWith('trusted.overlay.'));
}

/** The extended attributes of a name that belong to the tree; undefined when there are none. */
function xattrsOf(
  dirfd: number,
  name: string,
  path: string,
  overlay: boolean,
): Map<Name, Uint8Array> | undefined {
  const list = listxattrAt(dirfd, name);
  if (typeof list === 'number') {
    if (list === -E.OPNOTSUPP) return undefined;
    throw systemError(list, 'listxattr', path);
  }
  let found: Map<Name, Uint8Array> | undefined;
  for (const attribute of splitXattrList(list)) {
    if (!isTreeXattr(attribute, overlay)) continue;
    const value = getxattrAt(dirfd, name, attribute);
    if (value === -E.NODATA) continue;
    if (typeof value === 'number') throw systemError(value, 'getxattr', path);
    found ??= new Map();
    found.set(attribute as Name, value);
  }
  return found;
}

const CHUNK_BYTES = 1 << 20;
const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);

/** SHA-256 of a regular file's content; gives way after each MiB (a step may share `chunk`: it is used up before). */
function* digestFile(dirfd: number, name: string, path: string, size: number): Generator<void, Digest> {
  const fd = checked(openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), 'open', path);
  try {
    const first = checked(pread(fd, chunk, CHUNK_BYTES, 0), 'read', path);
    if (first === size && first < CHUNK_BYTES)
      return hash('sha256', chunk.subarray(0, first), 'hex') as Digest;
    const digest = createHash('sha256').update(chunk.subarray(0, first));
    for (let at = first; ; ) {
      yield;
      const got = checked(pread(fd, chunk, CHUNK_BYTES, at), 'read', path);
      if (got === 0) return digest.digest('hex') as Digest;
      digest.update(chunk.subarray(0, got));
      at += got;
    }
  } finally {
    close(fd);
  }
}
