/** A running container holds its own appliance and no other: what is unmounted meanwhile ends at once and can be mounted again. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('lifetime');
after(() => s.remove());

before(async () => {
  const tree = join(s.root, 'tree');
  await sh(`mkdir -p ${tree}/usr/bin ${tree}/tmp && ln -s usr/bin ${tree}/bin && cp /bin/busybox ${tree}/usr/bin/ &&
    for c in sh sleep touch; do ln -s busybox ${tree}/usr/bin/$c; done`);
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'shell', '--version', '1');
  await s.json('template', 'create', 't', 'local/shell');
  await s.json('create', 'm', '--template', 't', '--count', '2');
});

test('an appliance that was mounted when another container started can be unmounted and mounted again', async () => {
  const dir = join(s.root, 'view');
  mkdirSync(dir);
  await s.json('mount', 'm-1', dir);
  const container = s.start(['run', 'm-2', '--', 'sh', '-c', 'touch /tmp/runs; sleep 1000']);
  await until('the container runs', () => existsSync(join(s.root, 'appliances/m-2/private/tmp/runs')));
  await s.json('umount', 'm-1');
  await s.json('mount', 'm-1', dir);
  assert.equal((await s.run(['run', 'm-1', '--', 'sh', '-c', 'exit 5'])).status, 5);
  await s.json('umount', 'm-1');
  container.kill('SIGTERM');
});

test('an appliance that is still used after a forced unmount cannot be deleted; its successor begins afresh', async () => {
  const dir = join(s.root, 'forced');
  await s.json('create', 'f', '--template', 't');
  await s.json('mount', 'f', dir);
  writeFileSync(join(dir, 'tmp/old'), 'old');
  const used = openSync(join(dir, 'tmp/log'), 'w');
  await s.json('umount', 'f', '--force');
  const refused = await s.run(['delete', 'f']);
  assert.match(refused.stderr, /f was unmounted, but is still in use elsewhere/);
  assert.equal(writeSync(used, 'still here'), 10);
  assert.equal(readFileSync(join(s.root, 'appliances/f/private/tmp/log'), 'utf8'), 'still here');
  closeSync(used);
  await s.json('delete', 'f');
  await s.json('create', 'f', '--template', 't');
  await s.json('mount', 'f', dir);
  assert.ok(!existsSync(join(dir, 'tmp/old')));
  await s.json('umount', 'f');
});
