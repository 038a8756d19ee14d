/**
 * What follows a freeze. A file to which programs only append, or which they only read, has what it held at the instant as its beginning; so the frozen layer
 * gets a file with its length, its attributes and its space, and the content comes after the turn. Until then who would cut the file, write elsewhere in it or take
 * a name from it waits. Small copies are whole, but not on the disk yet. `following/` beside the frozen private/ says in link targets, in the order of the names, which file a copy
 * follows, or what a small one holds: who comes after a kill or a power cut makes the copies from that.
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
  pread,
  pwrite,
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
/** So many bytes of small copies are noted; more are brought to the disk before the answer. */
const NOTED_BYTES = 64 << 10;
/** Of a link target, in base64: what each file system takes that keeps order, and what ext4 with blocks of 4 KiB does. */
const PIECE_BYTES = 1020;
const LONG_PIECE_BYTES = 4092;

/** What is copied after a freeze, and the job that ends with it. */
export interface Following {
  /** How much of each is copied. */
  nodes: ReadonlyMap<Node, number>;
  job: SlowJob;
}

export interface Follower {
  copy: Copy;
  /** The live file, of which the content is copied; -1: the copy is whole, and its content noted. */
  live: number;
}

/** Where the notes lie, in the directory of a frozen layer. */
export function followingDir(dir: string): string {
  return join(dir, 'following');
}

/** Whether the copy of a file may follow: nobody changes what it holds now without asking. */
export function mayFollow(core: Core, { backing, cached, changers, sizeBytes }: OpenFile): boolean {
  return changers === 0 && !cached && backing.partial === null && sizeBytes > LEAST_BYTES && isOrdered(core);
}

const ordered = new WeakMap<Core, boolean>();

function isOrdered(core: Core): boolean {
  const known = ordered.get(core) ?? keepsOrder(core.privateDir);
  ordered.set(core, known);
  return known;
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

/** Copies that follow, or of which the content is noted; their files stay open until `follow` ends. The others are to be brought to the disk. */
export function followersOf(core: Core, copies: readonly Copy[]): Follower[] {
  const followers: Follower[] = [];
  // Holes of partial files say something.
  const small = copies.filter(({ follows, file }) => !follows && file.backing.partial === null);
  const bytes = small.reduce((sum, { before }) => sum + before.size, 0);
  if (bytes <= NOTED_BYTES && isOrdered(core)) for (const copy of small) followers.push({ copy, live: -1 });
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
  for (const { live } of followers) if (live >= 0) close(live);
}

export function followingOf(followers: readonly Follower[]): Following | null {
  const waiting = followers.filter(({ live }) => live >= 0);
  if (waiting.length === 0) return null;
  const nodes = new Map(waiting.map(({ copy }) => [copy.file.node, copy.before.size]));
  return { nodes, job: slowJob('retry', { kind: 'follow' }) };
}

/** What follows is noted before the exchange. */
export function noteFollowers(dir: string, followers: readonly Follower[]): void {
  if (followers.length === 0) return;
  mkdirat(AT_FDCWD, nameFromText(followingDir(dir)), 0o700);
  const fd = must(openDirectory(AT_FDCWD, nameFromText(followingDir(dir))));
  try {
    for (const { copy, live } of followers) {
      must(fstat(copy.fd, stat));
      const name = String(stat.ino);
      if (live < 0) noteContent(fd, name, copy);
      else must(fstat(live, stat));
      must(symlinkat(noteText(live < 0 ? 0 : stat.ino, copy.before), fd, name));
    }
  } finally {
    close(fd);
  }
}

/** The pieces come before the note that needs them. */
function noteContent(fd: number, name: string, { fd: from, before }: Copy): void {
  const bytes = Buffer.alloc(before.size);
  must(pread(from, bytes, bytes.length, 0));
  const text = bytes.toString('base64');
  let size = LONG_PIECE_BYTES;
  for (let at = 0, piece = 0; at < text.length; at += size, piece++) {
    const put = symlinkat(text.slice(at, at + size), fd, `${name}.${piece}`);
    if (put === -E.NAMETOOLONG && size > PIECE_BYTES) {
      size = PIECE_BYTES;
      must(symlinkat(text.slice(at, at + size), fd, `${name}.${piece}`));
    } else must(put);
  }
}

function notedContent(fd: number, name: string): Buffer {
  const pieces: string[] = [];
  for (;;) {
    const piece = readlinkat(fd, `${name}.${pieces.length}`);
    if (typeof piece === 'number') return Buffer.from(pieces.join(''), 'base64');
    pieces.push(piece);
  }
}

/** Everything has followed, or nothing will. A note goes before the pieces that it needs. */
export function forgetFollowers(dir: string): void {
  const place = nameFromText(followingDir(dir));
  const fd = openDirectory(AT_FDCWD, place);
  if (fd < 0) return;
  const entries = readDirectory(fd);
  const names = typeof entries === 'number' ? [] : entries.map(({ name }) => name);
  for (const name of names.filter(isNote)) unlinkat(fd, name);
  for (const name of names.filter((one) => !isNote(one))) unlinkat(fd, name);
  close(fd);
  unlinkat(AT_FDCWD, place, AT_REMOVEDIR);
}

/** Copies the contents, and lets those go on who wait. The descriptors of the copies are closed. */
export function* follow(core: Core, dir: string, followers: readonly Follower[]): Steps<void> {
  try {
    for (const { copy, live } of followers) {
      if (live < 0) continue;
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

/** Else it is a piece of a content. */
const isNote = (name: string): boolean => /^\d+$/.test(name);

const noteText = (ino: number, s: Stat): string =>
  [ino, s.size, s.atimeSec, s.atimeNsec, s.mtimeSec, s.mtimeNsec].join(' ');

interface Note {
  /** Inode of the copy, as the name of the note. */
  name: string;
  /** Inode of the file that it follows; 0: the content is noted. */
  live: number;
  size: number;
  times: [number, number, number, number];
}

function readNotes(fd: number): Note[] {
  const entries = readDirectory(fd);
  return (typeof entries === 'number' ? [] : entries).flatMap(({ name }) => {
    const text = readlinkat(fd, name);
    if (typeof text === 'number' || !isNote(name)) return [];
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
    const inodes = new Set(notes.map((note) => note.live).filter((ino) => ino > 0));
    const live = openInodes(privateDir, inodes, O_RDONLY, opened);
    const copies = openInodes(
      join(dir, 'private'),
      new Set(notes.map(({ name }) => Number(name))),
      O_RDWR,
      opened,
    );
    for (const note of notes) {
      const to = copies.get(Number(note.name));
      const from = live.get(note.live);
      const isMissing = note.live > 0 && from === undefined;
      // Without its copy in place the freeze was cut off before that moved.
      if (to !== undefined && isMissing) left++;
      else if (to !== undefined) finishOne(from ?? notedContent(fd, note.name), to, note);
      if (to === undefined || !isMissing) unlinkat(fd, note.name);
    }
  } finally {
    for (const one of [fd, ...opened]) close(one);
  }
  if (left === 0) forgetFollowers(dir);
  return left;
}

function finishOne(from: number | Buffer, to: number, { size, times }: Note): void {
  if (typeof from === 'number') {
    must(fstat(from, stat));
    must(copyContent(from, to, Math.min(size, stat.size)));
  } else {
    must(ftruncate(to, size));
    if (pwrite(to, from, from.length, 0) !== size) throw systemFailure(-E.IO, 'write a noted file');
  }
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
  if (inodes.size === 0) return found;
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
