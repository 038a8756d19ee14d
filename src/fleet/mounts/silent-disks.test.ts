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

async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  const began = performance.now();
  const result = await work;
  const took = performance.now() - began;
  assert.ok(took < ms, `${what} took ${Math.round(took)} ms`);
  return result;
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
    assert.equal((await within(2000, 'list', w.fleet.list())).appliances.length, 2);
    const { entries } = await within(5000, 'diff of another', w.fleet.diff({ name: 'well' }));
    assert.deepEqual(
      entries.map(({ path }) => path),
      ['/own'],
    );
    await within(5000, 'show of another', w.fleet.show('well'));
    await w.build('base', '2', { 'etc/motd': 'two\n' });
    await within(SILENT_MS + 10_000, 'an update', w.fleet.update({}, noProgress));
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
