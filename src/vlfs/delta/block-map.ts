/**
 * Which 4 KiB blocks of a partial file are its own: sorted runs that do not touch unless they differ. A run is *settled* when its data (or its
 * hole, which reads as zeros) is known to be on the disk; one that is not is checked against the file's holes when the map is read again.
 * Pure: no system calls. Encoded as varints (blocks since the last run, length * 2 + settled).
 */

export const BLOCK = 4096;

export interface Run {
  /** Blocks [from, to). */
  from: number;
  to: number;
  settled: boolean;
}

export interface BlockMap {
  runs: Run[];
  /** Blocks in all runs. */
  blocks: number;
}

export function newBlockMap(): BlockMap {
  return { runs: [], blocks: 0 };
}

/** The index of the first run that ends behind `block`; runs.length when there is none. */
export function runAt({ runs }: BlockMap, block: number): number {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (runs[middle]!.to > block) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Whether a block is in the map. */
export function hasBlock(map: BlockMap, block: number): boolean {
  const run = map.runs[runAt(map, block)];
  return run !== undefined && run.from <= block;
}

/** Whether all of [from, to) are. */
export function hasBlocks(map: BlockMap, from: number, to: number): boolean {
  let at = from;
  for (let i = runAt(map, from); at < to; i++) {
    const run = map.runs[i];
    if (run === undefined || run.from > at) return false;
    at = run.to;
  }
  return true;
}

/** Adds the blocks of [from, to) that are not in the map, as not settled. False: all were there. */
export function claim(map: BlockMap, from: number, to: number): boolean {
  if (hasBlocks(map, from, to)) return false;
  for (const [a, b] of gaps(map, from, to)) put(map, a, b, false);
  return true;
}

/** Makes all of [from, to) settled blocks of the map. */
export function settle(map: BlockMap, from: number, to: number): void {
  if (from < to) put(map, from, to, true);
}

/** Takes [from, to) out of the map. */
export function drop(map: BlockMap, from: number, to: number): void {
  if (from >= to) return;
  const kept: Run[] = [];
  for (const run of map.runs) {
    if (run.to <= from || run.from >= to) {
      kept.push(run);
      continue;
    }
    if (run.from < from) kept.push({ from: run.from, to: from, settled: run.settled });
    if (run.to > to) kept.push({ from: to, to: run.to, settled: run.settled });
  }
  map.runs = kept;
  count(map);
}

/** The parts of [from, to) that are not in the map. */
export function gaps(map: BlockMap, from: number, to: number): [number, number][] {
  const found: [number, number][] = [];
  let at = from;
  for (let i = runAt(map, from); at < to; i++) {
    const run = map.runs[i];
    const next = run === undefined ? to : Math.min(run.from, to);
    if (next > at) found.push([at, next]);
    if (run === undefined) break;
    at = Math.max(at, run.to);
  }
  return found;
}

/** The smallest gaps between runs, as many as must be filled to have `fewer` runs less. */
export function smallestGaps(map: BlockMap, fewer: number): [number, number][] {
  const between: [number, number][] = [];
  for (let i = 1; i < map.runs.length; i++) {
    const from = map.runs[i - 1]!.to;
    const to = map.runs[i]!.from;
    if (to > from) between.push([from, to]);
  }
  return between.sort((a, b) => a[1] - a[0] - (b[1] - b[0])).slice(0, fewer);
}

function put(map: BlockMap, from: number, to: number, settled: boolean): void {
  const { runs } = map;
  const last = runs[runs.length - 1];
  // Writing on: the last run grows.
  if (last !== undefined && last.to === from && last.settled === settled) {
    last.to = to;
    map.blocks += to - from;
    return;
  }
  drop(map, from, to);
  const at = runAt(map, from);
  map.runs.splice(at, 0, { from, to, settled });
  join(map, at);
  join(map, at - 1);
  map.blocks += to - from;
}

/** Joins the run at an index with the next one when nothing tells them apart. */
function join({ runs }: BlockMap, at: number): void {
  const run = runs[at];
  const next = runs[at + 1];
  if (run === undefined || next === undefined || run.to !== next.from || run.settled !== next.settled) return;
  run.to = next.to;
  runs.splice(at + 1, 1);
}

function count(map: BlockMap): void {
  map.blocks = 0;
  for (const run of map.runs) map.blocks += run.to - run.from;
}

/** Every block of the map becomes settled. */
export function settleAll(map: BlockMap): void {
  for (const run of map.runs) run.settled = true;
  for (let i = map.runs.length - 2; i >= 0; i--) join(map, i);
}

/** Appends the encoded map to `bytes`. */
export function encodeMap(map: BlockMap, bytes: number[]): void {
  let at = 0;
  for (const run of map.runs) {
    putVarint(bytes, run.from - at);
    putVarint(bytes, (run.to - run.from) * 2 + (run.settled ? 1 : 0));
    at = run.to;
  }
}

/** Reads a map of blocks below `limit`; null when it is damaged. */
export function decodeMap(bytes: Uint8Array, offset: number, limit: number): BlockMap | null {
  const map = newBlockMap();
  const at = { offset };
  let block = 0;
  while (at.offset < bytes.length) {
    const gap = varint(bytes, at);
    const length = varint(bytes, at);
    if (gap < 0 || length < 2) return null;
    const from = block + gap;
    block = from + Math.floor(length / 2);
    if (block > limit) return null;
    map.runs.push({ from, to: block, settled: length % 2 === 1 });
  }
  count(map);
  return map;
}

function putVarint(bytes: number[], value: number): void {
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
}

/** -1: cut off, or too large for any file. */
function varint(bytes: Uint8Array, at: { offset: number }): number {
  let value = 0;
  for (let factor = 1; factor < 2 ** 49; factor *= 128) {
    const byte = bytes[at.offset++];
    if (byte === undefined) return -1;
    value += (byte % 128) * factor;
    if (byte < 128) return value;
  }
  return -1;
}
