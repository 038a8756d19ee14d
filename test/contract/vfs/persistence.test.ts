/** What a program saw before it sees after a remount, a restart of the daemon and a killed data plane: every attribute of every file, st_ino too. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../../src/base/until.test-support.ts';
import {
  AT_FDCWD,
  encodeDev,
  fsetxattr,
  mknodat,
  RENAME_EXCHANGE,
  renameat2,
  S_IFCHR,
  S_IFIFO,
} from '../../../src/sys/index.ts';
import { ok, tool, withFile } from './behaviour.ts';
import { openWorkshop } from './places.ts';

const { strata, at, remove } = openWorkshop();
after(remove);
const inside = (name: string) => join(at('mnt'), name);

function plant(root: string): void {
  for (const dir of ['usr/share/doc', 'usr/lib/app/plugins', 'etc', 'var/empty']) {
    fs.mkdirSync(join(root, dir), { recursive: true });
  }
  for (let i = 0; i < 30; i++) fs.writeFileSync(join(root, `usr/share/doc/f${i}`), `${i}`.repeat(100));
  fs.writeFileSync(join(root, 'usr/lib/app/large'), Buffer.alloc(200_000, 'L'));
  fs.writeFileSync(join(root, 'usr/lib/app/plugins/a'), 'a');
  fs.linkSync(join(root, 'usr/lib/app/plugins/a'), join(root, 'usr/lib/app/plugins/b'));
  fs.linkSync(join(root, 'usr/lib/app/plugins/a'), join(root, 'etc/c'));
  fs.symlinkSync('c', join(root, 'etc/link'));
  fs.chmodSync(join(root, 'usr/share/doc/f1'), 0o4755);
  tool('setfacl', '-m', 'u:4001:rwx', join(root, 'etc'));
  tool('setcap', 'cap_net_raw+ep', join(root, 'usr/share/doc/f2'));
  withFile(join(root, 'usr/share/doc/f3'), 'r', (fd) => ok(fsetxattr(fd, 'user.kept', Buffer.from('yes'))));
}

/** A bit of everything: copies, whiteouts, redirects, links, special files. */
function change(root: string): void {
  const p = (name: string) => join(root, name);
  const move = (from: string, to: string, flags = 0) =>
    ok(renameat2(AT_FDCWD, p(from), AT_FDCWD, p(to), flags));
  fs.chmodSync(p('usr/share/doc/f1'), 0o4711);
  fs.chownSync(p('usr/share/doc/f3'), 4001, 4002);
  fs.appendFileSync(p('usr/lib/app/large'), 'more');
  fs.appendFileSync(p('usr/lib/app/plugins/b'), '!');
  fs.utimesSync(p('usr/share/doc/f4'), 5_000_000_000, 6_000_000_000.5);
  for (const i of [5, 6, 7]) fs.unlinkSync(p(`usr/share/doc/f${i}`));
  fs.writeFileSync(p('usr/share/doc/f6'), 'again');
  fs.linkSync(p('usr/share/doc/f8'), p('etc/f8'));
  fs.renameSync(p('usr/share/doc/f9'), p('var/f9'));
  fs.renameSync(p('usr/lib/app'), p('var/app'));
  fs.mkdirSync(p('usr/lib/app'));
  fs.writeFileSync(p('usr/lib/app/fresh'), '');
  fs.renameSync(p('var/app/plugins'), p('plugins'));
  move('usr/share/doc/f10', 'plugins/a', RENAME_EXCHANGE);
  fs.rmdirSync(p('var/empty'));
  fs.symlinkSync('/nowhere', p('etc/dangling'));
  ok(mknodat(AT_FDCWD, p('etc/fifo'), S_IFIFO | 0o600, 0));
  ok(mknodat(AT_FDCWD, p('etc/null'), S_IFCHR | 0o666, encodeDev(1, 3)));
  tool('setfacl', '-d', '-m', 'u:4002:rx', p('etc'));
  fs.mkdirSync(p('etc/inherits'));
  withFile(p('usr/share/doc/f11'), 'r', (fd) => ok(fsetxattr(fd, 'trusted.new', Buffer.from([0, 1, 2]))));
}

interface Seen {
  path: string;
  stat: unknown[];
  content: string;
}

/** Everything that can be seen of a tree; with the numbers of files when asked. */
function look(root: string, numbers: boolean): Seen[] {
  const paths = ['.', ...(fs.readdirSync(root, { recursive: true }) as string[]).sort()];
  return paths.map((path) => {
    const file = join(root, path);
    const s = fs.lstatSync(file, { bigint: true });
    const shown = [
      s.mode,
      s.uid,
      s.gid,
      s.rdev,
      s.mtimeNs,
      s.isDirectory() ? 0n : s.size,
      s.isDirectory() ? 0n : s.nlink,
    ];
    const content = s.isFile()
      ? fs.readFileSync(file, 'latin1')
      : s.isSymbolicLink()
        ? fs.readlinkSync(file)
        : '';
    return { path, stat: numbers ? [...shown, s.ino, s.ctimeNs] : shown, content };
  });
}

const attributes = (root: string) =>
  tool(
    'sh',
    '-c',
    `cd '${root}' && getfattr -R -P -h -d -m - --absolute-names . 2>/dev/null; getfacl -R -P -n .`,
  );

before(async () => {
  for (const dir of ['tree', 'mnt', 'plain']) fs.mkdirSync(at(dir), { recursive: true });
  plant(at('tree'));
  await strata.json('repo', 'add', 'local', at('units'));
  await strata.json('layer', 'build', at('tree'), '--repo', 'local', '--name', 'l', '--version', '1');
  await strata.json('template', 'create', 't', 'l');
  await strata.json('create', 'a', '--template', 't');
  await strata.json('mount', 'a', at('mnt'));
});

test('numbers stay through copy-up', () => {
  const files = [
    'usr/share/doc/f1',
    'usr/lib/app/large',
    'usr/lib/app/plugins/b',
    'etc/c',
    'usr/share',
    'etc/link',
  ];
  const before = files.map((name) => fs.lstatSync(inside(name)).ino);
  for (const name of files)
    if (name !== 'etc/link') fs.chmodSync(inside(name), fs.statSync(inside(name)).mode & 0o7777);
  fs.lchownSync(inside('etc/link'), 0, 0);
  assert.deepEqual(
    files.map((name) => fs.lstatSync(inside(name)).ino),
    before,
  );
});

test('a changed tree is the same after a remount, a restart and a kill, and the same as a plain directory', async () => {
  change(at('mnt'));
  const seen = look(at('mnt'), true);
  const extended = attributes(at('mnt'));
  const same = (when: string) => {
    assert.deepEqual(look(at('mnt'), true), seen, when);
    assert.equal(attributes(at('mnt')), extended, when);
  };
  same('at once');
  tool('sh', '-c', 'echo 2 > /proc/sys/vm/drop_caches');
  same('after the kernel forgot it');
  const { data_plane } = await strata.json('status');
  process.kill(data_plane.pid, 'SIGKILL');
  // The kernel answers listings and attributes by itself, but not an open.
  await until('another one serves', () => fs.readFileSync(inside('etc/c')).length > 0);
  same('after the data plane was killed');
  await strata.json('daemon', 'restart');
  same('after a restart');
  await strata.json('umount', 'a');
  await strata.json('mount', 'a', at('mnt'));
  same('after a remount');
  plant(at('plain'));
  change(at('plain'));
  const names = (list: Seen[]) => list.map(({ path, content }) => [path, content]);
  assert.deepEqual(names(seen), names(look(at('plain'), false)));
});
