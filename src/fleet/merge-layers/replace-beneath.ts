/**
 * Replaces one file below a tree that an appliance may have written: in one step, on the disk when it returns, keeping the old file's
 * attributes. No link is followed, so it never writes outside the tree.
 */
import { randomBytes } from 'node:crypto';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { isMarkOfPartial } from '../../vlfs/index.ts';
import { copyAttributes } from './tree-copy.ts';
import { BENEATH, latin1, must } from './untrusted-tree.ts';

/** Writes `content` to `path` below `root`; what is missing is made as root's (directories 0755, the file 0644). Throws BAD_FORMAT, IO, NO_SPACE. */
export function replaceBeneath(root: string, path: string, content: Uint8Array): void {
  const slash = path.lastIndexOf('/');
  const name = path.slice(slash + 1);
  const parent = openParent(root, path.slice(0, Math.max(slash, 0)));
  const temporary = `.tmp-strata-${randomBytes(6).toString('hex')}`;
  try {
    const old = sys.newStat();
    const there = sys.statAt(parent, name, old);
    if (there !== -sys.E.NOENT) must(there, `stat ${path}`);
    const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW | sys.O_CLOEXEC;
    const fd = must(sys.openat(parent, temporary, flags, 0o600), `create ${path}`);
    try {
      for (let at = 0; at < content.length; ) {
        const rest = content.subarray(at);
        at += must(sys.pwrite(fd, rest, rest.length, at), `write ${path}`);
      }
      if (there >= 0 && (old.mode & sys.S_IFMT) === sys.S_IFREG)
        copyAttributes(parent, name, parent, temporary, old, isMarkOfPartial);
      else must(sys.fchmod(fd, 0o644), `write ${path}`);
      must(sys.fsync(fd), `write ${path}`);
    } finally {
      sys.close(fd);
    }
    must(sys.renameat2(parent, temporary, parent, name), `replace ${path}`);
    must(sys.fsync(parent), `write ${path}`);
  } catch (error) {
    sys.unlinkat(parent, temporary);
    throw error;
  } finally {
    sys.close(parent);
  }
}

function openParent(root: string, path: string): number {
  const directory = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC;
  let fd = must(sys.openat(sys.AT_FDCWD, latin1(root), directory), `open ${root}`);
  for (const name of path.split('/').filter(Boolean)) {
    const made = sys.mkdirat(fd, name, 0o755);
    const next = made < 0 && made !== -sys.E.EXIST ? made : sys.openat2(fd, name, directory, 0, BENEATH);
    sys.close(fd);
    if (next === -sys.E.LOOP || next === -sys.E.NOTDIR)
      throw new StrataError(
        'BAD_FORMAT',
        `cannot write in /${path}: ${name} is a link or a file, not a directory`,
      );
    fd = must(next, `open /${path}`);
  }
  return fd;
}
