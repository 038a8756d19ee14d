/**
 * Small texts that are on the disk when any later change of a name is: a symbolic link whose target is the text, or a directory of links with the pieces of a longer one. Where the
 * file system keeps names in one journal, in their order (keepsOrder), link targets are in it too; so a note needs no sync to come before what is done after it, and
 * whoever finds the note after a power cut finds all of it. File contents have no such place in the order.
 */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  statfsSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { removeTree } from './files.ts';

/** What a target may hold: XFS takes 1024 bytes with the end mark, ext4 a block. */
const LEAST_PIECE = 1023;
const MOST_PIECE = 4095;
const XFS = 0x58465342;

function pieceBytes(dir: string): number {
  const { type, bsize } = statfsSync(dir);
  return type === XFS ? LEAST_PIECE : Math.max(LEAST_PIECE, Math.min(MOST_PIECE, bsize - 1));
}

const stagedAt = (path: string): string => join(dirname(path), `.tmp-${basename(path)}`);

/** Writes a note beside the place that it is for, where nothing stands. The text holds no NUL and is not empty. */
export function stageNote(path: string, text: string): void {
  const bytes = Buffer.from(text);
  const staged = stagedAt(path);
  const size = bytes.length <= LEAST_PIECE ? LEAST_PIECE : pieceBytes(dirname(path));
  if (bytes.length <= size) {
    symlinkSync(bytes, staged);
    return;
  }
  mkdirSync(staged, { mode: 0o700 });
  try {
    for (let at = 0, n = 0; at < bytes.length; at += size, n++)
      symlinkSync(bytes.subarray(at, at + size), join(staged, String(n)));
  } catch (error) {
    removeTree(staged);
    throw error;
  }
}

/** Puts a note that is staged into its place, in one step. */
export function putNote(path: string): void {
  renameSync(stagedAt(path), path);
}

export function dropStagedNote(path: string): void {
  removeTree(stagedAt(path));
}

export function readNote(path: string): string {
  if (lstatSync(path).isSymbolicLink()) return readlinkSync(path);
  const count = readdirSync(path).length;
  const pieces = Array.from({ length: count }, (_, n) => readlinkSync(join(path, String(n)), 'buffer'));
  return Buffer.concat(pieces).toString();
}

/** Takes a note away in one step. */
export function removeNote(path: string): void {
  if (lstatSync(path).isSymbolicLink()) {
    unlinkSync(path);
    return;
  }
  const gone = stagedAt(path);
  renameSync(path, gone);
  removeTree(gone);
}
