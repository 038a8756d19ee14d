import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../base/until.test-support.ts';
import type { DataPlane } from '../fuse/contract.ts';
import { superviseDataPlane } from './supervisor.ts';

/** A data plane whose processes are numbers in a set. */
function fakeWorld() {
  const alive = new Set<number>();
  const log: string[] = [];
  const counts = { started: 0, recovered: 0 };
  let found: number | null = null;
  const planeOf = (pid: number): DataPlane => ({
    mount: async () => {},
    unmount: async () => {},
    relayer: async () => {},
    prepareFreeze: async () => {},
    freeze: async () => true,
    follow: async () => {},
    revert: async () => [String(pid)],
    reset: async () => {},
    exchange: async () => {},
    readScanState: async () => {},
    find: async () => ({ pid, mounts: [], isLingering: false }),
    status: async () => ({
      pid,
      uptimeMs: 1,
      mounts: [],
      lingering: [],
      memoryBytes: 1,
      passthroughOpens: 0,
      kernel: { fuseMinor: 45, passthrough: true, incEpoch: true },
    }),
    close: () => {},
  });
  const supervisor = superviseDataPlane({
    log: (_level, message) => log.push(message),
    connect: async () => (found === null ? null : planeOf(found)),
    start: async () => {
      await sleep(20);
      counts.started += 1;
      alive.add(1000 + counts.started);
      return planeOf(1000 + counts.started);
    },
    recover: async () => {
      counts.recovered += 1;
      return [];
    },
    isAlive: (pid) => alive.has(pid),
  });
  return {
    supervisor,
    counts,
    log,
    kill: (pid: number) => alive.delete(pid),
    find: (pid: number) => {
      found = pid;
      alive.add(pid);
    },
  };
}

test('starts one process however many ask, and only when asked', async () => {
  const { supervisor, counts } = fakeWorld();
  await supervisor.adopt(false);
  assert.equal(counts.started, 0);
  const answers = await Promise.all([1, 2, 3].map(() => supervisor.plane.revert('a', [])));
  assert.deepEqual(answers, [['1001'], ['1001'], ['1001']]);
  assert.equal(counts.started, 1);
  supervisor.close();
});

test('finds the running one after a restart of the daemon', async () => {
  const { supervisor, counts, find } = fakeWorld();
  find(77);
  await supervisor.adopt(true);
  assert.equal(supervisor.pid(), 77);
  assert.deepEqual([counts.started, counts.recovered], [0, 1], 'only what was not taken over is made again');
  supervisor.close();
});

test('a death is answered by a new process that makes the mounts again', async () => {
  const { supervisor, counts, kill, log } = fakeWorld();
  await supervisor.plane.status();
  kill(1001);
  await until('another one is there', () => supervisor.pid() === 1002);
  assert.equal(counts.recovered, 2);
  assert.ok(log.some((message) => message.includes('died')));
  assert.deepEqual(await supervisor.plane.revert('a', []), ['1002']);
  supervisor.close();
});

test('a death on purpose is left alone', async () => {
  const { supervisor, counts, kill } = fakeWorld();
  await supervisor.plane.status();
  supervisor.retire();
  kill(1001);
  await sleep(500);
  assert.equal(counts.started, 1);
  supervisor.close();
});
