/**
 * A walk through the tree of a level, for what its index does not say. One directory is open at a time and nothing recurses, however deep the tree is. What cannot be
 * read is told: who keeps something from clones must then take it for excluded.
 */
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  type DirectoryEntry,
  DT_DIR,
  newStat,
  readSomeEntries,
  S_IFDIR,
  S_IFMT,
  statAt,
} from '../../sys/index.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

export interface TreeVisitor {
  /** A directory but the root, open. False: what it says could not be read. */
  directory?(fd: number, path: string): boolean;
  /** Anything else, in its open directory. False: as above. */
  file?(fd: number, name: string, path: string): boolean;
}

/** True when everything was read. Paths are relative, latin1. */
export function readTree(treeDir: string, visitor: TreeVisitor): boolean {
  const root = openDirectory(AT_FDCWD, nameFromText(treeDir));
  if (root < 0) return false;
  let complete = true;
  const pending = [''];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    // A path that is too long for the kernel is one that cannot be read.
    const fd = openDirectory(root, path === '' ? '.' : path);
    if (fd < 0) {
      complete = false;
      continue;
    }
    if (path !== '' && visitor.directory?.(fd, path) === false) complete = false;
    if (!readOne(fd, path, pending, visitor)) complete = false;
    close(fd);
  }
  close(root);
  return complete;
}

const stat = newStat();

function readOne(fd: number, path: string, pending: string[], visitor: TreeVisitor): boolean {
  let complete = true;
  const entries: DirectoryEntry[] = [];
  let more = readSomeEntries(fd, entries);
  while (more > 0) more = readSomeEntries(fd, entries);
  for (const { name, type } of entries) {
    const at = path === '' ? name : `${path}/${name}`;
    let isDirectory = type === DT_DIR;
    if (type === 0) {
      if (statAt(fd, name, stat) < 0) {
        complete = false;
        continue;
      }
      isDirectory = (stat.mode & S_IFMT) === S_IFDIR;
    }
    if (isDirectory) pending.push(at);
    else if (visitor.file?.(fd, name, at) === false) complete = false;
  }
  return complete && more === 0;
}
