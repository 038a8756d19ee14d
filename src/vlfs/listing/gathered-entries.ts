/**
 * The entries of a directory while its listing is made: objects, and packed when there are many. Listings of huge directories are made one after the other
 * on a thread, so that many programs that list many of them do not take its memory.
 */

import type { Steps } from '../steps.ts';
import type { ListedEntry, Listing } from './listings.ts';
import { CHUNK, createPacker } from './packed-entries.ts';
import { sortSteps } from './sort-steps.ts';

/** Entries that stay objects. */
const MOST_OBJECTS = 4096;
/** A listing of more entries is made alone. */
const HUGE = 1 << 18;

/** What is made alone at the moment. */
let alone: object | null = null;

export interface Gathered {
  /** Where entries are added; `makeRoom` comes after some hundred of them. */
  readonly entries: ListedEntry[];
  makeRoom(): Steps<void>;
  /** All of them, sorted by cookie; cookies that are the same for two names are made different. */
  finish(): Steps<Pick<Listing, 'count' | 'cookie' | 'entry'>>;
  /** It is finished, or given up. */
  end(): void;
}

const inOrder = (a: ListedEntry, b: ListedEntry): number => a.cookie - b.cookie || (a.name < b.name ? -1 : 1);

export function createGathered(): Gathered {
  const entries: ListedEntry[] = [];
  const packer = createPacker(inOrder);
  const self = {};
  let packed = 0;

  function* packAll(): Steps<void> {
    while (entries.length >= CHUNK) {
      packer.add(entries.splice(0, CHUNK).sort(inOrder));
      packed += CHUNK;
      yield;
    }
  }

  return {
    entries,
    *makeRoom() {
      if (packed === 0 && entries.length <= MOST_OBJECTS) return;
      yield* packAll();
      while (packed > HUGE && alone !== self) {
        if (alone === null) alone = self;
        else yield;
      }
    },
    *finish() {
      if (packed === 0) return yield* sorted(entries);
      yield* packAll();
      if (entries.length > 0) packer.add(entries.sort(inOrder));
      return yield* packer.finish();
    },
    end() {
      if (alone === self) alone = null;
    },
  };
}

function* sorted(entries: ListedEntry[]): Steps<Pick<Listing, 'count' | 'cookie' | 'entry'>> {
  const list = yield* sortSteps(entries, inOrder);
  for (let i = 1; i < list.length; i++) {
    if (i % CHUNK === 0) yield;
    if (list[i]!.cookie <= list[i - 1]!.cookie) list[i]!.cookie = list[i - 1]!.cookie + 1;
  }
  return { count: list.length, cookie: (i) => list[i]!.cookie, entry: (i) => list[i]! };
}
