/** The sealed door on the kernel's overlayfs: the stack and the private layer through it, as through the other door. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

let w: World;
const at = (path: string) => join(w.dir, 'view', path);

before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n', 'etc/gone': 'g' });
  await w.build('tool', '1', { 'usr/bin/tool': '1' });
  await w.fleet.templateCreate({ name: 't', layers: ['base', 'tool'], from: [] }, noProgress);
  await w.fleet.create({ name: 'a', template: 't' }, noProgress);
});
after(async () => {
  await w.fleet.umount({ target: 'a', force: true }).catch(() => {});
  await w.remove();
});

test('reads, writes and deletions; the other commands know the mount', async () => {
  const sets = join(w.root, 'appliances/a/whiteouts/local/base_1/etc');
  mkdirSync(sets, { recursive: true });
  execFileSync('mknod', [join(sets, 'gone'), 'c', '0', '0']);
  await w.fleet.mount({ name: 'a', dir: at(''), door: 'sealed' });
  assert.equal(readFileSync(at('usr/bin/tool'), 'utf8'), '1');
  assert.equal(existsSync(at('etc/gone')), false, 'a whiteout of the other door counts');
  writeFileSync(at('etc/motd'), 'mine');
  rmSync(at('usr/bin/tool'));
  assert.deepEqual((await w.fleet.list()).appliances[0]!.mounts, [join(w.dir, 'view')]);
  for (const refused of [
    w.fleet.delete(['a']),
    w.fleet.reset({ name: 'a', keep: [] }),
    w.fleet.mount({ name: 'a', dir: join(w.dir, 'other') }),
    w.fleet.templateFreeze({ name: 't', from: 'a' }, noProgress),
  ])
    await assert.rejects(refused, { code: 'BUSY' });
  await w.build('tool', '2', { 'usr/bin/tool': '2', 'usr/bin/more': '2' });
  await w.fleet.update({}, noProgress);
  assert.equal(existsSync(at('usr/bin/more')), false, 'it keeps its stack');
  const found = (await w.fleet.diff({ name: 'a' })).entries.find((e) => e.path === '/usr/bin/tool');
  assert.equal(found?.layer, 'local/tool 1', 'diff judges by what the mount shows');
  await w.fleet.umount({ target: at('').replace(/\/$/, '') });
  const { entries } = await w.fleet.diff({ name: 'a' });
  assert.ok(entries.some((e) => e.path === '/etc/motd' && e.change === 'changed'));
  await w.fleet.mount({ name: 'a', dir: at(''), door: 'sealed', readOnly: true });
  assert.equal(readFileSync(at('usr/bin/more'), 'utf8'), '2');
  assert.throws(() => writeFileSync(at('etc/new'), ''), { code: 'EROFS' });
});

test('a read-only mount and one that the kernel refuses leave nothing in the private layer', async () => {
  const whiteouts = () =>
    execFileSync('find', [join(w.root, 'appliances/b/private'), '-type', 'c'], { encoding: 'utf8' });
  const dir = at('');
  await w.build('parts', '1', { 'opt/part/file': 'f', 'opt/rest': 'r' });
  await w.fleet.templateCreate({ name: 'u', layers: ['parts'], from: [] }, noProgress);
  await w.fleet.create({ name: 'b', template: 'u' }, noProgress);
  await w.fleet.umount({ target: 'a' });
  await w.fleet.mount({ name: 'b', dir, door: 'sealed' });
  execFileSync('sh', ['-c', 'mv opt/part part; rm -r opt'], { cwd: dir });
  await w.fleet.umount({ target: 'b' });
  const before = whiteouts();
  await w.fleet.mount({ name: 'b', dir, door: 'sealed', readOnly: true });
  assert.deepEqual(readdirSync(dir), ['part']);
  await w.fleet.umount({ target: 'b' });
  assert.equal(whiteouts(), before);
  rmSync(join(w.root, 'appliances/b/sealed-work'), { recursive: true });
  writeFileSync(join(w.root, 'appliances/b/sealed-work'), 'in the way');
  await assert.rejects(w.fleet.mount({ name: 'b', dir, door: 'sealed' }));
  assert.equal(existsSync(join(w.root, 'appliances/b/sealed.json')), false);
  assert.equal(whiteouts(), before);
});
