/**
 * gc and fsck through the front door, with real mounts by both doors: open files, programs in the appliance and its stack survive gc, fsck finds a
 * living state root clean at every moment, and stratad killed in the middle of gc leaves a sound one.
 */
import assert from 'node:assert/strict';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { strataRoot } from '../helpers/strata.ts';

const s = strataRoot('upkeep');
after(() => s.remove());
const dir = (name: string) => join(s.root, 'view', name);

async function publish(version: number): Promise<void> {
  const tree = join(s.root, `tree-${version}`);
  mkdirSync(join(tree, 'usr/share/tool'), { recursive: true });
  writeFileSync(join(tree, 'usr/share/tool/a'), `${version}\n`.repeat(5000));
  writeFileSync(join(tree, `usr/share/tool/only-${version}`), '');
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'tool', '--version', `${version}`);
}

async function assertClean(): Promise<void> {
  const { status, stdout, stderr } = await s.run(['fsck', '--deep']);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /checked: clean/);
}

const generations = () => readdirSync(join(s.root, 'templates/t/generations')).length;

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await publish(1);
  await s.json('template', 'create', 't', 'tool');
  await s.json('create', 'a', '--template', 't', '--count', '20');
  for (const name of ['a-1', 'a-2']) mkdirSync(dir(name), { recursive: true });
});

test('an appliance that is mounted and busy does not notice gc', async () => {
  await s.json('mount', 'a-1', dir('a-1'));
  await assertClean();
  const file = join(dir('a-1'), 'usr/share/tool/a');
  const open = openSync(file, 'r');
  writeFileSync(join(dir('a-1'), 'usr/share/tool/mine'), 'mine');
  rmSync(join(dir('a-1'), 'usr/share/tool/only-1'));
  for (const version of [2, 3, 4]) {
    await publish(version);
    await s.json('update');
  }
  const result = await s.json('gc', '--keep', '1');
  assert.equal(result.count, 3);
  assert.ok(result.bytes > 0);
  assert.equal(generations(), 1);
  const bytes = Buffer.alloc(2);
  readSync(open, bytes, 0, 2, 0);
  closeSync(open);
  assert.equal(bytes.toString(), '1\n');
  assert.equal(readFileSync(file, 'utf8').slice(0, 2), '4\n');
  assert.equal(readFileSync(join(dir('a-1'), 'usr/share/tool/mine'), 'utf8'), 'mine');
  await assertClean();
  await s.json('umount', 'a-1');
  await assertClean();
});

test('a sealed mount keeps the generation that it shows', async (t) => {
  const mounted = await s.run(['mount', 'a-2', dir('a-2'), '--door', 'sealed']);
  if (mounted.status !== 0) {
    assert.match(mounted.stderr, /the kernel refuses a sealed mount/);
    t.diagnostic('this kernel has no sealed door');
    return;
  }
  const before = readFileSync(join(dir('a-2'), 'usr/share/tool/a'), 'utf8');
  for (const version of [5, 6]) {
    await publish(version);
    await s.json('update');
  }
  await s.json('gc', '--keep', '1');
  assert.equal(generations(), 2);
  await assertClean();
  assert.equal(readFileSync(join(dir('a-2'), 'usr/share/tool/a'), 'utf8'), before);
  writeFileSync(join(dir('a-2'), 'usr/share/tool/mine'), 'mine');
  await s.json('umount', 'a-2');
  await assertClean();
  await s.json('gc', '--keep', '1');
  assert.equal(generations(), 1);
  await s.json('mount', 'a-2', dir('a-2'));
  assert.equal(readFileSync(join(dir('a-2'), 'usr/share/tool/a'), 'utf8').slice(0, 2), '6\n');
  await assertClean();
  await s.json('umount', 'a-2');
});

test('fsck and gc beside creates, mounts, writes, updates and deletes; stratad killed in gc', async () => {
  let isDone = false;
  mkdirSync(dir('a-4'), { recursive: true });
  const work = (async () => {
    for (let i = 10; i < 14; i++) {
      await s.json('create', `x${i}`, '--template', 't', '--count', '50');
      await s.json('mount', 'a-4', dir('a-4'));
      writeFileSync(join(dir('a-4'), `usr/share/tool/mine-${i}`), `${i}`);
      rmSync(join(dir('a-4'), 'usr/share/tool/a'));
      await publish(i);
      await s.json('update');
      assert.equal(readFileSync(join(dir('a-4'), 'usr/share/tool/a'), 'utf8').split('\n')[0], `${i}`);
      await s.json('umount', 'a-4');
      await s.json('delete', `x${i}-1`, `x${i}-2`);
    }
    isDone = true;
  })();
  while (!isDone) {
    const { status, stdout, stderr } = await s.run(['fsck']);
    assert.equal(status, 0, stdout + stderr);
    await s.json('gc', '--keep', '2');
    await sleep(20);
  }
  await work;
  const mine = (i: number) => join(s.root, 'appliances/a-4/private/usr/share/tool', `mine-${i}`);
  for (let i = 10; i < 14; i++) assert.equal(readFileSync(mine(i), 'utf8'), `${i}`);
  const pid = Number(readFileSync(join(s.root, 'run/stratad.pid'), 'utf8'));
  const collecting = s.run(['gc', '--keep', '1']);
  await sleep(150);
  process.kill(pid, 'SIGKILL');
  await collecting;
  await assertClean();
  await s.json('gc', '--keep', '1');
  assert.equal(generations(), 1);
  await assertClean();
});

test('damage is told as a table with what to do, status 1; --repair mends', async () => {
  const mac = (await s.json('show', 'a-3')).mac;
  rmSync(join(s.root, 'machines', mac));
  rmSync(join(s.root, 'units/tool_1/index'));
  const found = await s.run(['fsck']);
  assert.equal(found.status, 1);
  assert.match(found.stdout, /^OBJECT +PROBLEM +WHAT TO DO$/m);
  assert.match(found.stdout, /appliance a-3 .*is missing/);
  assert.match(found.stdout, /unit local\/tool 1 .*index is missing/);
  assert.equal((await s.run(['fsck', '--repair'])).status, 0);
  await assertClean();
});
