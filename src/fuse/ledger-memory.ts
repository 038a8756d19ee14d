/** The memory of a ledger: an anonymous file, mapped, whose descriptor a later process gets from the holder. */
import * as sys from '../sys/index.ts';
import type { LedgerMemory } from '../vlfs/index.ts';

const FIRST_BYTES = 32 * 1024;

/** Null when there is no memory. */
export function createLedgerMemory(): { fd: number; memory: LedgerMemory } | null {
  const fd = sys.memfdCreate('strata-ledger');
  if (fd < 0) return null;
  const map = (sizeBytes: number): ArrayBuffer | null => {
    if (sys.ftruncate(fd, sizeBytes) < 0) return null;
    const mapped = sys.mapShared(fd, sizeBytes);
    return typeof mapped === 'number' ? null : mapped;
  };
  const bytes = map(FIRST_BYTES);
  if (bytes !== null) return { fd, memory: { bytes, grow: map } };
  sys.close(fd);
  return null;
}

const stat = sys.newStat();

/** Closes a ledger that nobody will take over. Its memory is free at once; the addresses of the mapping are when its ArrayBuffer is collected. */
export function closeLedgerMemory(fd: number): void {
  if (fd < 0) return;
  const hole = sys.FALLOC_FL_PUNCH_HOLE | sys.FALLOC_FL_KEEP_SIZE;
  if (sys.fstat(fd, stat) === 0 && stat.size > 0) sys.fallocate(fd, hole, 0, stat.size);
  sys.close(fd);
}

/** The whole ledger behind a descriptor, or null. */
export function mapLedger(fd: number): ArrayBuffer | null {
  if (fd < 0 || sys.fstat(fd, stat) < 0 || stat.size === 0) return null;
  const mapped = sys.mapShared(fd, stat.size);
  return typeof mapped === 'number' ? null : mapped;
}
