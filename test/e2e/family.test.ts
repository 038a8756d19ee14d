/**
 * Families through the command line, on real mounts: what tells two relatives apart while both run, a merge with hard links, renames, attributes and types, conflicts and
 * choices, snapshots and the way back, the tree, and an end that comes by itself.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('family');
after(() => s.remove());

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

/** Mounts, does, unmounts. */
async function inside(name: string, text: string): Promise<string> {
  const dir = join(s.root, 'view', name);
  await s.json('mount', name, dir);
  try {
    return await script(`cd '${dir}'; ${text}`);
  } finally {
    await s.json('umount', name);
  }
}

async function diff(...words: string[]): Promise<string[]> {
  const { entries } = (await s.json('diff', ...words)) as { entries: { path: string; change: string }[] };
  return entries.map(({ path, change }) => `${change} ${path}`);
}

/** Everything that can be seen of a tree, but times of directories. */
const LOOK = `find . -printf '%P %y %m %U %G %n %l ' \\( -type d -o -printf '%s %T@' \\) -printf '\\n' | sort
  find . -type f | sort | xargs -d '\\n' sha256sum; getfattr -R -d -m '^user' . 2>/dev/null | sort`;

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  const tree = join(s.root, 'trees/base');
  mkdirSync(tree, { recursive: true });
  await script(`cd '${tree}'; mkdir -p etc usr/share/doc/a usr/bin srv
    echo base > etc/motd; echo hosts > etc/hosts; echo tool > usr/bin/tool
    for i in 1 2 3; do echo $i > usr/share/doc/a/$i; done
    head -c 400000 /dev/urandom > usr/share/big`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  await s.json('create', 'web', '--template', 't');
  await inside(
    'web',
    'echo mine > etc/motd; mkdir srv/data; echo 1 > srv/data/one; ln srv/data/one srv/data/two',
  );
  await s.json('clone', 'web', 'test');
});

test('what tells two mounted relatives apart', async () => {
  assert.deepEqual(await diff('web', 'test'), []);
  const [web, clone] = ['web', 'test'].map((name) => join(s.root, 'view', name));
  for (const name of ['web', 'test']) await s.json('mount', name, join(s.root, 'view', name));
  await script(`echo changed > '${clone}/srv/data/one'; rm '${clone}/etc/hosts'; echo new > '${web}/srv/new'
    chmod 700 '${clone}/usr/bin/tool'; cp -p '${clone}/etc/motd' '${clone}/etc/again'; mv '${clone}/etc/again' '${clone}/etc/motd'`);
  assert.deepEqual(await diff('web', 'test'), [
    'deleted /etc/hosts',
    'changed /srv/data/one',
    'changed /srv/data/two',
    'deleted /srv/new',
    'metadata /usr/bin/tool',
  ]);
  assert.deepEqual(await diff('test', 'web', 'srv'), [
    'changed /srv/data/one',
    'changed /srv/data/two',
    'added /srv/new',
  ]);
  await s.json('umount', 'web');
  await s.json('umount', 'test');
  await script(`rmdir '${web}' '${clone}'`);
});

test('a merge brings over whatever a program can do', async () => {
  await inside(
    'test',
    `mv usr/share/doc/a usr/share/doc/b; echo more >> usr/share/doc/b/2; rm usr/share/doc/b/3
     ln etc/motd srv/link; ln -s ../etc srv/etc; mkfifo -m 640 srv/fifo; mknod srv/null c 1 3
     mkdir -m 2750 srv/dir; chown 12:34 srv/dir; setfattr -n user.note -v text srv/data
     rm srv/data/two; mkdir srv/data/two; echo in > srv/data/two/in; printf x | dd of=usr/share/big bs=1 seek=300000 conv=notrunc 2>/dev/null`,
  );
  // The child may be in use.
  await s.json('mount', 'test', join(s.root, 'view/test'));
  const { merged, conflicts } = await s.json('merge', 'test', 'web');
  assert.equal(merged, true);
  assert.deepEqual(conflicts, []);
  await s.json('umount', 'test');
  assert.deepEqual(await diff('test', 'web'), ['added /srv/new']);
  await inside('web', 'rm srv/new');
  assert.equal(await inside('web', LOOK), await inside('test', LOOK));
  const { clean } = await s.json('fsck');
  assert.equal(clean, true);
});

test('conflicts are named and nothing is done, unless somebody says whose version to take', async () => {
  await inside('web', 'echo web > etc/hosts; echo web > srv/a; echo web > srv/b');
  await inside('test', 'echo test > srv/a; echo test > srv/b; echo only > srv/only');
  const { status, stdout } = await s.run(['merge', 'test', 'web', '--json']);
  assert.equal(status, 3);
  const { error } = JSON.parse(stdout);
  assert.equal(error.code, 'CONFLICT');
  assert.deepEqual(
    error.data.conflicts.map((one: { path: string; kind: string }) => `${one.path} ${one.kind}`),
    ['/srv/a added', '/srv/b added'],
  );
  assert.equal(await inside('web', 'cat srv/a; ls srv/only 2>/dev/null || true'), 'web\n');
  await s.json('merge', 'test', 'web', '--ours', '--theirs-path', '/srv/b');
  assert.equal(await inside('web', 'cat srv/a srv/b srv/only etc/hosts'), 'web\ntest\nonly\nweb\n');
});

test('a snapshot, the way back, and the tree', async () => {
  const look = await inside('web', LOOK);
  // Of a running appliance, and of the file that is being written what it is then.
  const view = join(s.root, 'view/web');
  await s.json('mount', 'web', view);
  await script(`echo before > '${view}/srv/log'`);
  const writer = open(join(view, 'srv/log'), 'a');
  assert.equal((await s.json('snapshot', 'web', 'good')).snapshot, 'good');
  await (await writer).write('after\n');
  await (await writer).close();
  assert.deepEqual(await diff('web@good'), ['changed /srv/log']);
  await s.json('umount', 'web');
  await inside('web', 'rm -r srv/data usr/share/doc; echo bad > etc/motd; mkdir etc/hosts.d');
  assert.deepEqual(await diff('web@good', 'web'), [
    'added /etc/hosts.d',
    'changed /etc/motd',
    'deleted /srv/data',
    'changed /srv/link',
    'changed /srv/log',
    'deleted /usr/share/doc',
  ]);
  await s.json('restore', 'web', 'good');
  assert.equal(await inside('web', 'cat srv/log; rm srv/log'), 'before\n');
  assert.equal(await inside('web', LOOK), look);
  assert.deepEqual(await diff('web@good'), ['deleted /srv/log']);
  await s.json('promote', 'test');
  const tree = (await s.run(['tree'])).stdout;
  assert.equal(tree, 't\n└── test\n    └── web\n        └── @good\n');
  await s.json('delete', 'web@good');
  await s.json('delete', 'test');
  assert.equal((await s.run(['tree'])).stdout, 't\n└── web  (clone of test, deleted)\n');
  assert.equal(await inside('web', LOOK), look);
});

test('an appliance whose time is over goes by itself, mounted or not', async () => {
  const dir = join(s.root, 'view/short');
  await s.json('clone', 'web', 'short', '--ttl', '1h');
  await s.json('mount', 'short', dir);
  assert.match((await s.run(['show', 'short'])).stdout, /^ends: .* \(in (59 min|1 h)/m);
  assert.match((await s.run(['list'])).stdout, /^short .*ends in/m);
  await s.json('ttl', 'short', '1s');
  await until('it has ended', () => !existsSync(join(s.root, 'appliances/short')));
  assert.deepEqual(await s.json('expire'), { expired: [], kept: [], next: null });
});
