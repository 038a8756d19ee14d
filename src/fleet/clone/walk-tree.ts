/** Walks over trees that appliances wrote: nothing is followed, and the event loop breathes. */
import { setImmediate as breathe } from 'node:timers/promises';
import * as sys from '../../sys/index.ts';
import { latin1, listDirectory, must, openDirectory } from '../merge-layers/untrusted-tree.ts';

export interface TreeEntry {
  /** Valid until the next entry. */
  stat: Readonly<sys.Stat>;
  /** The directory that it lies in, and its name there; the root is '.' in itself. */
  dirfd: number;
  name: string;
  /** Below the root, latin1; '' for the root. */
  path: string;
}

/** Visits every name of a tree, directories before what is in them, the root first. */
export async function walkTree(tree: string, visit: (entry: TreeEntry) => void): Promise<void> {
  const stat = sys.newStat();
  let entries = 0;
  const walk = async (fd: number, above: string): Promise<void> => {
    for (const { name } of listDirectory(fd)) {
      const path = above === '' ? name : `${above}/${name}`;
      must(sys.statAt(fd, name, stat), `stat ${path}`);
      const isDirectory = (stat.mode & sys.S_IFMT) === sys.S_IFDIR;
      visit({ stat, dirfd: fd, name, path });
      if (++entries % 512 === 0) await breathe();
      if (!isDirectory) continue;
      const below = openDirectory(fd, name);
      try {
        await walk(below, path);
      } finally {
        sys.close(below);
      }
    }
  };
  const root = openDirectory(sys.AT_FDCWD, latin1(tree));
  try {
    must(sys.fstat(root, stat), 'stat the root of a tree');
    visit({ stat, dirfd: root, name: '.', path: '' });
    await walk(root, '');
  } finally {
    sys.close(root);
  }
}
