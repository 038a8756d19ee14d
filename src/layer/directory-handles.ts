/**
 * Descriptors of the directories of one tree, by path, a bounded number open at a time. Each component is opened beneath its parent
 * without following a symlink, so no path can lead out of the tree.
 */
import { close, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH, openat } from '../sys/index.ts';
import { checked } from './checked.ts';

const MAX_OPEN = 64;

export interface DirectoryHandles {
  /** O_PATH descriptor of the directory at `path` ('' is the root); valid until the next call. */
  of(path: string): number;
  /** Closes all but the root, which belongs to the caller. */
  close(): void;
}

export function openDirectoryHandles(rootFd: number): DirectoryHandles {
  const open = new Map<string, number>();

  function of(path: string): number {
    if (path === '') return rootFd;
    const known = open.get(path);
    if (known !== undefined) return known;
    const slash = path.lastIndexOf('/');
    const parent = of(slash < 0 ? '' : path.slice(0, slash));
    const fd = openat(parent, path.slice(slash + 1), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    checked(fd, 'open', path);
    if (open.size >= MAX_OPEN) {
      const [oldest, oldFd] = open.entries().next().value!;
      open.delete(oldest);
      close(oldFd);
    }
    open.set(path, fd);
    return fd;
  }

  return {
    of,
    close() {
      for (const fd of open.values()) close(fd);
      open.clear();
    },
  };
}
