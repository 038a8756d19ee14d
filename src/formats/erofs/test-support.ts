/** For the tests of EROFS images: an image mounted by the kernel for the time of one function. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as sys from '../../sys/index.ts';

function must(result: number, what: string): number {
  if (result < 0) throw new Error(`${what}: ${sys.errnoName(-result)}`);
  return result;
}

/** Writes the image to a file and mounts that file; both are gone afterwards. */
export function withImage<T>(image: Uint8Array, body: (mountpoint: string, file: string) => T): T {
  const dir = mkdtempSync(join(tmpdir(), 'strata-erofs-'));
  const file = join(dir, 'image');
  const mountpoint = mkdtempSync(join(dir, 'mnt-'));
  writeFileSync(file, image);
  const fd = openSync(file, 'r');
  const erofs = must(sys.fsopen('erofs'), 'fsopen');
  try {
    must(sys.fsconfigString(erofs, 'source', `/proc/self/fd/${fd}`), 'source');
    const created = sys.fsconfigCreate(erofs);
    if (created < 0) throw new Error(`the kernel refuses the image: ${sys.fsMessages(erofs)}`);
    const mount = must(sys.fsmount(erofs, 1), 'fsmount');
    must(sys.attachMount(mount, mountpoint), 'move_mount');
    sys.close(mount);
    try {
      return body(mountpoint, file);
    } finally {
      must(sys.umount(mountpoint, sys.MNT_DETACH), 'umount');
    }
  } finally {
    sys.close(erofs);
    closeSync(fd);
    rmSync(dir, { recursive: true, force: true });
  }
}
