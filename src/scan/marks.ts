/**
 * The mark of private files in quarantine, `trusted.strata.quarantine` = their digest: a private file has no index that tells its content. It
 * goes with the inode through renames, links, clones and freezes, and means something only while the digest is in quarantine.
 */
import { type Digest, nameFromText, nameToText } from '../base/index.ts';
import * as sys from '../sys/index.ts';
import { QUARANTINE_XATTR } from '../vlfs/index.ts';
import type { VerdictStore } from './store.ts';
import { walkedFiles } from './walk.ts';

/** Marks an open file whose content has this digest. What the store knew of it stays known: only its change time moves. 0 or a negative errno. */
export function markFile(fd: number, digest: Digest, store: VerdictStore | null): number {
  const present = sys.fgetxattr(fd, QUARANTINE_XATTR);
  if (typeof present !== 'number' && Buffer.from(present).toString('latin1') === digest) return 0;
  const stat = sys.newStat();
  const wasKnown = store !== null && sys.fstat(fd, stat) === 0 && store.digestOf(stat) === digest;
  const result = sys.fsetxattr(fd, QUARANTINE_XATTR, Buffer.from(nameFromText(digest), 'latin1'));
  if (result === 0 && wasKnown && sys.fstat(fd, stat) === 0) store.remember(stat, digest);
  return result;
}

/** The path of a file below `dir` that is marked with one of the digests, or null. */
export function heldMark(dir: string, digests: ReadonlySet<string>): string | null {
  for (const file of walkedFiles(dir, () => {})) {
    const mark = file.attribute(QUARANTINE_XATTR);
    if (typeof mark !== 'number' && digests.has(Buffer.from(mark).toString('latin1')))
      return nameToText(file.path());
  }
  return null;
}
