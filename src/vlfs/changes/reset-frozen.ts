/**
 * What a reset hides of frozen layers: all that does not show at or above a kept path. Walks the directories above the kept paths as they show, so that what a
 * renamed directory shows counts at its present place. Writes into the whiteouts that the reset has built and not yet put in place.
 */
import {
  close,
  E,
  mkdirat,
  mknodat,
  newStat,
  O_CLOEXEC,
  O_CREAT,
  openat,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  setxattrAt,
  statAt,
} from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { hasRedirects } from '../stack/child-directories.ts';
import {
  entryOf,
  isDirectory,
  isHidden,
  levelOf,
  OPAQUE,
  reference,
  unitOf,
} from '../stack/merged-directory.ts';
import type { Steps } from '../steps.ts';
import { WHOLE } from '../whiteouts/whiteout-sets.ts';
import { openBelow } from '../whiteouts/whiteouts.ts';

/** Entries between two steps. */
const A_STEP = 32;

/** What frozen layers hold goes out of sight, but for the kept paths; it stays as long as somebody shows it. `to`: the descriptor of the fresh whiteouts. */
export function* hideFrozenBut(core: Core, to: number, kept: readonly string[][]): Steps<void> {
  if (!core.stack.units.some((unit) => unit.frozen !== null)) return;
  close(must(openat(to, WHOLE, O_CREAT | O_CLOEXEC, 0o600)));
  if (!kept.some((parts) => parts.length === 0)) yield* hideIn(core, to, core.root, [], kept);
}

/** `keeps`: the rests of the kept paths below the directory, which shows at `at`. */
function* hideIn(
  core: Core,
  to: number,
  node: Node,
  at: readonly string[],
  keeps: readonly (readonly string[])[],
): Steps<void> {
  const whole = new Set(keeps.filter((parts) => parts.length === 1).map(([name]) => name!));
  const leading = new Set(keeps.map(([name]) => name!)).difference(whole);
  /** The directories that show below and lead to kept paths; what ends them is kept too, so that nothing else shows in them. */
  const showing = new Set<number>();
  const ended = new Set<string>();
  for (const name of leading) {
    const below = directoryByPath(core, [...at, name]);
    if (below === null) continue;
    ended.add(name);
    for (const ref of below.merged?.contributors ?? []) showing.add(ref);
    const rests = keeps.filter((parts) => parts[0] === name).map((parts) => parts.slice(1));
    yield* hideIn(core, to, below, [...at, name], rests);
    releaseIfUnused(core, below);
  }
  for (const ref of node.merged?.contributors ?? []) {
    const { index, frozen } = unitOf(core.stack, ref);
    if (frozen === null) continue;
    const first = index.firstChild(entryOf(ref));
    for (let child = first; child < first + index.childCount(entryOf(ref)); child++) {
      if (child % A_STEP === 0) yield;
      const one = reference(levelOf(ref), child);
      const name = index.name(child);
      const ends = ended.has(name) && index.kind(child) !== S_IFDIR && !isHidden(core.hidden, one);
      if (!ends && !whole.has(name) && !showing.has(one)) hide(core, to, one);
    }
  }
}

const stat = newStat();

function hide(core: Core, to: number, ref: number): void {
  const { setDir, index } = unitOf(core.stack, ref);
  const place = `${setDir}/${index.path(entryOf(ref))}`.split('/');
  const name = place.pop()!;
  const fd = must(openBelow(to, place, core));
  const isOpaque = isDirectory(core.stack, ref) && (core.hasRedirects || hasRedirects(core.stack));
  const made = isOpaque ? mkdirat(fd, name, 0o755) : mknodat(fd, name, S_IFCHR, 0);
  if (made !== -E.EXIST) must(made);
  // Marks below a directory count where a kept one shows what it holds.
  must(statAt(fd, name, stat));
  if ((stat.mode & S_IFMT) === S_IFDIR) must(setxattrAt(fd, name, OPAQUE, Buffer.from('y')));
  close(fd);
}

function must(result: number): number {
  if (result < 0) throw systemFailure(result, 'reset');
  return result;
}
