/** Files stay open for their next open only as long as nothing about them changed, and a deleted one gives its space back at once. */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { Client, makeSandbox, stackOf } from '../test-support/vlfs.test-support.ts';

/** Open descriptors of this process below a directory. */
function openBelow(dir: string): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      return path.startsWith(dir) && !path.endsWith('/') ? [path.slice(dir.length + 1)] : [];
    } catch {
      return [];
    }
  });
}

test('parked files: kept for the next open, closed by copy-up, deletion, relayer and end', async () => {
  const box = makeSandbox();
  try {
    const a1 = await box.unit('a', '1', { 'etc/one': 'one', 'etc/two': 'two' });
    const a2 = await box.unit('a', '2', { 'etc/one': 'ONE', 'etc/two': 'TWO' });
    const spec = box.spec('appliance', [a1]);
    const closed: number[] = [];
    const c = new Client(spec, { passthrough: true, onBackingClosed: (node) => closed.push(node) });
    const files = () => openBelow(box.dir).filter((path) => /one|two|own/.test(path));

    const first = c.open('etc/one', 0);
    assert.equal(first.out.keepsBacking, true);
    c.release(first);
    assert.deepEqual(files(), ['repo/a_1/filesystem/etc/one']);
    const second = c.open('etc/one', 0);
    assert.equal(second.out.backingFd, first.out.backingFd);
    assert.equal(c.readHandle(second), 'one');
    c.release(second);

    c.append('etc/one', '!');
    assert.deepEqual(
      closed,
      [first.id, first.id],
      'the shared file at the copy-up, the written one at its release',
    );
    assert.deepEqual(files(), []);
    assert.equal(c.read('etc/one'), 'one!');
    assert.deepEqual(files(), ['appliances/appliance/private/etc/one']);
    c.unlink('etc/one');
    assert.deepEqual(files(), [], 'a deleted file is not kept');

    const reader = c.open('etc/two', 0);
    c.fs.relayer(stackOf([a2]));
    assert.equal(c.readHandle(reader), 'two');
    assert.equal(c.read('etc/two'), 'TWO');
    c.release(reader);
    assert.equal(c.read('etc/two'), 'TWO');

    c.write('etc/own', 'mine');
    assert.ok(
      !files().some((path) => path.endsWith('own')),
      'closing a written file may bring it to the disk',
    );
    c.fs.revert(['etc']);
    assert.equal(c.read('etc/two'), 'TWO');
    c.close();
    assert.deepEqual(files(), []);
    assert.deepEqual(c.faults, []);
  } finally {
    box.remove();
  }
});
