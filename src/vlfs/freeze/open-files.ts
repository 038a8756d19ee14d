/**
 * The private files that somebody has open, with all their names: what stays the appliance's live inode when its private layer is frozen. Names that nobody
 * looked up are found by one walk through the private layer, which is made only when an open file has such names.
 */

import {
  close,
  type DirectoryEntry,
  DT_DIR,
  fstat,
  newStat,
  O_APPEND,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  readSomeEntries,
  statAt,
} from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Backing, Core, Node } from '../core.ts';
import { nodeAt, refresh } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import type { Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

export interface OpenFile {
  node: Node;
  /** A descriptor of the file. */
  fd: number;
  /** What that belongs to: without opens it is closed. */
  backing: Backing;
  /** The kernel keeps its content in the page cache of the mount. */
  cached: boolean;
  /** Opens that may change what it holds now: all for writing but those that only append. */
  changers: number;
  /** When it was found. */
  nlink: number;
  sizeBytes: number;
  names: { parent: Node; name: string }[];
}

const O_ACCMODE = 3;

const stat = newStat();

/** Open files that the private layer has under some name. What was deleted, or never had a name, is nobody else's anyway. */
export function openFiles(core: Core): OpenFile[] {
  const found = new Map<Node, OpenFile>();
  for (const handle of core.handles) {
    if (handle === null || handle.backing === null || handle.backing.shared || handle.backing.fd < 0)
      continue;
    const { node, backing } = handle;
    const changers = mayChange(handle.flags) ? 1 : 0;
    const other = found.get(node);
    if (other !== undefined) other.changers += changers;
    if (!node.priv || node.parent === null || other !== undefined) continue;
    if (fstat(backing.fd, stat) < 0 || stat.ino !== node.privIno) continue;
    const { nlink, size: sizeBytes } = stat;
    const known = [{ parent: node.parent, name: node.name }, ...(node.moreNames?.values() ?? [])];
    const names = known.filter(({ parent, name }) => isAt(core, node, parent, name));
    const cached = backing.cached || !core.passthrough;
    if (names.length === 0) continue;
    found.set(node, { node, fd: backing.fd, backing, cached, changers, nlink, sizeBytes, names });
  }
  return [...found.values()];
}

/** Whether by this open the content may change otherwise than by growing. The kernel opens the file itself for appending, so that stays as it is. */
export function mayChange(flags: number): boolean {
  if ((flags & O_ACCMODE) === O_RDONLY) return (flags & O_TRUNC) !== 0;
  return (flags & O_ACCMODE) !== O_WRONLY || (flags & O_APPEND) === 0 || (flags & O_TRUNC) !== 0;
}

function isAt(core: Core, node: Node, parent: Node, name: string): boolean {
  if (refresh(core, parent) < 0 || !parent.priv) return false;
  const fd = directoryFd(core, parent);
  return fd >= 0 && statAt(fd, name, stat) === 0 && stat.ino === node.privIno;
}

/** What a program stores through a mapping of the mount's own page cache is not seen here before it is written back. */
export function isMappedAbove({ node, cached }: Pick<OpenFile, 'node' | 'cached'>): boolean {
  return cached && node.mappers > 0;
}

/** Inodes of open files with names that are not known. */
export function unnamedLinks(files: readonly OpenFile[]): Set<number> {
  const found = new Set<number>();
  for (const { node, nlink, names } of files) if (nlink > names.length) found.add(node.privIno);
  return found;
}

/** Looks up every name that an open file has. Gives the open files. */
export function* nameOpenFiles(core: Core): Steps<OpenFile[]> {
  const files = openFiles(core);
  const wanted = unnamedLinks(files);
  if (wanted.size === 0) return files;
  const paths = yield* pathsOf(core.rootFd, wanted);
  for (const parts of paths) {
    const name = parts.pop()!;
    const parent = directoryByPath(core, parts);
    if (parent !== null) nodeAt(core, parent, name);
    yield;
  }
  return openFiles(core);
}

/** Every path below an open directory that leads to one of these inodes. */
export function* pathsOf(root: number, inodes: ReadonlySet<number>): Steps<string[][]> {
  const found: string[][] = [];
  const waiting: string[][] = [[]];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    const fd = openBelow(root, path);
    for (let entries: DirectoryEntry[] = []; fd >= 0 && readSomeEntries(fd, entries) > 0; entries = [])
      for (const { name, type, ino } of entries) {
        if (type === DT_DIR) waiting.push([...path, name]);
        else if (inodes.has(ino)) found.push([...path, name]);
      }
    if (fd >= 0) close(fd);
    yield;
  }
  return found;
}

/** Opens the directory at a path, following no link; the caller closes it. */
export function openBelow(root: number, parts: readonly string[]): number {
  let fd = openDirectory(root, '.');
  for (const part of parts) {
    if (fd < 0) return fd;
    const next = openDirectory(fd, part);
    close(fd);
    fd = next;
  }
  return fd;
}
