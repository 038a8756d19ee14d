/**
 * The way to the directory in which a walk is, in a tree of any depth that somebody else wrote: a bounded number of descriptors, nothing is followed, and the way
 * back up is by `..`, which must be the directory that it was before. A walk that calls itself for each directory awaits `rested`, so that the stack of calls stays
 * short, too.
 */
import { setImmediate as breathe } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';

export interface Trail {
  /** The directory where the walk is; valid until the next step. */
  readonly fd: number;
  /** Goes into a directory of this one. 0 or a negative errno (-ENOTDIR, -ELOOP: it is none). */
  enter(name: string): number;
  /** As enter; throws IO. */
  down(name: string): void;
  /** Back; throws IO when the directory was moved meanwhile. */
  up(): void;
  /** To be awaited in each directory. */
  rested(): Promise<void> | undefined;
  /** The descriptors of the walk, wherever it is. */
  close(): void;
}

/** Descriptors that are kept open: of the uppermost directories, where a walk turns most often. */
const KEPT = 64;
/** Directories below each other that are entered in one call. */
const CALLS = 64;
const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;

interface Level {
  fd: number;
  dev: number;
  ino: number;
}

/** A walk that begins in an open directory, which stays the caller's. Throws IO. */
export function openTrail(root: number): Trail {
  const levels: Level[] = [];
  const stat = sys.newStat();

  function enter(name: string, from: number): number {
    const fd = sys.openat(from, name, DIRECTORY);
    if (fd < 0) return fd;
    const known = sys.fstat(fd, stat);
    if (known < 0) {
      sys.close(fd);
      return known;
    }
    const above = levels.at(-1);
    if (levels.length > KEPT && above !== undefined) {
      sys.close(above.fd);
      above.fd = -1;
    }
    levels.push({ fd, dev: stat.dev, ino: stat.ino });
    return 0;
  }

  /** The directory above, whose descriptor may have been closed. */
  function openAgain(above: Level, below: Level): void {
    if (above.fd >= 0) return;
    const fd = must(sys.openat(below.fd, '..', DIRECTORY));
    if (sys.fstat(fd, stat) === 0 && stat.dev === above.dev && stat.ino === above.ino) above.fd = fd;
    else {
      sys.close(fd);
      throw new StrataError('IO', 'a directory was moved while its tree was read');
    }
  }

  must(enter('.', root));
  return {
    get fd() {
      return levels.at(-1)!.fd;
    },
    enter: (name) => enter(name, levels.at(-1)!.fd),
    down(name) {
      must(enter(name, levels.at(-1)!.fd));
    },
    up() {
      const below = levels.pop()!;
      try {
        openAgain(levels.at(-1)!, below);
      } finally {
        sys.close(below.fd);
      }
    },
    rested: () => (levels.length % CALLS === 0 ? breathe() : undefined),
    close() {
      for (const { fd } of levels.splice(0)) if (fd >= 0) sys.close(fd);
    },
  };
}

/** Walks in two trees at once. The open directories stay the caller's. */
export async function alongBoth(
  from: number,
  to: number,
  walk: (from: Trail, to: Trail) => Promise<void>,
): Promise<void> {
  const above = openTrail(from);
  try {
    const below = openTrail(to);
    try {
      await walk(above, below);
    } finally {
      below.close();
    }
  } finally {
    above.close();
  }
}

function must(result: number): number {
  if (result >= 0) return result;
  throw new StrataError('IO', `a tree cannot be read (${sys.errnoName(-result)})`);
}
