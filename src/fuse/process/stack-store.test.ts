/** Stacks are stored once, and go when nothing needs them. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openMountRecords } from './mount-records.ts';
import { dataPlanePaths } from './paths.ts';

const MINUTE_MS = 60_000;

test('a stack goes a minute after it was last asked for, unless something is recorded or served with it', (t) => {
  const root = mkdtempSync(join(tmpdir(), 'strata-stacks-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000_000_000 });
  const paths = dataPlanePaths(root);
  const records = openMountRecords(paths);
  const vlfs = { name: 'a', privateDir: '/p', whiteoutsDir: '/w', readOnly: false };
  const mount = (key: string): void =>
    records.put({
      id: 'a',
      mountpoint: '/mnt',
      readOnly: false,
      vlfs: { ...vlfs, stack: { key, levels: [] } },
    });
  const served = new Set([records.stacks.put({ key: 'served', levels: [] })]);
  for (let clone = 0; clone < 100; clone++) mount(`clone ${clone}`);
  assert.equal(readdirSync(paths.stacksDir).length, 101);
  assert.equal(records.sweep(served, MINUTE_MS), true, 'they may be on their way to a mount');
  t.mock.timers.tick(MINUTE_MS - 1000);
  records.stacks.ofKey('clone 7');
  t.mock.timers.tick(1000);
  assert.equal(records.sweep(served, MINUTE_MS), true);
  assert.equal(readdirSync(paths.stacksDir).length, 3, 'that which was asked for, recorded, served');
  t.mock.timers.tick(MINUTE_MS);
  assert.equal(records.sweep(served, MINUTE_MS), false);
  assert.throws(() => records.stacks.ofKey('clone 7'), { data: { unknownStack: 'clone 7' } });

  const next = openMountRecords(paths);
  assert.equal(next.list()[0]?.vlfs.stack.key, 'clone 99', 'a new strata-fs finds the stack of its mount');
  assert.equal(next.sweep(served), false);
  assert.equal(readdirSync(paths.stacksDir).length, 2);
  mount('clone 7');
  assert.equal(records.list()[0]?.vlfs.stack.key, 'clone 7', 'what went is stored again');
});
