/**
 * A write near the limit takes no more than there is room for. Holes of the range are what it may take at most; space that was allocated before (fallocate) looks like a
 * hole but takes nothing, so when that is too much the write is done, and what was too much is made a hole again.
 */
import {
  E,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fallocate,
  fstat,
  ftruncate,
  lseek,
  newStat,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../sys/index.ts';
import { BLOCK, gaps } from '../delta/block-map.ts';
import type { Partial } from '../delta/partial-file.ts';

const stat = newStat();

/** Stretches of whole blocks in [from, to) that have no data: from, to, from, to ... */
export function holesIn(fd: number, from: number, to: number): number[] {
  const holes: number[] = [];
  const end = Math.ceil(to / BLOCK) * BLOCK;
  for (let at = Math.floor(from / BLOCK) * BLOCK; at < end; ) {
    const data = lseek(fd, at, SEEK_DATA);
    const hasNone = data < 0 ? end : Math.min(end, Math.floor(data / BLOCK) * BLOCK);
    if (hasNone > at) holes.push(at, hasNone);
    if (hasNone >= end) break;
    const hole = lseek(fd, hasNone, SEEK_HOLE);
    at = Math.max(hasNone + BLOCK, hole < 0 ? end : Math.ceil(hole / BLOCK) * BLOCK);
  }
  return holes;
}

export function bytesOfHoles(holes: readonly number[]): number {
  let bytes = 0;
  for (let i = 0; i < holes.length; i += 2) bytes += holes[i + 1]! - holes[i]!;
  return bytes;
}

/** Bytes of [from, to) of a partial file that are not its own yet. */
export function bytesBelow({ form }: Partial, from: number, to: number): number {
  const first = Math.floor(from / BLOCK);
  const end = Math.ceil(to / BLOCK);
  let blocks = Math.max(0, end - Math.max(first, form.limit));
  for (const [a, b] of gaps(form.map, first, Math.min(end, form.limit))) blocks += b - a;
  return blocks * BLOCK;
}

/**
 * Writes [offset, offset + length) by `write(length)`, or the beginning of it, as far as at most `room` bytes are taken; taken(): what the file takes now. Bytes written
 * (less than asked: the rest does not fit), or -EDQUOT with nothing changed.
 */
export function writeWithin(
  fd: number,
  { offset, length, room }: { offset: number; length: number; room: number },
  write: (length: number) => number,
): number {
  const holes = holesIn(fd, offset, offset + length);
  if (bytesOfHoles(holes) <= room) return write(length);
  if (fstat(fd, stat) < 0) return -E.IO;
  const { size, blocks } = stat;
  const done = write(length);
  if (done < 0 || fstat(fd, stat) < 0 || (stat.blocks - blocks) * 512 <= room) return done;
  for (let i = 0; i < holes.length; i += 2)
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, holes[i]!, holes[i + 1]! - holes[i]!);
  if (stat.size > size) ftruncate(fd, size);
  const fits = lengthWithin(holes, offset, room);
  return fits <= 0 ? -E.DQUOT : write(fits);
}

/** How much from `offset` fills no more than `room` bytes of the holes. */
function lengthWithin(holes: readonly number[], offset: number, room: number): number {
  let left = Math.floor(room / BLOCK) * BLOCK;
  for (let i = 0; i < holes.length; i += 2) {
    const size = holes[i + 1]! - holes[i]!;
    if (size > left) return holes[i]! + left - offset;
    left -= size;
  }
  return Number.MAX_SAFE_INTEGER;
}
