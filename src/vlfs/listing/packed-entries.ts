/**
 * The entries of a huge directory outside the heap: about 30 bytes and the name for each, where objects would take 150 and a million of them would hold up
 * every collection. Entries come in sorted chunks; `order` puts all of them in one order without moving them.
 */

import type { Steps } from '../steps.ts';
import type { ListedEntry } from './listings.ts';

/** Entries of a chunk, a power of two; and those that are merged between two steps. */
export const CHUNK = 1024;
const PRIVATE_BIT = 0x80;

interface Chunk {
  cookies: Float64Array;
  inos: Float64Array;
  /** The type, and whether the private layer has it. */
  kinds: Uint8Array;
  /** Where each name ends in `names`. */
  ends: Uint32Array;
  names: Buffer;
}

export interface PackedEntries {
  readonly count: number;
  cookie(i: number): number;
  entry(i: number): ListedEntry;
}

function pack(entries: readonly ListedEntry[]): Chunk {
  const { length } = entries;
  const chunk = {
    cookies: new Float64Array(length),
    inos: new Float64Array(length),
    kinds: new Uint8Array(length),
    ends: new Uint32Array(length),
  };
  let end = 0;
  for (const [i, { cookie, ino, type, priv, name }] of entries.entries()) {
    chunk.cookies[i] = cookie;
    chunk.inos[i] = ino;
    chunk.kinds[i] = type | (priv ? PRIVATE_BIT : 0);
    end += name.length;
    chunk.ends[i] = end;
  }
  return { ...chunk, names: Buffer.from(entries.map(({ name }) => name).join(''), 'latin1') };
}

/** Takes chunks of CHUNK entries (the last may be shorter), each sorted by `compare`. */
export function createPacker(compare: (a: ListedEntry, b: ListedEntry) => number) {
  const chunks: Chunk[] = [];
  let count = 0;
  const cookieOf = (at: number): number => chunks[at >>> 10]!.cookies[at & (CHUNK - 1)]!;
  const entryAt = (at: number): ListedEntry => {
    const { cookies, inos, kinds, ends, names } = chunks[at >>> 10]!;
    const i = at & (CHUNK - 1);
    const kind = kinds[i]!;
    return {
      name: names.latin1Slice(i === 0 ? 0 : ends[i - 1]!, ends[i]!),
      cookie: cookies[i]!,
      ino: inos[i]!,
      type: kind & ~PRIVATE_BIT,
      priv: (kind & PRIVATE_BIT) !== 0,
    };
  };
  const isBehind = (a: number, b: number): boolean => {
    const difference = cookieOf(a) - cookieOf(b);
    return difference === 0 ? compare(entryAt(a), entryAt(b)) > 0 : difference > 0;
  };

  /** Merges [from, middle) and [middle, end) of one array into the other. */
  function* merge(
    of: Uint32Array,
    into: Uint32Array,
    from: number,
    middle: number,
    end: number,
  ): Steps<void> {
    let a = from;
    let b = middle;
    for (let i = from; i < end; i++) {
      if (i % CHUNK === 0) yield;
      into[i] = a < middle && (b >= end || !isBehind(of[a]!, of[b]!)) ? of[a++]! : of[b++]!;
    }
  }

  return {
    add(entries: readonly ListedEntry[]): void {
      chunks.push(pack(entries));
      count += entries.length;
    },
    /** All that came, in order, with cookies that only grow. */
    *finish(): Steps<PackedEntries> {
      let order = new Uint32Array(count);
      let other = new Uint32Array(count);
      for (let i = 0; i < count; i++) {
        order[i] = i;
        if (i % CHUNK === 0) yield;
      }
      for (let size = CHUNK; size < count; size *= 2) {
        for (let from = 0; from < count; from += size * 2)
          yield* merge(order, other, from, Math.min(from + size, count), Math.min(from + size * 2, count));
        [order, other] = [other, order];
      }
      for (let i = 1; i < count; i++) {
        if (i % CHUNK === 0) yield;
        const before = cookieOf(order[i - 1]!);
        const at = order[i]!;
        if (cookieOf(at) <= before) chunks[at >>> 10]!.cookies[at & (CHUNK - 1)] = before + 1;
      }
      return { count, cookie: (i) => cookieOf(order[i]!), entry: (i) => entryAt(order[i]!) };
    },
  };
}
