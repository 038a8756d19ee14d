/** Where mounts are made: on directories, never on what a link leads to, which somebody may have put into the place of one that was checked. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nameFromText } from '../../base/index.ts';
import { attachMount, close, fsconfigCreate, fsmount, fsopen, MNT_DETACH, umount } from '../../sys/index.ts';
import { bindMount, mountFuse } from './device.ts';

test('no mount follows a link', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-place-'));
  const at = (path: string) => nameFromText(join(dir, path));
  const mounts = () =>
    readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .filter((line) => line.includes(` ${dir}/`)).length;
  try {
    for (const name of ['victim/below', 'from', 'to']) mkdirSync(at(name), { recursive: true });
    writeFileSync(at('from/file'), '');
    symlinkSync('victim', at('link'));
    for (const place of ['link', 'link/below']) {
      assert.throws(() => mountFuse(at(place), false, () => {}), { code: 'IO' }, place);
      assert.throws(() => bindMount(at('from'), at(place), false), { code: 'IO' }, place);
      assert.throws(() => bindMount(at(place), at('to'), false), { code: 'IO' }, place);
      const detached = fsopen('tmpfs');
      assert.ok(fsconfigCreate(detached) >= 0);
      const mount = fsmount(detached);
      assert.ok(attachMount(mount, at(place)) < 0, place);
      for (const fd of [mount, detached]) close(fd);
    }
    assert.equal(mounts(), 0);
    bindMount(at('from'), at('to'), true);
    assert.equal(mounts(), 1);
    assert.throws(() => writeFileSync(at('to/file'), 'x'), { code: 'EROFS' });
  } finally {
    umount(at('to'), MNT_DETACH);
    rmSync(dir, { recursive: true });
  }
});
