/** What is to be imported: a directory, a tar archive, or a file that holds a file system; told by looking, never by the name. */
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from 'node:fs';
import { resolve } from 'node:path';
import { asStrataError, StrataError } from '../../base/index.ts';

export type Source = { path: string } & (
  | { kind: 'directory' }
  | { kind: 'tar' }
  | { kind: 'image'; type: ImageType }
);

export type ImageType = 'ext4' | 'xfs' | 'btrfs';

/** Where each file system says what it is. */
const MAGIC: { type: ImageType; offset: number; bytes: number[] }[] = [
  { type: 'ext4', offset: 1080, bytes: [0x53, 0xef] },
  { type: 'xfs', offset: 0, bytes: [0x58, 0x46, 0x53, 0x42] },
  { type: 'btrfs', offset: 0x10040, bytes: [...'_BHRfS_M'].map((c) => c.charCodeAt(0)) },
];
/** gzip, xz, zstd, and ustar in a plain archive. */
const ARCHIVES = [
  { offset: 0, bytes: [0x1f, 0x8b] },
  { offset: 0, bytes: [0xfd, 0x37, 0x7a, 0x58, 0x5a] },
  { offset: 0, bytes: [0x28, 0xb5, 0x2f, 0xfd] },
  { offset: 257, bytes: [0x75, 0x73, 0x74, 0x61, 0x72] },
];

/** Throws NOT_FOUND, UNSUPPORTED. */
export function sourceAt(given: string): Source {
  const path = resolve(given);
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined) throw new StrataError('NOT_FOUND', `there is no ${path}`);
    if (stat.isDirectory()) return { kind: 'directory', path };
    if (stat.isSymbolicLink()) {
      throw new StrataError('UNSUPPORTED', `${path} is a symbolic link`, { hint: 'give what it points to' });
    }
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw new StrataError('UNSUPPORTED', `${path} is neither a directory nor a file`);
    }
    return fileAt(path);
  } catch (error) {
    throw asStrataError(error);
  }
}

function fileAt(path: string): Source {
  // Who may write in the directory can put a pipe there meanwhile.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() && !stat.isBlockDevice())
      throw new StrataError('UNSUPPORTED', `${path} is neither a directory nor a file`);
    const has = ({ offset, bytes }: { offset: number; bytes: number[] }): boolean => {
      const found = Buffer.alloc(bytes.length);
      return (
        readSync(fd, found, 0, found.length, offset) === found.length && found.equals(Buffer.from(bytes))
      );
    };
    if (ARCHIVES.some(has)) return { kind: 'tar', path };
    const image = MAGIC.find(has);
    if (image !== undefined) return { kind: 'image', path, type: image.type };
  } finally {
    closeSync(fd);
  }
  throw new StrataError(
    'UNSUPPORTED',
    `${path} is no tar archive (plain, gzip, xz, zstd) and no ext4, XFS or btrfs`,
    {
      hint: 'of a disk with partitions give the partition; other forms can be unpacked into a directory first',
    },
  );
}
