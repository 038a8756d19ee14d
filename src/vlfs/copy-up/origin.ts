/**
 * What a private file hides: `trusted.strata.origin` = PATH NUL UNIT NUL CONTENT, latin1. Written at copy-up and when a file takes the
 * name of a shared one; `diff` compares it with what the stack holds now.
 */

import { nameFromText } from '../../base/index.ts';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG } from '../../sys/index.ts';
import { entryOf, type Reference, unitOf } from '../stack/merged-directory.ts';
import type { Stack, Unit } from '../stack/stack.ts';

export const ORIGIN_XATTR = 'trusted.strata.origin';

/** Identifies the content of an entry: equal tags, equal content. */
export function contentTag(unit: Unit, entry: number): string {
  const { index } = unit;
  switch (index.mode(entry) & S_IFMT) {
    case S_IFREG:
      return index.digest(entry) ?? `size ${index.size(entry)} ${index.mtimeSec(entry)}`;
    case S_IFLNK:
      return `link ${index.symlinkTarget(entry)}`;
    case S_IFDIR:
      return 'directory';
    case S_IFCHR:
    case S_IFBLK:
      return `device ${index.mode(entry) & S_IFMT} ${index.rdev(entry)}`;
    case S_IFIFO:
      return 'fifo';
    default:
      return 'other';
  }
}

export function encodeOrigin(path: string, unit: Unit, entry: number): Uint8Array {
  return Buffer.from(`${path}\0${nameFromText(unit.id)}\0${contentTag(unit, entry)}`, 'latin1');
}

/** The origin that a reference would give at `path`. */
export function originOf(stack: Stack, path: string, ref: Reference): Uint8Array {
  return encodeOrigin(path, unitOf(stack, ref), entryOf(ref));
}

export function decodeOrigin(
  value: Uint8Array | number,
): { path: string; unit: string; content: string } | null {
  if (typeof value === 'number') return null;
  const [path, unit, content] = Buffer.from(value).toString('latin1').split('\0');
  return path === undefined || unit === undefined || content === undefined ? null : { path, unit, content };
}
