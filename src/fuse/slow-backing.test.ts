/**
 * Slow work in one appliance, its disk or a large copy-up, does not make its neighbours wait: on an idle machine their 99th percentile stays below
 * 5 ms. Other work on the machine moves that figure, so a test tells waiting from not waiting, in the best of a few rounds.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { writeTreeIndex } from '../layer/index.ts';
import { MNT_DETACH, umount } from '../sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../vlfs/contract.ts';
import { killDataPlane, startDataPlane } from './process/client.ts';
import { mirrorSpec, type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

const SLOW_MODULE = new URL('./test-support/slow-vfs.ts', import.meta.url).href;
/** Every operation of the throttled file system. */
const SLOW_MS = 40;
/** The target of the 99th percentile: a round below it is the last one. */
const P99_MS = 5;
const ROUNDS = 5;
/** So many when the machine is so busy that none of those tells waiting from not waiting. */
const MOST_ROUNDS = 30;
/** Who waits for the throttled file system or for a copy waits longer. */
const WAITED_MS = SLOW_MS / 2;

function specOf(t: TestPlane, name: string, privateDir: string, levels: LevelSpec[]): VlfsSpec {
  const whiteoutsDir = t.makeDir(`appliances/${name}/whiteouts`);
  mkdirSync(privateDir, { recursive: true });
  return {
    name,
    privateDir,
    whiteoutsDir,
    stack: { key: levels.map((level) => level.id).join('+'), levels },
    readOnly: false,
  };
}

async function mounted(t: TestPlane, name: string, privateDir: string, levels: LevelSpec[]): Promise<string> {
  const mountpoint = t.makeDir(`mnt-${name}`);
  const vlfs = specOf(t, name, privateDir, levels);
  await t.plane.mount({ id: name, mountpoint, vlfs, readOnly: false });
  return mountpoint;
}

/** Milliseconds of `rounds` times: create, look up, ask for a name that is not there, remove; nothing of it is in the kernel's caches. */
async function probe(dir: string, rounds: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const file = join(dir, `probe-${i}`);
    const began = performance.now();
    closeSync(openSync(file, 'w'));
    statSync(`${file}-absent`, { throwIfNoEntry: false });
    rmSync(file);
    times.push(performance.now() - began);
    await delay(1);
  }
  return times.sort((a, b) => a - b);
}

const percentile = (sorted: number[], part: number): number => sorted[Math.floor(sorted.length * part)]!;

interface Waits {
  p99: number;
  median: number;
}

async function worstNeighbour(neighbours: string[], rounds: number): Promise<Waits> {
  const worst: Waits = { p99: 0, median: 0 };
  for (const dir of neighbours) {
    const sorted = await probe(dir, rounds);
    worst.p99 = Math.max(worst.p99, percentile(sorted, 0.99));
    worst.median = Math.max(worst.median, percentile(sorted, 0.5));
  }
  return worst;
}

/** The round with the smallest median; the first one whose p99 is what it is on an idle machine is the last. */
async function bestOf(round: () => Promise<Waits>): Promise<Waits> {
  let best = await round();
  for (let i = 1; i < (best.median < WAITED_MS ? ROUNDS : MOST_ROUNDS) && best.p99 >= P99_MS; i++) {
    const now = await round();
    if (now.median < best.median) best = now;
  }
  return best;
}

async function bestRound(round: (i: number) => Promise<number>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < (best < WAITED_MS ? ROUNDS : MOST_ROUNDS) && best >= P99_MS; i++)
    best = Math.min(best, await round(i));
  return best;
}

async function ended(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  if (child.exitCode === null && child.signalCode === null)
    await new Promise((resolve) => child.once('exit', resolve));
}

/** Runs `body` with the mount of a throttled file system over `source`. */
async function withSlowDisk(t: TestPlane, body: (disk: string) => Promise<void>): Promise<void> {
  const root = t.makeDir('slow-root');
  const source = t.makeDir('slow-source');
  const disk = t.makeDir('slow-disk');
  const plane = await startDataPlane(root, { args: ['--vlfs-module', SLOW_MODULE] });
  try {
    const vlfs = { ...mirrorSpec(`slow-${SLOW_MS}`, source), stack: { key: 'none', levels: [] } };
    await plane.mount({ id: 'disk', mountpoint: disk, vlfs, readOnly: false });
    await body(disk);
  } finally {
    umount(disk, MNT_DETACH);
    plane.close();
    killDataPlane(root, { keepMounts: false });
  }
}

test('an appliance on a slow disk does not make its neighbours wait', async (context) => {
  await withDataPlane(
    async (t) => {
      const neighbours: string[] = [];
      for (const name of ['a', 'b', 'c', 'd'])
        neighbours.push(await mounted(t, name, join(t.dir, 'appliances', name, 'private'), []));
      await withSlowDisk(t, async (disk) => {
        const victim = await mounted(t, 'victim', join(disk, 'private'), []);
        // Everything that a program does, by four programs at once: files, directories, listings, syncs.
        const load = spawn(
          'sh',
          [
            '-c',
            `for n in 1 2 3 4; do while mkdir -p $n/d; do echo x > $n/d/f; sync $n/d/f; ls -l $n $n/d; mv $n/d/f $n/g; rm -r $n; done & done; wait`,
          ],
          { cwd: victim, stdio: 'ignore', detached: true },
        );
        try {
          await delay(500);
          const { p99, median } = await bestOf(() => worstNeighbour(neighbours, 150));
          context.diagnostic(`p99 ${p99.toFixed(2)} ms, median ${median.toFixed(2)} ms beside the slow disk`);
          // Four programs keep that disk busy all the time: who waits for it always does.
          assert.ok(median < WAITED_MS, `${median} ms`);
          const { mounts } = await t.plane.status();
          assert.ok(mounts.length >= neighbours.length, 'the status is told beside it');
        } finally {
          process.kill(-load.pid!, 'SIGKILL');
          await ended(load);
          umount(victim, MNT_DETACH);
        }
      });
    },
    { layered: true },
  );
});

test('copy-up of a large file does not make its neighbours wait', async (context) => {
  await withDataPlane(
    async (t) => {
      const sizeBytes = Number(process.env['STRATA_TEST_COPY_MB'] ?? 256) << 20;
      const tree = t.makeDir('repo/big_1/filesystem');
      const chunk = Buffer.alloc(1 << 20, 'some data ');
      const fd = openSync(join(tree, 'big'), 'w');
      for (let at = 0; at < sizeBytes; at += chunk.length) writeSync(fd, chunk);
      fsyncSync(fd);
      closeSync(fd);
      const indexFile = join(t.dir, 'repo/big_1/index');
      await writeTreeIndex(indexFile, tree);
      const level: LevelSpec = {
        kind: 'software',
        id: 'main/big 1',
        treeDir: tree,
        indexFile,
        whiteoutsDir: null,
      };
      const neighbours: string[] = [];
      for (const name of ['a', 'b'])
        neighbours.push(await mounted(t, name, join(t.dir, 'appliances', name, 'private'), [level]));
      const p99 = await bestRound(async (round) => {
        const name = `victim-${round}`;
        const victim = await mounted(t, name, join(t.dir, 'appliances', name, 'private'), [level]);
        const writer = spawn('sh', ['-c', 'echo x | dd of=big conv=notrunc bs=1 status=none'], {
          cwd: victim,
        });
        const exit = new Promise((resolve) => writer.once('exit', resolve));
        const times: number[][] = neighbours.map(() => []);
        while (writer.exitCode === null)
          for (const [i, dir] of neighbours.entries()) times[i]!.push(...(await probe(dir, 20)));
        assert.equal(await exit, 0);
        assert.equal(statSync(join(victim, 'big')).size, sizeBytes);
        writeFileSync(join(victim, 'after'), '');
        return Math.max(
          ...times.map((all) =>
            percentile(
              all.sort((a, b) => a - b),
              0.99,
            ),
          ),
        );
      });
      context.diagnostic(`p99 ${p99.toFixed(2)} ms beside the copy of ${sizeBytes >> 20} MiB`);
      assert.ok(p99 < WAITED_MS, `${p99} ms`);
    },
    { layered: true },
  );
});
