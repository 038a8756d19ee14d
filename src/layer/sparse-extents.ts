/** Where a file has data and where holes: SEEK_DATA and SEEK_HOLE. */
import { E, lseek, SEEK_DATA, SEEK_HOLE } from '../sys/index.ts';

export interface Extent {
  offset: number;
  length: number;
}

/** The data extents of an open file in order; null when the file system cannot say. */
export function fileExtents(fd: number, size: number): Extent[] | null {
  const extents: Extent[] = [];
  for (let at = 0; at < size; ) {
    const start = lseek(fd, at, SEEK_DATA);
    if (start === -E.NXIO) return extents;
    if (start < 0) return null;
    if (start >= size) return extents;
    const end = lseek(fd, start, SEEK_HOLE);
    if (end < 0) return null;
    extents.push({ offset: start, length: Math.min(end, size) - start });
    at = end;
  }
  return extents;
}
