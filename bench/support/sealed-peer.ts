/** The sealed door as a peer: a mount in this process, from an image that is made once for all mounts of its stack. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { umount } from '../../src/sys/index.ts';
import type { StackSpec, VlfsSpec } from '../../src/vlfs/contract.ts';
import { mountSealed } from '../../src/vlfs/index.ts';
import type { Peer } from './vlfs-peers.ts';

/** A VLFS of the stack whose private directories are made in `dir`. */
export function specIn(dir: string, stack: StackSpec): VlfsSpec {
  for (const name of ['private', 'whiteouts']) mkdirSync(join(dir, name), { recursive: true });
  return {
    name: 'bench',
    privateDir: join(dir, 'private'),
    whiteoutsDir: join(dir, 'whiteouts'),
    stack,
    readOnly: false,
  };
}

/** `dataRoots`: the directories that the layers stand in, none above the mounts': overlayfs takes no layers that overlap. */
export function sealedPeer(
  name: string,
  { work, stack, dataRoots }: { work: string; stack: StackSpec; dataRoots: string[] },
): Peer {
  return {
    name,
    async mount() {
      const dir = mkdtempSync(join(work, 'mount-'));
      const mnt = join(dir, 'mnt');
      mkdirSync(mnt);
      const spec = specIn(dir, stack);
      const began = performance.now();
      await mountSealed({
        spec,
        imageDir: join(work, 'sealed'),
        dataRoots,
        dir: mnt,
        source: 'strata-bench',
      });
      const mountMs = performance.now() - began;
      return {
        tree: mnt,
        fresh: mnt,
        pid: null,
        mountMs,
        async unmount() {
          const result = umount(mnt, 0);
          if (result < 0) throw new Error(`unmount of ${name} failed: errno ${-result}`);
          rmSync(dir, { recursive: true });
        },
      };
    },
  };
}
