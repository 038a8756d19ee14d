/**
 * Growable lists of 32-bit integers for the solver's watches: (clause, blocker) pairs, one list per literal.
 * A list begins with no memory at all, because most literals of a package universe are watched by few clauses.
 */

const NONE = new Int32Array(0);

/** The watches of every literal. `data[lit]` holds `length[lit]` integers, in pairs. */
export interface WatchLists {
  data: Int32Array[];
  length: Int32Array<ArrayBuffer>;
}

export function createWatchLists(): WatchLists {
  return { data: [], length: new Int32Array(1024) };
}

/** Makes room for literals up to `count` (exclusive). */
export function growWatchLists(watches: WatchLists, count: number): void {
  while (watches.data.length < count) watches.data.push(NONE);
  watches.length = grown(watches.length, count);
}

/** Appends one (clause, blocker) pair to the list of `lit`. */
export function pushWatch(watches: WatchLists, lit: number, clause: number, blocker: number): void {
  const length = watches.length[lit]!;
  let list = watches.data[lit]!;
  if (length + 2 > list.length) {
    const larger = new Int32Array(Math.max(8, list.length * 2));
    larger.set(list);
    watches.data[lit] = larger;
    list = larger;
  }
  list[length] = clause;
  list[length + 1] = blocker;
  watches.length[lit] = length + 2;
}

/** `array` itself when it holds `count` integers, or a larger copy; new places are 0. */
export function grown(array: Int32Array<ArrayBuffer>, count: number): Int32Array<ArrayBuffer> {
  if (count <= array.length) return array;
  const larger = new Int32Array(Math.max(count, array.length * 2));
  larger.set(array);
  return larger;
}
