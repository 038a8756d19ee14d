/**
 * Whether a program looks at what it lists. The kernel asks for each first part of a listing with attributes, but make, a shell's pattern or find by type want names only, and then a
 * node for each name, here and in the kernel, costs more than the listing. A program gets nodes with its first listings, then one without: when it looks up enough of the names that
 * came so, it gets nodes again for a while, else none until it does. What was guessed wrongly costs lookups, nothing else.
 */

/** Listings with nodes before the first one without, then between two whenever the names were looked up: twice as many each time. */
const FIRST_WITH = 4;
const THEN_WITH = 32;
const MOST_WITH = 1024;
/** One name of so many that is looked up is enough. */
const ENOUGH = 4;
/** Programs (threads of them) that are remembered. */
const MOST = 64;

interface Reader {
  /** Listings with nodes before the next one without. */
  left: number;
  /** How many there will be next time. */
  next: number;
  /** The directory that it listed last, if that was without nodes; else 0. */
  bare: number;
  /** Names that were unknown, and those of them that it looked up. */
  listed: number;
  looked: number;
}

export interface WhoLooks {
  /** A program begins to list a directory with so many names that the kernel does not know: whether they come with nodes. */
  wantsNodes(pid: number, directory: number, names: number): boolean;
  /** A program looked up a name that is there. */
  looked(pid: number, directory: number): void;
}

export function createWhoLooks(): WhoLooks {
  /** The one that came first goes first. */
  const readers = new Map<number, Reader>();

  function readerOf(pid: number): Reader {
    let reader = readers.get(pid);
    if (reader === undefined) {
      if (readers.size >= MOST) readers.delete(readers.keys().next().value!);
      reader = { left: FIRST_WITH, next: THEN_WITH, bare: 0, listed: 0, looked: 0 };
      readers.set(pid, reader);
    }
    return reader;
  }

  return {
    wantsNodes(pid, directory, names) {
      const reader = readerOf(pid);
      if (names <= 0) return true;
      if (reader.bare !== 0) {
        const looks = reader.looked * ENOUGH >= reader.listed;
        reader.left = looks ? reader.next : 0;
        reader.next = looks ? Math.min(reader.next * 2, MOST_WITH) : THEN_WITH;
      }
      const wants = reader.left > 0;
      if (wants) reader.left--;
      reader.bare = wants ? 0 : directory;
      reader.listed = names;
      reader.looked = 0;
      return wants;
    },
    looked(pid, directory) {
      const reader = readers.get(pid);
      if (reader !== undefined && reader.bare === directory) reader.looked++;
    },
  };
}
