/**
 * Names that hard-linked files had in the layers of which a frozen layer was merged, and do not have in it: deleted since, or renamed with a directory. To a
 * policy they count as long as the file lives, so they are kept beside the layer, by the names that are left.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as sys from '../../sys/index.ts';
import { FORMER_NAMES, type KeptInodes, readFormerNames } from '../../vlfs/index.ts';
import { walkTree } from './walk-tree.ts';

const REDIRECT = 'trusted.overlay.redirect';
/** Places of one name that are looked for. */
const MOST_PLACES = 256;

interface Move {
  from: string;
  to: string;
}

/** Writes to/former.json when there are such names. `layers`: the newest first, with the tables of their inodes. */
export async function keepFormerNames(
  layers: readonly { tree: string; table: KeptInodes }[],
  to: string,
): Promise<void> {
  const had = new Map<number, Set<string>>();
  const moves: Move[][] = [];
  for (const [i, { tree, table }] of layers.entries()) {
    const renamed: Move[] = [];
    const before = readFormerNames(tree);
    await walkTree(tree, ({ stat, dirfd, name, path }) => {
      if ((stat.mode & sys.S_IFMT) === sys.S_IFDIR) {
        const redirect = sys.getxattrAt(dirfd, name, REDIRECT);
        const target = typeof redirect === 'number' ? '' : Buffer.from(redirect).toString('latin1');
        if (target.startsWith('/')) renamed.push({ from: target.slice(1), to: path });
        return;
      }
      const former = before.get(path) ?? [];
      if ((table(stat.ino)?.nlink ?? stat.nlink) < 2 && former.length === 0) return;
      const names = had.get(stat.ino) ?? new Set();
      had.set(stat.ino, names);
      for (const one of [path, ...former])
        for (const place of placesOf(one, moves.slice(0, i))) names.add(place);
    });
    moves.push(renamed);
  }
  if (had.size === 0) return;
  const left = new Map<number, string[]>();
  await walkTree(join(to, 'private'), ({ stat, path }) => {
    if (!had.has(stat.ino)) return;
    const names = left.get(stat.ino);
    if (names === undefined) left.set(stat.ino, [path]);
    else names.push(path);
  });
  const former = new Map<string, string[]>();
  for (const [ino, names] of left) {
    const gone = [...had.get(ino)!].filter((name) => !names.includes(name));
    if (gone.length > 0) for (const name of names) former.set(name, gone);
  }
  if (former.size === 0) return;
  // A file may be called __proto__.
  writeFileSync(join(to, FORMER_NAMES), `${JSON.stringify(Object.fromEntries(former))}\n`);
}

/** A path, and where the layers above (the newest first) show it because they renamed a directory. */
function placesOf(path: string, above: readonly Move[][]): string[] {
  const places = [path];
  for (const moves of [...above].reverse()) {
    for (const { from, to } of moves)
      for (const place of [...places])
        if (place.startsWith(`${from}/`) && places.length < MOST_PLACES)
          places.push(`${to}${place.slice(from.length)}`);
  }
  return places;
}
