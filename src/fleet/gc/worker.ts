/**
 * The thread of trash.ts: measures trees that nothing refers to, or deletes them, one after the other, while the control plane goes on.
 * Names are bytes, no symlink is followed, hostile trees of any depth go. Bytes are what the file system gets back: a file with other names
 * elsewhere counts nothing.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { nameFromText } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';

export interface GcJob {
  paths: string[];
  remove: boolean;
}

export interface GcJobAnswer {
  path: string;
  bytes: number;
  /** Why it could not be deleted wholly, or null. */
  failure: string | null;
}

/** Levels that are walked with one open directory each; what is deeper is brought up first. */
const DEPTH = 256;
const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;

interface Walk {
  remove: boolean;
  bytes: number;
  failure: number;
  /** Where directories that are too deep are brought to. */
  topFd: number;
  hoisted: number;
  /** Measuring: names still missing, by inode, of files with several. */
  links: Map<string, number>;
}

/** Remembers the first failure; what is gone already is none. */
function fail(walk: Walk, result: number): void {
  if (result < 0 && result !== -sys.E.NOENT && walk.failure === 0) walk.failure = result;
}

/** The blocks that go with one name of a file. */
function bytesOf(walk: Walk, stat: sys.Stat): number {
  if (stat.nlink <= 1) return stat.blocks * 512;
  if (walk.remove) return 0;
  const key = `${stat.dev} ${stat.ino}`;
  const left = (walk.links.get(key) ?? stat.nlink) - 1;
  walk.links.set(key, left);
  return left === 0 ? stat.blocks * 512 : 0;
}

function visit(walk: Walk, dirfd: number, name: string, depth: number): void {
  const stat = sys.newStat();
  const known = sys.statAt(dirfd, name, stat);
  if (known < 0) {
    fail(walk, known);
    return;
  }
  if ((stat.mode & sys.S_IFMT) !== sys.S_IFDIR) {
    walk.bytes += bytesOf(walk, stat);
    if (walk.remove) fail(walk, sys.unlinkat(dirfd, name));
    return;
  }
  if (depth >= DEPTH) {
    if (walk.remove)
      fail(walk, sys.renameat2(dirfd, name, walk.topFd, `.trash-deep-${process.pid}-${walk.hoisted++}`));
    return;
  }
  walk.bytes += stat.blocks * 512;
  const fd = sys.openat(dirfd, name, DIRECTORY);
  if (fd < 0) {
    fail(walk, fd);
    return;
  }
  const entries = sys.readDirectory(fd);
  if (typeof entries === 'number') fail(walk, entries);
  else for (const entry of entries) visit(walk, fd, entry.name, depth + 1);
  sys.close(fd);
  if (walk.remove) fail(walk, sys.unlinkat(dirfd, name, sys.AT_REMOVEDIR));
}

function work(path: string, remove: boolean, links: Map<string, number>): GcJobAnswer {
  const whole = nameFromText(path);
  const slash = whole.lastIndexOf('/');
  const topFd = sys.openat(sys.AT_FDCWD, whole.slice(0, slash) || '/', DIRECTORY);
  if (topFd < 0) return { path, bytes: 0, failure: topFd === -sys.E.NOENT ? null : sys.errnoName(-topFd) };
  const walk: Walk = { remove, bytes: 0, failure: 0, topFd, hoisted: 0, links };
  visit(walk, topFd, whole.slice(slash + 1), 0);
  for (let next = 0; next < walk.hoisted; next++) {
    visit(walk, topFd, `.trash-deep-${process.pid}-${next}`, 0);
  }
  sys.close(topFd);
  return { path, bytes: walk.bytes, failure: walk.failure === 0 ? null : sys.errnoName(-walk.failure) };
}

const { paths, remove } = workerData as GcJob;
const links = new Map<string, number>();
for (const path of paths) parentPort!.postMessage(work(path, remove, links));
