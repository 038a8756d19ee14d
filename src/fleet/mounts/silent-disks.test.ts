/** A disk under one appliance that does not answer: only who asks for that appliance waits. The disk is a FUSE connection that nobody serves. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { makeWorld } from '../fleet.test-support.ts';
import { SILENT_MS } from './silent-disks.ts';

/** Mounts a file system that never answers; the result ends it. */
function hangingDisk(dir: string): () => void {
  const fd = sys.openat(sys.AT_FDCWD, '/dev/fuse', sys.O_RDWR | sys.O_NONBLOCK | sys.O_CLOEXEC);
  assert.ok(fd >= 0);
  assert.equal(sys.mount('hangs', dir, 'fuse', 0, `fd=${fd},rootmode=40000,user_id=0,group_id=0`), 0);
  return () => {
    sys.umount(dir, sys.MNT_DETACH);
    sys.close(fd);
  };
}

/** That the work does not wait for the disk, not even SILENT_MS: on a machine with other work, in the best of some tries. */
async function promptly<T>(what: string, work: () => Promise<T>): Promise<T> {
  let best = Number.POSITIVE_INFINITY;
  for (let tries = 0; ; tries++) {
    const began = performance.now();
    const result = await work();
    best = Math.min(best, performance.now() - began);
    if (best < SILENT_MS / 2) return result;
    assert.ok(tries < 20, `${what} took ${Math.round(best)} ms`);
  }
}

test('a disk that hangs under one appliance keeps only those waiting who ask for that appliance', async () => {
  const w = await makeWorld();
  let unhang = (): void => {};
  try {
    await w.build('base', '1', { 'etc/motd': 'one\n' });
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    await w.fleet.create({ template: 't', name: 'hangs' }, noProgress);
    await w.fleet.create({ template: 't', name: 'well' }, noProgress);
    const wellPrivate = join(w.root, 'appliances/well/private');
    writeFileSync(join(wellPrivate, 'own'), 'own');
    unhang = hangingDisk(join(w.root, 'appliances/hangs/private'));
    const hanging = w.fleet.diff({ name: 'hangs' }).then(
      () => 'answered',
      () => 'refused',
    );
    assert.equal((await promptly('list', () => w.fleet.list())).appliances.length, 2);
    const { entries } = await promptly('diff of another', () => w.fleet.diff({ name: 'well' }));
    assert.deepEqual(
      entries.map(({ path }) => path),
      ['/own'],
    );
    await promptly('show of another', () => w.fleet.show('well'));
    await w.build('base', '2', { 'etc/motd': 'two\n' });
    // It ends, though the disk never answers.
    await w.fleet.update({}, noProgress);
    assert.equal((await w.fleet.templateShow('t')).generation, 2);
    assert.equal(await Promise.race([hanging, Promise.resolve('waits')]), 'waits');
    unhang();
    unhang = () => {};
    assert.notEqual(await hanging, 'waits');
  } finally {
    unhang();
    await w.remove();
  }
});
