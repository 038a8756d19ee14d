/**
 * A root user inside an appliance tries to get at what its policy excludes, through both doors and by every way: names, links, renames, redirects,
 * removals, marks of overlayfs, file handles, overlays of its own. Then what must work at such places, what is noted, and what mounts made before see.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('policy');
after(() => s.remove());
const view = join(s.root, 'view');

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

/** Commands in the mount that must all fail. */
async function never(...commands: string[]): Promise<void> {
  const each = commands.map(
    (one) => `if (${one}) > /dev/null 2>&1; then echo '${one.replaceAll("'", '')}'; fi`,
  );
  const { stdout } = await sh(`cd '${view}'; ${each.join('\n')}`);
  assert.equal(stdout, '', 'worked');
}

/** Nothing that can be read holds a secret, and no excluded name is listed. */
async function safe(what: string): Promise<void> {
  const { stdout } = await sh(`cd '${view}' && grep -rIl SECRET . 2>/dev/null`);
  assert.equal(stdout, '', what);
}

const EXCLUDED = [
  'etc/shadow',
  'root/.ssh',
  'root/.ssh/id_rsa',
  'srv/app/.env',
  'srv/alias',
  'etc/ssh/ssh_host_rsa_key',
];

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  const tree = join(s.root, 'trees', 'base');
  mkdirSync(tree, { recursive: true });
  await script(`cd '${tree}'; mkdir -p etc/ssh root/.ssh srv/app/deep usr/bin var
    echo SECRET > etc/shadow; echo SECRET > root/.ssh/id_rsa; echo SECRET > srv/app/.env; echo SECRET > etc/ssh/ssh_host_rsa_key
    head -c 300000 /dev/zero | tr '\\0' S > srv/app/deep/.env; echo SECRET >> srv/app/deep/.env
    ln etc/ssh/ssh_host_rsa_key srv/alias; ln -s ../etc/shadow srv/way; ln -s /root/.ssh srv/dir
    echo main > srv/app/main; echo config > etc/ssh/sshd_config; echo rc > root/.bashrc`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  for (const name of ['a', 'b']) await s.json('create', name, '--template', 't');
});

/** name_to_handle_at of a file that may be seen, then open_by_handle_at with every number near it. */
const HANDLES = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
mount = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
handle = ctypes.create_string_buffer(8 + 128)
struct.pack_into('Ii', handle, 0, 128, 0)
mount_id = ctypes.c_int()
if libc.name_to_handle_at(mount, b'srv/app/main', handle, ctypes.byref(mount_id), 0) != 0:
    sys.exit(0)
opened = 0
raw = bytearray(handle.raw)
for at in range(8, 8 + struct.unpack_from('I', raw, 0)[0]):
    for value in range(256):
        tried = bytearray(raw)
        tried[at] = value
        fd = libc.open_by_handle_at(mount, ctypes.create_string_buffer(bytes(tried)), os.O_RDONLY)
        if fd < 0:
            continue
        opened += 1
        try:
            if b'SECRET' in os.pread(fd, 1 << 20, 0):
                print('a secret by its handle')
        except OSError:
            pass
        os.close(fd)
if opened == 0:
    print('no handle could be opened, not even its own')
`;

async function attack(): Promise<void> {
  for (const path of EXCLUDED)
    await script(
      `cd '${view}'; ! stat ${path} 2>/dev/null; ! cat ${path} 2>/dev/null; ! ls ${path} 2>/dev/null`,
    );
  const listed = await script(`cd '${view}'; ls -lRa; find . -printf '%p %i\\n'`);
  for (const name of ['shadow', '.ssh', '.env', 'alias', 'host_rsa']) {
    const shown = listed.split('\n').filter((line) => line.includes(name) && !line.includes('->'));
    assert.deepEqual(shown, [], `${name} is not listed`);
  }
  await safe('as it is');
  await never('cat srv/way', 'ls srv/dir/', 'cat etc/ssh/../shadow', 'cat /proc/self/cwd/etc/shadow');
  await never(
    'cat /proc/self/fd/3/.env 3< srv/app',
    'ln etc/shadow x',
    'mv etc/shadow x',
    'rm etc/shadow',
    'chmod 644 srv/alias',
  );
  writeFileSync(join(s.root, 'handles.py'), HANDLES);
  assert.equal(await script(`python3 '${join(s.root, 'handles.py')}' '${view}'`), '');
  await script(`cd '${view}'; ln srv/app/main main2; echo more >> main2; mv srv moved`);
  await safe('a renamed directory');
  await script(
    `cd '${view}'; mv root moved/root; mv etc/ssh moved/root/keys; mkdir -p root/.ssh srv; mv moved/app srv/app`,
  );
  await safe('parts of it moved on');
  await script(
    `cd '${view}'; rm -rf srv/app; mkdir -p srv/app/deep; mv srv/app other; mv other srv/app; ls -la srv/app srv/app/deep`,
  );
  await safe('removed and made again');
  await sh(`cd '${view}'; for key in trusted.overlay.redirect trusted.overlay.opaque trusted.overlay.metacopy trusted.overlay.origin trusted.strata.was; do
    setfattr -n $key -v /root/.ssh root/.ssh; setfattr -n $key -v n root; setfattr -n $key -v /etc/shadow main2; setfattr -x $key root/.ssh; done
    mknod etc/shadow c 0 0; rm -f etc/shadow; mknod root/x c 0 0; rm -f root/x; mv --exchange root moved; mv --exchange root moved`);
  await safe('attributes and whiteouts of overlayfs');
  await sh(`unshare -m sh -c "mkdir -p /tmp/strata-over && mount -t tmpfs t /tmp/strata-over && cd /tmp/strata-over && mkdir u w m &&
    mount -t overlay o -o lowerdir='${view}',upperdir=u,workdir=w m && grep -rl SECRET m > '${s.root}/found'"`);
  assert.equal(await script(`cat '${s.root}/found' 2>/dev/null || true`), '');
  await sh('rmdir /tmp/strata-over');
}

test('through the FUSE door: no way leads to a secret, own files work there, what was asked for is noted', async () => {
  await s.json('mount', 'a', view);
  await script(`cd '${view}'; test "$(cat etc/shadow)" = SECRET; ls root/.ssh > /dev/null`);
  const applied = await s.json(
    'policy',
    'apply',
    'a',
    '--exclude',
    '/root/.ssh',
    '--exclude',
    '/etc/shadow',
    '--exclude',
    '.env',
    '--exclude',
    '/etc/ssh/*_key',
  );
  assert.equal(applied.rules.length, 4);
  await attack();
  await script(`cd '${view}'; echo mine > etc/shadow; mkdir -p root/.ssh; echo key > root/.ssh/id_rsa; chmod 600 root/.ssh/id_rsa
    test "$(cat etc/shadow)" = mine; test "$(ls root/.ssh)" = id_rsa; mv root/.ssh/id_rsa root/k; ln root/k etc/k`);
  const { entries } = await s.json('diff', 'a', '/etc/shadow');
  assert.deepEqual(entries, [{ path: '/etc/shadow', change: 'added', layer: null, base_updated: false }]);
  assert.notEqual((await s.run(['revert', 'a', '/etc/shadow'])).status, 0);
  await s.json('revert', 'a', '/');
  await safe('revert');
  await s.json('reset', 'a');
  await safe('reset');
  await never(...EXCLUDED.map((path) => `stat ${path}`));
  const why = await s.run(['why', 'a', '/etc/shadow']);
  assert.equal(why.status, 1);
  await s.json('umount', 'a');
  const { denials } = await s.json('policy', 'log', 'a');
  const shadow = denials.find((one: { path: string }) => one.path === '/etc/shadow');
  assert.ok(shadow.count >= 1 && shadow.rule === '/etc/shadow' && shadow.pid > 0);
  assert.ok(denials.some((one: { path: string }) => one.path === '/srv/app/.env'));
});

test('through the sealed door: the same', async () => {
  await s.json('policy', 'create', 'keys', '--exclude', '/root/.ssh', '--exclude', '/etc/ssh/*_key');
  await s.json('policy', 'apply', 'b', '--policy', 'keys', '--exclude', '/etc/shadow', '--exclude', '.env');
  await s.json('mount', 'b', view, '--door', 'sealed');
  const refused = await s.run(['policy', 'apply', 'b', '--exclude', '/x']);
  assert.equal(refused.status, 1, refused.stderr);
  assert.match(refused.stderr, /sealed/);
  await attack();
  await script(`cd '${view}'; mkdir -p root/.ssh; echo key > root/.ssh/id_rsa`);
  await s.json('umount', 'b');
  await s.json('mount', 'b', view);
  await safe('after it was absorbed');
  assert.equal(await script(`cat '${view}/root/.ssh/id_rsa'`), 'key\n');
  await s.json('umount', 'b');
});

test('marks are set from outside on what is mounted, and survive what a program does', async () => {
  await s.json('create', 'c', '--template', 't');
  await s.json('mount', 'c', view);
  await script(`mkdir '${view}/srv/größe'`);
  await s.json('policy', 'mark', 'c', '/srv/app/deep/.env', '/srv/app', '/srv/größe');
  await never(
    'getfattr -n trusted.strata.nonclonable srv/app',
    'setfattr -x trusted.strata.nonclonable srv/app',
  );
  await script(`cd '${view}'; mv srv/app/deep/.env root/e; echo x >> root/e`);
  const priv = join(s.root, 'appliances/c/private');
  await script(
    `getfattr -n trusted.strata.nonclonable '${priv}/root/e' '${priv}/srv/app' '${priv}/srv/größe'`,
  );
  await s.json('policy', 'unmark', 'c', '/root/e');
  await never(`getfattr -n trusted.strata.nonclonable '${priv}/root/e'`);
  const wrong = await s.run(['policy', 'mark', 'c', '/srv/way/x']);
  assert.equal(wrong.status, 1);
  await s.json('umount', 'c');
});
