/**
 * Copies that follow a freeze. A file to which programs only append, or which they only read, has what it held at the instant as its beginning; so the frozen layer
 * gets a file with its length, its attributes and its space, and the content comes after the turn. Until then who would cut the file, write elsewhere in it or take
 * a name from it waits. `following/INO` beside the frozen private/ is a link whose target says which file a copy follows, in the order of the names: after a kill or a power
 * cut the beginning is still there, and whoever finds the link copies it.
 */
import { join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  dup,
  E,
  fallocate,
  fstat,
  fsync,
  ftruncate,
  futimens,
  keepsOrder,
  mkdirat,
  newStat,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_RDONLY,
  O_RDWR,
  openat,
  readDirectory,
  readlinkat,
  type Stat,
  symlinkat,
  unlinkat,
} from '../../sys/index.ts';
import { type Caller, PENDING, type SlowJob } from '../contract.ts';
import { slowJob } from '../copy-up/slow-job.ts';
import { type Core, type Node, step } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { finished, type Steps } from '../steps.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import type { Copy } from './copies.ts';
import { copyContent } from './copy-content.ts';
import { inPool } from './in-pool.ts';
import { type OpenFile, openBelow, pathsOf } from './open-files.ts';

/** Smaller files are copied in the turn. */
const LEAST_BYTES = 32 << 10;

/** What is copied after a freeze, and the job that ends with it. */
export interface Following {
  /** How much of each is copied. */
  nodes: ReadonlyMap<Node, number>;
  job: SlowJob;
}

export interface Follower {
  copy: Copy;
  /** The live file. */
  live: number;
}

/** Where the notes lie, in the directory of a frozen layer. */
export function followingDir(dir: string): string {
  return join(dir, 'following');
}

/** Whether the copy of a file may follow: nobody changes what it holds now without asking. */
export function mayFollow(core: Core, { backing, cached, changers, fd }: OpenFile): boolean {
  if (changers > 0 || cached || backing.partial !== null) return false;
  return fstat(fd, stat) === 0 && stat.size > LEAST_BYTES && keepsOrder(core.privateDir);
}

/** Before such a change (of what lies at `offset` and above): PENDING, with the job that is waited for, while its copy follows; else 0. */
export function waitForCopy(core: Core, caller: Caller, node: Node, offset = 0): number {
  if (core.following === null || offset >= (core.following.nodes.get(node) ?? 0)) return 0;
  caller.job = core.following.job;
  return PENDING;
}

/** Gives a copy that follows its length and its space. 0 or a negative errno. */
export function reserve(fd: number, sizeBytes: number): number {
  const reserved = fallocate(fd, 0, 0, sizeBytes);
  return reserved < 0 && reserved !== -E.OPNOTSUPP ? reserved : ftruncate(fd, sizeBytes);
}

/** Copies that follow; their files stay open until `follow` ends. */
export function followersOf(copies: readonly Copy[]): Follower[] {
  const followers: Follower[] = [];
  for (const copy of copies.filter(({ follows }) => follows)) {
    const live = dup(copy.file.fd);
    if (live < 0) {
      dropFollowers(followers);
      throw systemFailure(live, 'hold an open file');
    }
    followers.push({ copy, live });
  }
  return followers;
}

export function dropFollowers(followers: readonly Follower[]): void {
  for (const { live } of followers) close(live);
}

export function followingOf(followers: readonly Follower[]): Following | null {
  if (followers.length === 0) return null;
  const nodes = new Map(followers.map(({ copy }) => [copy.file.node, copy.before.size]));
  return { nodes, job: slowJob('retry', { kind: 'follow' }) };
}

/** What follows is noted before the exchange. */
export function noteFollowers(dir: string, followers: readonly Follower[]): void {
  if (followers.length === 0) return;
  mkdirat(AT_FDCWD, nameFromText(followingDir(dir)), 0o700);
  const fd = must(openDirectory(AT_FDCWD, nameFromText(followingDir(dir))));
  try {
    for (const { copy, live } of followers) {
      must(fstat(live, stat));
      const { ino } = stat;
      must(fstat(copy.fd, stat));
      must(symlinkat(noteText(ino, copy.before), fd, String(stat.ino)));
    }
  } finally {
    close(fd);
  }
}

/** Everything has followed, or nothing will. */
export function forgetFollowers(dir: string): void {
  const place = nameFromText(followingDir(dir));
  const fd = openDirectory(AT_FDCWD, place);
  if (fd < 0) return;
  const entries = readDirectory(fd);
  for (const { name } of typeof entries === 'number' ? [] : entries) unlinkat(fd, name);
  close(fd);
  unlinkat(AT_FDCWD, place, AT_REMOVEDIR);
}

/** Copies the contents, and lets those go on who wait. The descriptors of the copies are closed. */
export function* follow(core: Core, dir: string, followers: readonly Follower[]): Steps<void> {
  try {
    for (const { copy, live } of followers) {
      const { fd, before } = copy;
      const work = { kind: 'copy-data' as const, fromFd: live, toFd: fd, sizeBytes: before.size };
      yield* inPool((done) => ({ ...work, done }));
      must(ftruncate(fd, before.size));
      must(futimens(fd, before.atimeSec, before.atimeNsec, before.mtimeSec, before.mtimeNsec));
      step(core, 'freeze: followed');
    }
    const fds = followers.map(({ copy }) => copy.fd);
    yield* inPool((done) => ({ kind: 'write-out', fds, done }));
    step(core, 'freeze: written out');
    forgetFollowers(dir);
  } finally {
    for (const { copy } of followers) close(copy.fd);
    dropFollowers(followers);
    core.following = null;
  }
}

const stat = newStat();

const noteText = (ino: number, s: Stat): string =>
  [ino, s.size, s.atimeSec, s.atimeNsec, s.mtimeSec, s.mtimeNsec].join(' ');

interface Note {
  /** Inode of the copy, as the name of the note. */
  name: string;
  live: number;
  size: number;
  times: [number, number, number, number];
}

function readNotes(fd: number): Note[] {
  const entries = readDirectory(fd);
  return (typeof entries === 'number' ? [] : entries).flatMap(({ name }) => {
    const text = readlinkat(fd, name);
    if (typeof text === 'number' || !/^\d+$/.test(name)) return [];
    const [live = 0, size = 0, ...times] = text.split(' ').map(Number);
    return [{ name, live, size, times: times as Note['times'] }];
  });
}

/**
 * Copies what a kill or a power cut kept from following, from the files in `privateDir`; after a power cut as much of a file as the cut left. `dir`: of the frozen layer. Gives how many
 * files were not found there.
 */
export function finishFollowing(dir: string, privateDir: string): number {
  const fd = openDirectory(AT_FDCWD, nameFromText(followingDir(dir)));
  if (fd < 0) return 0;
  const opened: number[] = [];
  let left = 0;
  try {
    const notes = readNotes(fd);
    const live = openInodes(privateDir, new Set(notes.map((note) => note.live)), O_RDONLY, opened);
    const copies = openInodes(
      join(dir, 'private'),
      new Set(notes.map(({ name }) => Number(name))),
      O_RDWR,
      opened,
    );
    for (const note of notes) {
      const to = copies.get(Number(note.name));
      const from = live.get(note.live);
      // Without its copy in place the freeze was cut off before that moved.
      if (to !== undefined && from === undefined) left++;
      else if (to !== undefined && from !== undefined) finishOne(from, to, note);
      if (to === undefined || from !== undefined) unlinkat(fd, note.name);
    }
  } finally {
    for (const one of [fd, ...opened]) close(one);
  }
  if (left === 0) forgetFollowers(dir);
  return left;
}

function finishOne(from: number, to: number, { size, times }: Note): void {
  must(fstat(from, stat));
  must(copyContent(from, to, Math.min(size, stat.size)));
  must(futimens(to, ...times));
  must(fsync(to));
}

function openInodes(
  root: string,
  inodes: ReadonlySet<number>,
  flags: number,
  opened: number[],
): Map<number, number> {
  const found = new Map<number, number>();
  const top = must(openDirectory(AT_FDCWD, nameFromText(root)));
  try {
    for (const parts of finished(pathsOf(top, inodes))) {
      const parent = must(openBelow(top, parts.slice(0, -1)));
      const fd = openat(parent, parts.at(-1)!, flags | O_NOFOLLOW | O_CLOEXEC);
      close(parent);
      opened.push(must(fd));
      must(fstat(fd, stat));
      found.set(stat.ino, fd);
    }
  } finally {
    close(top);
  }
  return found;
}

function must(result: number): number {
  if (result < 0) throw systemFailure(result, 'copy a file that was open for a clone');
  return result;
}
