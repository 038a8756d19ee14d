/**
 * A file system in memory that does all that ext4 does (overlayfs upper layers, file-backed EROFS) but waits for nothing: ext4 without a journal on a loop device
 * over a file in tmpfs. Rows that write then measure what the processor does, not what the disk was doing.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MNT_DETACH, umount } from '../../src/sys/index.ts';

export interface MemoryDisk {
  dir: string;
  remove(): void;
}

/** As large as `gib`; it takes memory for what is written to it. */
export function memoryDisk(gib: number): MemoryDisk {
  const base = mkdtempSync('/dev/shm/strata-bench-disk-');
  const dir = join(base, 'mounted');
  const remove = (): void => {
    // Its loop device goes with the mount.
    umount(dir, MNT_DETACH);
    rmSync(base, { recursive: true, force: true });
  };
  try {
    const file = join(base, 'disk');
    mkdirSync(dir);
    writeFileSync(file, '');
    truncateSync(file, gib * 2 ** 30);
    const extended = 'lazy_itable_init=0,nodiscard';
    execFileSync('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-E', extended, file], { stdio: 'pipe' });
    execFileSync('mount', ['-o', 'loop', file, dir], { stdio: 'pipe' });
    return { dir, remove };
  } catch (error) {
    remove();
    throw error;
  }
}
