/** Imports of directories, archives and images: everything comes along (find, getfattr, sha256sum as judges), nothing hostile does, and a kill leaves all or nothing. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { until } from '../../base/until.test-support.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

let w: World;
const at = (...parts: string[]): string => join(w.root, ...parts);

function sh(script: string): string {
  return execFileSync('/bin/bash', ['-ec', script], {
    encoding: 'latin1',
    env: { ...process.env, LC_ALL: 'C' },
  });
}

/** Everything of a tree that can be seen, by other programs; times of directories too. */
function picture(dir: string): string {
  return sh(`cd '${dir}'; find . -mindepth 1 ! -type s -printf '%P|%y|%m|%U|%G|%s|%T@|%l|%n\\n' | sort
    find . -mindepth 1 ! -type s \\( -type b -o -type c \\) -exec stat -c '%n %t:%T' {} + | sort
    find . -type f -links +1 -printf '%i %P\\n' | sort -k2 | awk '{if (!($1 in n)) n[$1]=++c; print n[$1], $2}'
    find . -mindepth 1 -type f -exec sha256sum {} + | sort -k2
    find . -print0 | sort -z | xargs -0 getfattr -h -d -m '^user|^security|^trusted.kept|posix_acl' --absolute-names`);
}

/** A root file system with something of everything. */
function makeRoot(dir: string): void {
  mkdirSync(dir, { recursive: true });
  sh(`cd '${dir}'; umask 022
    mkdir -p etc usr/bin usr/lib var/empty 'odd'$'\\n''name' deep/a/b/c dev; ln -s usr/bin bin; ln -s /etc/passwd away
    echo root:x:0:0 > etc/passwd; chmod 640 etc/passwd; chown 7:42 etc/passwd
    head -c 700000 /dev/urandom > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/same; ln usr/bin/tool deep/third
    printf 'x' > 'odd'$'\\n''name'/$'\\xff\\xfe'; truncate -s 3M var/sparse; printf end >> var/sparse
    mkfifo var/fifo; mknod dev/null c 1 3; mknod dev/sda b 8 0; mkdir -m 1777 tmp; mkdir -m 2755 var/mail; chown 0:8 var/mail; chmod g+s var/mail
    setfattr -n user.note -v hello etc/passwd; setfattr -n trusted.kept -v yes usr; setfattr -n trusted.overlay.opaque -v y deep
    printf '#!/bin/sh\\n' > usr/bin/capable; setcap cap_net_raw+ep usr/bin/capable 2>/dev/null || setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/capable
    touch -d '2001-02-03 04:05:06.123456789' etc/passwd deep var/empty; touch -h -d 1999-01-01 away`);
}

before(async () => {
  w = await makeWorld();
});
after(() => w.remove());

async function isClean(): Promise<void> {
  assert.deepEqual((await w.fleet.fsck({ deep: true }, noProgress)).problems, []);
}

/** The tree of an appliance's base. */
function baseTree(name: string): string {
  return at('imports', readFileSync(at('appliances', name, 'base'), 'utf8').trim(), 'tree');
}

/** A picture without link counts. */
const unlinked = (text: string): string => text.replaceAll(/\|\d+\n/g, '\n').replaceAll(/^\d+ .*\n/gm, '');

test('a directory comes with everything; what changes later is a change of the appliance', async () => {
  const dir = join(w.dir, 'rootfs');
  makeRoot(dir);
  const before_ = picture(dir);
  const made = await w.fleet.importDir({ source: dir, name: 'a', quotaBytes: 1 << 30 }, noProgress);
  assert.deepEqual(
    [made.name, made.template, made.source, made.left_out],
    ['a', 'imported', 'directory', []],
  );
  assert.equal(picture(dir), before_);
  assert.equal(picture(baseTree('a')), before_);
  assert.notEqual(statSync(join(baseTree('a'), 'usr/bin/tool')).ino, statSync(join(dir, 'usr/bin/tool')).ino);
  assert.ok(statSync(join(baseTree('a'), 'var/sparse')).blocks < 100);
  assert.equal(sh(`getfattr -d -m overlay '${baseTree('a')}/deep'`), '');
  assert.deepEqual((await w.fleet.diff({ name: 'a' })).entries, []);
  const why = await w.fleet.why({ name: 'a', what: '/usr/bin/tool' });
  assert.deepEqual([why.private, why.unit?.startsWith('imported/')], [false, true]);
  assert.equal((await w.fleet.quotaShow('a')).used_bytes, 0);
  mkdirSync(at('appliances/a/private/etc'), { recursive: true });
  writeFileSync(at('appliances/a/private/etc/passwd'), 'mine\n');
  assert.deepEqual(
    (await w.fleet.diff({ name: 'a' })).entries.map(({ path, change }) => `${change} ${path}`).at(-1),
    'changed /etc/passwd',
  );
  await isClean();
  // Clones have it too, also when the first is gone; the last takes it along.
  await w.fleet.clone({ source: 'a', name: 'b' }, noProgress);
  await w.fleet.delete(['a']);
  await w.reopen();
  assert.equal((await w.fleet.why({ name: 'b', what: '/usr/bin/tool' })).private, false);
  assert.equal((await w.fleet.gc({}, noProgress)).count, 0);
  await w.fleet.reset({ name: 'b', keep: [] });
  assert.deepEqual((await w.fleet.diff({ name: 'b' })).entries, []);
  const tree = baseTree('b');
  await w.fleet.delete(['b']);
  assert.equal(existsSync(tree), false);
  await until('space comes back', () => readdirSync(at('imports')).length === 0);
});

test('--link shares the files, --move takes the directory, and says no where it cannot', async () => {
  const dir = join(w.dir, 'linked');
  makeRoot(dir);
  const before_ = unlinked(picture(dir));
  await w.fleet.importDir({ source: dir, name: 'l', how: 'link' }, noProgress);
  assert.equal(statSync(join(baseTree('l'), 'usr/bin/tool')).ino, statSync(join(dir, 'usr/bin/tool')).ino);
  assert.equal(unlinked(picture(baseTree('l'))), before_);
  await w.fleet.delete(['l']);
  const own = join(w.dir, 'moved');
  makeRoot(own);
  const moving = picture(own);
  await w.fleet.importDir({ source: own, name: 'm', how: 'move' }, noProgress);
  assert.equal(existsSync(own), false);
  assert.equal(picture(baseTree('m')), moving);
  await isClean();
  await w.fleet.delete(['m']);
  for (const source of ['/', w.root, join(w.root, 'appliances'), '/proc'])
    await assert.rejects(w.fleet.importDir({ source, name: 'no', how: 'move' }, noProgress), source);
  // A blank, which mountinfo escapes, and a link on the way, which it has not.
  symlinkSync('.', join(w.dir, 'round'));
  const shown = join(w.dir, 'with a mount');
  mkdirSync(join(shown, 'proc'), { recursive: true });
  sh(`mount -t tmpfs none '${shown}/proc'; touch '${shown}/proc/x'`);
  try {
    for (const source of [shown, join(w.dir, 'round/with a mount')])
      await assert.rejects(w.fleet.importDir({ source, name: 'no', how: 'move' }, noProgress), {
        code: 'BUSY',
      });
    const made = await w.fleet.importDir({ source: shown, name: 'p' }, noProgress);
    assert.deepEqual(made.left_out, ['proc']);
    assert.deepEqual(readdirSync(join(baseTree('p'), 'proc')), []);
  } finally {
    sh(`umount '${shown}/proc'`);
  }
  await w.fleet.delete(['p']);
  // Another mount of the same file system: what the kernel refuses must not get into the journal.
  const other = join(w.dir, 'other');
  mkdirSync(other);
  mkdirSync(join(w.dir, 'behind/tree'), { recursive: true });
  sh(`mount --bind '${w.dir}/behind' '${other}'`);
  try {
    await assert.rejects(
      w.fleet.importDir({ source: join(other, 'tree'), name: 'no', how: 'move' }, noProgress),
      { code: 'UNSUPPORTED' },
    );
  } finally {
    sh(`umount '${other}'`);
  }
  await isClean();
});

test('a directory that holds the state root is imported without it', async () => {
  const made = await w.fleet.importDir({ source: dirname(w.root), name: 'host' }, noProgress);
  assert.deepEqual(made.left_out, [basename(w.root)]);
  assert.deepEqual(readdirSync(join(baseTree('host'), basename(w.root))), []);
  await w.fleet.delete(['host']);
});

test('killed at any step of a move, the directory is in one place, whole, and the appliance with it or not', async () => {
  let was = { there: 0, moved: 0 };
  // The template of imports is there.
  await w.fleet.importDir({ source: import.meta.dirname, name: 'first' }, noProgress);
  await w.fleet.delete(['first']);
  for (let step = 1; ; step++) {
    const source = join(w.dir, `move-${step}`);
    mkdirSync(join(source, 'etc'), { recursive: true });
    writeFileSync(join(source, 'etc/precious'), 'all that I have');
    await w.fleet.close();
    const child = spawnSync(process.execPath, [
      join(import.meta.dirname, 'import-child.test-support.ts'),
      w.root,
      source,
      String(step),
    ]);
    w.fleet = await w.reopenClosed();
    const there = existsSync(join(source, 'etc/precious'));
    const appliances = (await w.fleet.list()).appliances.map(({ name }) => name);
    if (there) assert.deepEqual(appliances, [], `step ${step}`);
    else {
      assert.deepEqual(appliances, ['m'], `step ${step}`);
      assert.equal(readFileSync(join(baseTree('m'), 'etc/precious'), 'utf8'), 'all that I have');
    }
    await isClean();
    assert.equal(
      readdirSync(at('imports')).filter((name) => !name.startsWith('.trash')).length,
      there ? 0 : 1,
    );
    was = { there: was.there + Number(there), moved: was.moved + Number(!there) };
    if (!there) await w.fleet.delete(['m']);
    if (child.signal === null) break;
  }
  assert.ok(was.there >= 2 && was.moved >= 4, JSON.stringify(was));
});

test('archives: as tar unpacks them, in every compression', async () => {
  const dir = join(w.dir, 'archived');
  makeRoot(dir);
  sh(`cd '${dir}'; setfattr -x trusted.overlay.opaque deep`);
  const packed = join(w.dir, 'unpacked');
  for (const [kind, flag] of [
    ['tar', ''],
    ['tar.gz', 'z'],
    ['tar.xz', 'J'],
    ['tar.zst', '--zstd'],
  ] as const) {
    const file = join(w.dir, `root.${kind}`);
    const options = flag.startsWith('--') ? flag : flag === '' ? '' : `-${flag}`;
    sh(
      `tar --xattrs --xattrs-include='*' --numeric-owner --sparse --format=posix ${options} -cf '${file}' -C '${dir}' .`,
    );
    const made = await w.fleet.importDir({ source: file, name: 't' }, noProgress);
    assert.equal(made.source, 'tar');
    if (kind === 'tar')
      sh(
        `mkdir '${packed}'; tar --xattrs --xattrs-include='*' --numeric-owner -xpf '${file}' -C '${packed}'`,
      );
    assert.equal(picture(baseTree('t')), picture(packed), kind);
    await isClean();
    await w.fleet.delete(['t']);
  }
});

test('images of ext4, XFS and btrfs are mounted for reading only, and nothing of it is left', async () => {
  const loops = (): string => sh("losetup -l -n -O BACK-FILE | grep -c 'image\\.' || true").trim();
  for (const [type, make] of [
    ['ext4', 'mkfs.ext4 -q'],
    ['xfs', 'mkfs.xfs -q'],
    ['btrfs', 'mkfs.btrfs -q'],
  ] as const) {
    const file = join(w.dir, `image.${type}`);
    const mnt = join(w.dir, `mnt-${type}`);
    sh(`truncate -s 320M '${file}'; ${make} '${file}'; mkdir '${mnt}'; mount -o loop '${file}' '${mnt}'`);
    let before_: string;
    try {
      makeRoot(mnt);
      sh(`cd '${mnt}'; setfattr -x trusted.overlay.opaque deep; sync`);
      before_ = picture(mnt);
    } finally {
      sh(`umount '${mnt}'`);
    }
    const sum = sh(`sha256sum < '${file}'`);
    const made = await w.fleet.importDir({ source: file, name: 'i' }, noProgress);
    assert.equal(made.source, 'image');
    // Each file system has sizes of its own for directories.
    const plain = (text: string): string =>
      text
        .replaceAll(/(\|d\|\d+\|\d+\|\d+)\|\d+/g, '$1')
        .replaceAll(/\|d\|.*\|\d+$/gm, (line) => line.replace(/\|\d+$/, ''));
    assert.equal(plain(picture(baseTree('i'))), plain(before_), type);
    assert.equal(sh(`sha256sum < '${file}'`), sum);
    assert.equal(loops(), '0');
    await w.fleet.delete(['i']);
    sh(
      `dd if=/dev/urandom of='${file}' bs=1 seek=${type === 'btrfs' ? 0x10080 : 1100} count=400 conv=notrunc 2>/dev/null; truncate -s 1M '${file}'`,
    );
    await assert.rejects(w.fleet.importDir({ source: file, name: 'i' }, noProgress), type);
    assert.equal(loops(), '0');
    rmSync(file);
  }
  assert.deepEqual(
    readdirSync(at('imports')).filter((name) => name.startsWith('.tmp')),
    [],
  );
});

test('a clone rooted at a directory has what a clone would show there, and the rules of its source', async () => {
  const dir = join(w.dir, 'host');
  makeRoot(join(dir, 'srv/web'));
  sh(
    `cd '${dir}/srv/web'; setfattr -x trusted.overlay.opaque deep; mkdir -p root/.ssh; echo KEY > root/.ssh/id_rsa; echo KEY > etc/secret; echo one > etc/one`,
  );
  await w.fleet.importDir({ source: dir, name: 'host', quotaInodes: 1000 }, noProgress);
  await w.fleet.policyApply({ name: 'host', exclude: ['**/secret'] });
  // What the host itself changed is inherited by the clone.
  mkdirSync(at('appliances/host/private/srv/web/etc'), { recursive: true });
  writeFileSync(at('appliances/host/private/srv/web/etc/own'), 'own');
  const made = await w.fleet.clone(
    { source: 'host', name: 'web', path: '/srv/web', exclude: ['/srv/web/etc/one'], secrets: true },
    noProgress,
  );
  assert.equal(made.source, 'host');
  sh(`cd '${dir}/srv/web'; rm -r root/.ssh/id_rsa etc/secret etc/one; printf own > etc/own`);
  const names = (text: string): string[] =>
    text.split('\n').map((line) => line.split('|').slice(0, 2).join('|'));
  assert.deepEqual(
    names(picture(baseTree('web'))).filter((line) => !/^[0-9a-f]{64}/.test(line)),
    names(picture(join(dir, 'srv/web'))).filter((line) => !/^[0-9a-f]{64}/.test(line)),
  );
  assert.ok((await w.fleet.policyRules('web')).rules.some(({ pattern }) => pattern === '**/secret'));
  assert.equal((await w.fleet.quotaShow('web')).quota_inodes, 1000);
  await assert.rejects(
    w.fleet.clone({ source: 'host', name: 'no', path: '/srv/web/etc/passwd' }, noProgress),
    { code: 'NOT_FOUND' },
  );
  await isClean();
  await w.fleet.delete(['host']);
  assert.deepEqual((await w.fleet.diff({ name: 'web' })).entries, []);
  await w.fleet.delete(['web']);
});

test('hostile input is refused, or does no harm, and leaves nothing', async () => {
  const evil = join(w.dir, 'evil.py');
  writeFileSync(evil, EVIL);
  const names = ['parent', 'absolute', 'through-link', 'hardlink-out', 'whiteout', 'short'];
  for (const name of names) {
    const file = join(w.dir, `evil-${name}.tar`);
    assert.equal(spawnSync('python3', [evil, name, file]).status, 0, name);
    const came = await w.fleet.importDir({ source: file, name: 'e' }, noProgress).then(
      () => true,
      () => false,
    );
    // What tar would strip may come in below the root.
    if (came) {
      assert.ok(name === 'absolute' || name === 'parent', name);
      await w.fleet.delete(['e']);
    }
    assert.equal(existsSync(join(w.dir, 'pwned')), false, name);
    assert.equal(existsSync('/pwned-by-import'), false, name);
  }
  const upper = join(w.dir, 'upper');
  mkdirSync(upper);
  sh(`mknod '${upper}/gone' c 0 0`);
  await assert.rejects(w.fleet.importDir({ source: upper, name: 'e' }, noProgress), /whiteout/);
  symlinkSync(upper, join(w.dir, 'way'));
  await assert.rejects(
    w.fleet.importDir({ source: join(w.dir, 'way'), name: 'e' }, noProgress),
    /symbolic link/,
  );
  await assert.rejects(w.fleet.importDir({ source: join(w.dir, 'none'), name: 'e' }, noProgress), {
    code: 'NOT_FOUND',
  });
  writeFileSync(join(w.dir, 'text'), 'no archive\n'.repeat(1000));
  await assert.rejects(w.fleet.importDir({ source: join(w.dir, 'text'), name: 'e' }, noProgress), {
    code: 'UNSUPPORTED',
  });
  assert.equal(lstatSync(upper).isDirectory(), true);
  await isClean();
  assert.deepEqual((await w.fleet.list()).appliances, []);
});

const EVIL = `
import io, sys, tarfile
kind, out = sys.argv[1:]
t = tarfile.open(out, 'w')
def add(name, type=tarfile.REGTYPE, data=b'x', **more):
    i = tarfile.TarInfo(name); i.type = type; i.size = len(data) if type == tarfile.REGTYPE else 0
    for k, v in more.items(): setattr(i, k, v)
    t.addfile(i, io.BytesIO(data) if i.size else None)
add('ok')
if kind == 'parent': add('../pwned')
if kind == 'absolute': add('/pwned-by-import')
if kind == 'through-link':
    add('link', tarfile.SYMTYPE, linkname='..'); add('link/pwned')
if kind == 'hardlink-out': add('h', tarfile.LNKTYPE, linkname='../../etc/passwd')
if kind == 'whiteout': add('w', tarfile.CHRTYPE, devmajor=0, devminor=0)
t.close()
if kind == 'short':
    with open(out, 'r+b') as f: f.truncate(700)
`;
