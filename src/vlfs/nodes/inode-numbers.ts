/**
 * Stable st_ino numbers of a VLFS, without any table on disk. Bit 52 tells shared from private, so the two never meet:
 *   private-born  the backing file system's own number (ext4, XFS, btrfs and tmpfs stay below 2^52)
 *   shared file   2^52 + (h(unit id) + number of the leading hard-link entry); h is 52 bits of SHA-256
 *   directory     2^52 + h(path in the layers): a directory keeps its number when the unit that gives its attributes changes
 * Within a unit numbers are distinct by construction. Across units two ranges overlap with probability about U * N / 2^52: 1e-8 for
 * 1,000 units with 43,000 entries, 1e-5 for the limits of base/limits (16,384 units, 4 million entries). A copied-up object keeps
 * its number in the extended attribute `trusted.strata.ino`.
 */
import { hash } from 'node:crypto';

const SHARED_BIT = 2 ** 52;
const ENTRIES = 2 ** 22;

/** 52 bits of the SHA-256 of `text` (latin1), less the room for a unit's entries. */
function hash52(text: string): number {
  const digest = hash('sha256', Buffer.from(text, 'latin1'), 'buffer');
  const value = digest.readUInt32LE(0) * 2 ** 20 + (digest.readUInt32LE(4) & 0xfffff);
  return value % (SHARED_BIT - ENTRIES);
}

/** First number of a unit's range. */
export function unitInoBase(unitId: string): number {
  return SHARED_BIT + hash52(`unit\0${unitId}`);
}

/** The number of a merged directory; `path` is its path in the layers, '' for the root. */
export function directoryIno(path: string): number {
  return SHARED_BIT + hash52(`directory\0${path}`);
}

/** The number of a file born in the private layer. */
export function privateIno(backingIno: number): number {
  return backingIno < SHARED_BIT ? backingIno : backingIno % SHARED_BIT;
}
