/**
 * A strata-fs of its own for one test, serving directories one to one (mirror-vfs.ts) or, `layered`, real VLFSs, and all traces of it removed afterwards, also when the
 * test fails. The test process only uses the mounts; it never serves them.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MNT_DETACH, umount } from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { dataPlanePid, killDataPlane, type OwnedDataPlane, startDataPlane } from '../process/client.ts';
import { strataMountpoints } from '../transport/mountinfo.ts';

export interface TestPlane {
  dir: string;
  root: string;
  plane: OwnedDataPlane;
  /** A new empty directory below dir. */
  makeDir(name: string): string;
  /** Mounts `source` at a new directory and returns that. */
  mount(id: string, source: string): Promise<string>;
  start(): Promise<OwnedDataPlane>;
  /** kill -9 of strata-fs; returns when it is gone. On a busy machine that takes a while, and until then it may be connected to. */
  kill(): Promise<void>;
}

export function mirrorSpec(name: string, source: string): VlfsSpec {
  return {
    name,
    privateDir: source,
    whiteoutsDir: source,
    stack: { key: source, levels: [] },
    readOnly: false,
  };
}

const MODULE = new URL('./mirror-vfs.ts', import.meta.url).href;

export async function withDataPlane(
  body: (test: TestPlane) => Promise<void>,
  options: { spinUs?: number; layered?: boolean; args?: string[] } = {},
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-fuse-test-'));
  const root = join(dir, 'root');
  mkdirSync(root);
  const vlfs = options.layered === true ? [] : ['--vlfs-module', MODULE];
  const args = [...vlfs, '--spin-us', String(options.spinUs ?? 20), ...(options.args ?? [])];
  const makeDir = (name: string): string => {
    mkdirSync(join(dir, name), { recursive: true });
    return join(dir, name);
  };
  const test: TestPlane = {
    dir,
    root,
    plane: await startDataPlane(root, { args }),
    makeDir,
    async mount(id, source) {
      const mountpoint = makeDir(`mnt-${id}`);
      await test.plane.mount({ id, mountpoint, vlfs: mirrorSpec(id, source), readOnly: false });
      return mountpoint;
    },
    start: () => startDataPlane(root, { args }),
    async kill() {
      const pid = dataPlanePid(root);
      assert.notEqual(pid, null);
      process.kill(pid!, 'SIGKILL');
      while (existsSync(`/proc/${pid}`)) await delay(10);
    },
  };
  try {
    await body(test);
  } finally {
    test.plane.close();
    killDataPlane(root, { keepMounts: false });
    for (const path of strataMountpoints().reverse()) if (path.startsWith(dir)) umount(path, MNT_DETACH);
    // An ending process may still write its compile cache.
    rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  }
}
