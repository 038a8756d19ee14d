/** Mounts and unmounts of one VLFS, one after the other, with a little work in each: what strata-fs holds meanwhile. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDataPlane } from '../../src/fuse/index.ts';
import { writeTreeIndex } from '../../src/layer/index.ts';
import { type Memory, memoryOf } from './samples.ts';

/** After each of these numbers of mounts, ascending. */
export async function mountCycles(after: readonly number[]): Promise<Memory[]> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-cycles-'));
  const at = join(dir, 'mnt');
  const samples: Memory[] = [];
  try {
    for (const name of ['root', 'private', 'whiteouts', 'mnt', 'filesystem']) mkdirSync(join(dir, name));
    for (let i = 0; i < 100; i++) {
      mkdirSync(join(dir, `filesystem/d${i % 10}`), { recursive: true });
      writeFileSync(join(dir, `filesystem/d${i % 10}/f${i}`), `${i}`);
    }
    await writeTreeIndex(join(dir, 'index'), join(dir, 'filesystem'));
    const level = {
      kind: 'software' as const,
      id: 'cycles/base 1',
      treeDir: join(dir, 'filesystem'),
      indexFile: join(dir, 'index'),
      whiteoutsDir: null,
    };
    const vlfs = {
      name: 'cycles',
      privateDir: join(dir, 'private'),
      whiteoutsDir: join(dir, 'whiteouts'),
      stack: { key: 'cycles', levels: [level] },
      readOnly: false,
    };
    const plane = await startDataPlane(join(dir, 'root'));
    try {
      const { pid } = await plane.status();
      for (let cycle = 1; samples.length < after.length; cycle++) {
        await plane.mount({ id: 'cycles', mountpoint: at, vlfs, readOnly: false });
        for (const name of readdirSync(join(at, `d${cycle % 10}`)))
          statSync(join(at, `d${cycle % 10}`, name));
        writeFileSync(join(at, 'd1/f1'), `${cycle}`);
        await plane.unmount(at, { force: false });
        if (cycle === after[samples.length]) samples.push(memoryOf(pid));
      }
    } finally {
      await plane.shutdown({ force: true }).catch(() => {});
      plane.close();
    }
    return samples;
  } finally {
    rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  }
}
