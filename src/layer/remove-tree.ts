/** Deleting a directory tree by descriptors: byte names, no symlink followed, the event loop runs between batches. */
import {
  AT_REMOVEDIR,
  close,
  DT_DIR,
  E,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  readDirectory,
  unlinkat,
} from '../sys/index.ts';
import { checked, systemError } from './checked.ts';
import { turnKeeper } from './give-way.ts';

/** Deletes `name` in the directory `dirfd` with all below it. What is already gone is no error. */
export async function removeTree(dirfd: number, name: string): Promise<void> {
  const root = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root === -E.NOENT) return;
  if (root === -E.NOTDIR || root === -E.LOOP) {
    checked(unlinkat(dirfd, name), 'unlink', name);
    return;
  }
  checked(root, 'open', name);
  try {
    const giveWay = turnKeeper();
    const directories: string[] = [];
    const pending: string[] = [''];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      if (path !== '') directories.push(path);
      for (const below of emptyDirectory(root, path)) pending.push(below);
      const turn = giveWay();
      if (turn !== undefined) await turn;
    }
    for (const path of directories.reverse()) {
      const result = unlinkat(root, path, AT_REMOVEDIR);
      if (result !== -E.NOENT) checked(result, 'rmdir', path);
    }
  } finally {
    close(root);
  }
  const result = unlinkat(dirfd, name, AT_REMOVEDIR);
  if (result !== -E.NOENT) checked(result, 'rmdir', name);
}

/** Unlinks all but directories in `path` below `root`; returns the paths of the directories in it. */
function emptyDirectory(root: number, path: string): string[] {
  const flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  const fd = openat2(root, path === '' ? '.' : path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  if (fd === -E.NOENT) return [];
  checked(fd, 'open', path);
  try {
    const entries = readDirectory(fd);
    if (typeof entries === 'number') throw systemError(entries, 'getdents', path);
    const directories: string[] = [];
    for (const { name, type } of entries) {
      const child = path === '' ? name : `${path}/${name}`;
      if (type === DT_DIR) {
        directories.push(child);
        continue;
      }
      const result = unlinkat(fd, name);
      if (result === -E.ISDIR) directories.push(child);
      else if (result !== -E.NOENT) checked(result, 'unlink', child);
    }
    return directories;
  } finally {
    close(fd);
  }
}
