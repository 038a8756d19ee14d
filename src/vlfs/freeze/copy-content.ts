/** The content of one open file for another, in the thread that asks. */
import {
  copyFileRange,
  E,
  ficlone,
  ftruncate,
  lseek,
  pread,
  pwrite,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../sys/index.ts';

/** Shares blocks where the file system can; holes stay holes. 0 or a negative errno. */
export function copyContent(from: number, to: number, size: number): number {
  if (size === 0) return 0;
  if (ficlone(to, from) === 0) return ftruncate(to, size);
  for (let at = 0; at < size; ) {
    const data = lseek(from, at, SEEK_DATA);
    if (data === -E.NXIO) break;
    const begin = data < 0 ? at : data;
    const hole = data < 0 ? size : lseek(from, begin, SEEK_HOLE);
    const end = Math.min(hole < 0 ? size : hole, size);
    if (begin >= size) break;
    const copied = copyPart(from, to, begin, end - begin);
    if (copied <= 0) return copied === 0 ? ftruncate(to, size) : copied;
    at = begin + copied;
  }
  return ftruncate(to, size);
}

const chunk = Buffer.allocUnsafeSlow(256 * 1024);

function copyPart(from: number, to: number, offset: number, size: number): number {
  const copied = copyFileRange(from, offset, to, offset, size);
  if (copied >= 0 || copied === -E.NOSPC || copied === -E.DQUOT || copied === -E.IO) return copied;
  const got = pread(from, chunk, Math.min(chunk.length, size), offset);
  for (let done = 0; done < got; ) {
    const put = pwrite(to, chunk.subarray(done, got), got - done, offset + done);
    if (put < 0) return put;
    done += put;
  }
  return got;
}
