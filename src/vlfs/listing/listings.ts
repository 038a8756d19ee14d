/** Listings that somebody is reading, by directory, for all VLFSs of a thread: bounded; what was given up is made again when it is needed. */
import type { Node } from '../core.ts';

export interface ListedEntry {
  name: string;
  cookie: number;
  /** DT_*. */
  type: number;
  /** d_ino; of a private entry the backing file system's number. */
  ino: number;
  /** The private layer has it. */
  priv: boolean;
}

/** All entries of a directory at one moment, sorted by cookie. */
export interface Listing {
  readonly count: number;
  cookie(i: number): number;
  entry(i: number): ListedEntry;
  /** The VLFS's generation at that moment. */
  generation: number;
  /** Made for a request that begins at the first entry and comes next. */
  unread: boolean;
}

const MOST_LISTINGS = 256;
const MOST_ENTRIES = 1_000_000;
/** The oldest first. */
const listings = new Map<Node, Listing>();
let entries = 0;

export function keptListing(node: Node): Listing | undefined {
  return listings.get(node);
}

export function keepListing(node: Node, listing: Listing): void {
  dropListing(node);
  listings.set(node, listing);
  entries += listing.count;
  while (listings.size > MOST_LISTINGS || (entries > MOST_ENTRIES && listings.size > 1)) {
    dropListing(listings.keys().next().value!);
  }
}

/** After the last entry was read, and for directories that the kernel forgot. */
export function dropListing(node: Node): void {
  const listing = listings.get(node);
  if (listing === undefined) return;
  listings.delete(node);
  entries -= listing.count;
}
