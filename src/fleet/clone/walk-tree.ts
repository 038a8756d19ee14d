/** Walks over trees that appliances wrote: nothing is followed, and the event loop breathes. */
import { setImmediate as breathe } from 'node:timers/promises';
import * as sys from '../../sys/index.ts';
import { walkEntries } from '../../vlfs/index.ts';
import { latin1, must, openDirectory } from '../merge-layers/untrusted-tree.ts';

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
  const root = openDirectory(sys.AT_FDCWD, latin1(tree));
  try {
    must(sys.fstat(root, stat), 'stat the root of a tree');
    visit({ stat, dirfd: root, name: '.', path: '' });
    for (const { dirfd, name, path } of walkEntries(root)) {
      must(sys.statAt(dirfd, name, stat), `stat ${path.slice(-200)}`);
      visit({ stat, dirfd, name, path });
      if (++entries % 512 === 0) await breathe();
    }
  } finally {
    sys.close(root);
  }
}
