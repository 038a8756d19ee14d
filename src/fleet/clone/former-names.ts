/**
 * Names that hard-linked files had in the layers of which a frozen layer was merged, and do not have in it: deleted since, or renamed with a directory. To a
 * policy they count as long as the file lives, so they are kept beside the layer, by the names that are left.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS, nameToText, StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { FORMER_NAMES, type FormerGroup, type KeptInodes, readFormerNames } from '../../vlfs/index.ts';
import { walkTree } from './walk-tree.ts';

const REDIRECT = 'trusted.overlay.redirect';
/** Names that one file may have had. */
const MOST_NAMES = 1 << 20;

/** What a layer renamed: where each directory of the layers below is in it. */
type Moves = Map<string, string[]>;

/** Writes to/former.json when there are such names. `layers`: the newest first, with the tables of their inodes. Throws LIMIT when a file has had more than MOST_NAMES. */
export async function keepFormerNames(
  layers: readonly { tree: string; table: KeptInodes }[],
  to: string,
): Promise<void> {
  const had = new Map<number, Set<string>>();
  const moves: Moves[] = [];
  for (const [i, { tree, table }] of layers.entries()) {
    const renamed: Moves = new Map();
    const before = readFormerNames(tree);
    const above = moves.slice(0, i).reverse();
    const seen = new Set<readonly string[]>();
    await walkTree(tree, ({ stat, dirfd, name, path }) => {
      if ((stat.mode & sys.S_IFMT) === sys.S_IFDIR) {
        const redirect = sys.getxattrAt(dirfd, name, REDIRECT);
        const target = typeof redirect === 'number' ? '' : Buffer.from(redirect).toString('latin1');
        if (target.startsWith('/'))
          renamed.set(target.slice(1), [...(renamed.get(target.slice(1)) ?? []), path]);
        return;
      }
      const former = before.get(path) ?? [];
      if ((table(stat.ino)?.nlink ?? stat.nlink) < 2 && former.length === 0) return;
      const names = had.get(stat.ino) ?? new Set();
      had.set(stat.ino, names);
      addPlaces(path, above, names);
      // All names of a file have the same list.
      if (seen.has(former)) return;
      seen.add(former);
      for (const one of former) addPlaces(one, above, names);
    });
    moves.push(renamed);
  }
  if (had.size === 0) return;
  const left = new Map<number, Set<string>>();
  await walkTree(join(to, 'private'), ({ stat, path }) => {
    if (!had.has(stat.ino)) return;
    const names = left.get(stat.ino) ?? new Set();
    left.set(stat.ino, names.add(path));
  });
  const groups: FormerGroup[] = [];
  for (const [ino, names] of left) {
    const former = [...had.get(ino)!].filter((name) => !names.has(name));
    if (former.length > 0) groups.push({ names: [...names], former });
  }
  if (groups.length > 0) writeFileSync(join(to, FORMER_NAMES), `${JSON.stringify(groups)}\n`);
}

/** Adds a path, and every place at which the layers above (the oldest first) show it because they renamed a directory. */
function addPlaces(path: string, above: readonly Moves[], to: Set<string>): void {
  const places = new Set([path]);
  for (const moves of above) {
    if (moves.size === 0) continue;
    for (const place of [...places])
      for (let at = place.indexOf('/'); at >= 0; at = place.indexOf('/', at + 1))
        for (const moved of moves.get(place.slice(0, at)) ?? [])
          if (moved.length + place.length - at <= LIMITS.pathBytes) places.add(`${moved}${place.slice(at)}`);
    if (places.size > MOST_NAMES) throw tooMany(path);
  }
  for (const place of places) to.add(place);
  if (to.size > MOST_NAMES) throw tooMany(path);
}

function tooMany(path: string): StrataError {
  return new StrataError(
    'LIMIT',
    `/${nameToText(path as never)} has had more than ${MOST_NAMES} names in frozen layers`,
    {
      hint: 'they stay as they are, and are not merged',
    },
  );
}
