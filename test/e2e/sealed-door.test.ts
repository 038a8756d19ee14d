/**
 * The sealed door through the command line, beside the FUSE door: the same tree by find, getfattr and sha256sum, whatever the levels are; each door sees
 * what was written through the other; and it needs no daemon, survives that of another, and takes updates at its next mount.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('sealed');
after(() => s.remove());
const view = join(s.root, 'view');

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

async function build(name: string, version: string, make: string): Promise<void> {
  const tree = join(s.root, 'trees', `${name}_${version}`);
  mkdirSync(tree, { recursive: true });
  await script(`cd '${tree}'; ${make}`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', name, '--version', version);
}

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await build(
    'base',
    '1',
    `mkdir -p etc usr/bin usr/lib/deep/er var/lib/x
     echo motd > etc/motd; echo secret > etc/shadow; chmod 640 etc/shadow; chown 0:42 etc/shadow; echo gone > etc/gone
     head -c 300000 /dev/urandom > usr/bin/big; chmod 4755 usr/bin/big; ln usr/bin/big usr/bin/big2; ln usr/bin/big usr/lib/big3
     truncate -s 5M usr/lib/sparse; printf tail >> usr/lib/sparse; : > usr/lib/empty; ln -s ../bin/big usr/lib/link
     setfattr -n user.note -v value etc/motd; setfacl -m u:33:rw etc/motd; setfacl -d -m g:33:rx usr/lib/deep
     setcap cap_net_raw+ep usr/bin/big
     printf x > "$(printf 'usr/lib/\\377\\n name')"; mkfifo var/lib/x/fifo; mknod var/lib/x/null c 1 3
     chmod 1777 var/lib/x; touch -d '1969-01-01 00:00:00.123456789' usr/lib/empty; touch -d '2100-05-05' usr/lib/deep/er
     for i in $(seq 300); do echo $i > usr/lib/deep/er/file-$i; done`,
  );
  await build(
    'tool',
    '1',
    'mkdir -p usr/bin usr/lib/deep/tool; echo 1 > usr/bin/tool; echo t > usr/lib/deep/tool/t',
  );
  await s.json('template', 'create', 't', 'base', 'tool');
  await s.json('create', 'maker', '--template', 't');
  await s.json('mount', 'maker', view);
  await script(
    `cd '${view}'; echo configured > etc/conf; rm etc/gone; mv usr/lib/deep/tool usr/lib/moved; echo + >> etc/motd`,
  );
  await s.json('umount', 'maker');
  await s.json('template', 'freeze', 't', '--from', 'maker');
  await s.json('create', 'a', '--template', 't');
});

/** Everything that programs can see of a tree. Inode numbers and sizes of directories are each door's own. */
async function snapshot(): Promise<string> {
  return script(`cd '${view}'
    find . -type d -printf '%p %y %m %U %G %T@\\n' , ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\\n' | sort
    find . -type c -exec stat -c '%n %t:%T' {} +
    getfattr -h -R -d -m '^(user|security|system|trusted\\.[^so])' -e hex . | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum`);
}

async function both(): Promise<string> {
  await s.json('mount', 'a', view);
  const fuse = await snapshot();
  await s.json('umount', 'a');
  await s.json('mount', 'a', view, '--door', 'sealed');
  const sealed = await snapshot();
  await s.json('umount', view);
  assert.equal(sealed, fuse);
  return fuse;
}

test('both doors show one tree: two units, a config level, attributes of every kind', async () => {
  const shown = await both();
  assert.match(shown, /\.\/usr\/lib\/moved\/t f/);
  assert.doesNotMatch(shown, /etc\/gone/);
  assert.match(shown, /security\.capability=0x/);
  assert.match(shown, /usr\/lib\/sparse f 644 0 0 5242884 /);
  assert.match(shown, /big2 f 4755 0 0 300000 3 /);
});

test('what is written through one door is seen through the other', async () => {
  await s.json('mount', 'a', view);
  await script(
    `cd '${view}'; echo f > etc/fuse; rm usr/lib/big3; mv usr/lib/moved usr/lib/moved2; echo more >> etc/conf`,
  );
  await s.json('umount', 'a');
  await both();
  await s.json('mount', 'a', view, '--door', 'sealed');
  assert.deepEqual(
    (await s.json('list')).appliances.find((one: { name: string }) => one.name === 'a').mounts,
    [view],
  );
  await script(`cd '${view}'
    echo s > etc/sealed; rm usr/bin/tool; rm -r usr/lib/deep; mkdir usr/lib/deep; echo n > usr/lib/deep/new
    mv usr/lib/moved2 moved3; chmod 600 etc/motd; ln usr/lib/sparse sparse2; mv etc etc2; ln -s etc2 etc
    ls usr/lib/deep moved3; test "$(cat etc/sealed)" = s`);
  await s.json('umount', 'a');
  const shown = await both();
  assert.match(shown, /\.\/moved3\/t f/);
  const { entries } = await s.json('diff', 'a', '/usr');
  assert.deepEqual(
    entries
      .filter((one: { change: string }) => one.change === 'deleted')
      .map((one: { path: string }) => one.path)
      .filter((path: string) => !path.startsWith('/usr/lib/deep')),
    ['/usr/bin/tool', '/usr/lib/big3', '/usr/lib/moved'],
  );
  await s.json('revert', 'a', '/usr/bin/tool');
  assert.match(await both(), /usr\/bin\/tool f/);
});

test('no daemon is needed; a new one knows the mount; updates come with the next mount', async () => {
  await s.json('create', 'b', '--template', 't');
  await s.json('mount', 'b', view, '--door', 'sealed');
  const { daemon } = await s.json('status');
  process.kill(daemon.pid, 'SIGKILL');
  writeFileSync(join(view, 'etc/alone'), 'alone');
  assert.equal((await s.json('status')).mounts, 1);
  const refused = await s.run(['mount', 'b', join(s.root, 'other')]);
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /mounted at .* by the door sealed/);

  await build('tool', '2', 'mkdir -p usr/bin; echo 2 > usr/bin/tool; echo new > usr/bin/more');
  const { appliances } = await s.json('update');
  assert.deepEqual(
    appliances.held_back.map((one: { name: string }) => one.name),
    ['b'],
  );
  const listed = (await s.json('list')).appliances.find((one: { name: string }) => one.name === 'b');
  assert.match(listed.held_back, /next mount/);
  assert.equal(readFileSync(join(view, 'usr/bin/tool'), 'utf8'), '1\n');
  const used = await s.run(['layer', 'remove', 'local/tool', '1']);
  assert.match(used.stderr, /sealed mount of appliance b/);
  await s.json('umount', 'b');
  await s.json('mount', 'b', view, '--door', 'sealed', '--read-only');
  assert.equal(readFileSync(join(view, 'usr/bin/more'), 'utf8'), 'new\n');
  assert.equal(readFileSync(join(view, 'etc/alone'), 'utf8'), 'alone');
  assert.throws(() => writeFileSync(join(view, 'etc/alone'), ''), { code: 'EROFS' });
  await s.json('umount', 'b');
  await s.json('layer', 'remove', 'local/tool', '1');
});

test('while somebody still writes through a lazily unmounted door, no other opens', async () => {
  await s.json('mount', 'b', view, '--door', 'sealed');
  const holder = spawn('sleep', ['60'], { cwd: view, stdio: 'ignore' });
  try {
    const busy = await s.run(['umount', 'b']);
    assert.match(busy.stderr, /in use/);
    await s.json('umount', 'b', '--force');
    for (const door of ['fuse', 'sealed']) {
      const { status, stderr } = await s.run(['mount', 'b', view, '--door', door]);
      assert.equal(status, 1);
      assert.match(stderr, /still in use through a sealed mount/);
    }
  } finally {
    const gone = new Promise((done) => holder.on('exit', done));
    holder.kill('SIGKILL');
    await gone;
  }
  await s.json('mount', 'b', view);
  assert.equal(readFileSync(join(view, 'etc/alone'), 'utf8'), 'alone');
  await s.json('umount', 'b');
});
