/** Importing packages: dpkg-deb -x is the oracle for the tree, dpkg's own conventions for the info files. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { StrataError } from '../base/index.ts';
import { importDeb, importTar, listUnits, openUnitIndex, readSharedLibs, verifyUnit } from './index.ts';
import {
  ACL,
  assertSameLines,
  listing,
  makePackage,
  put,
  setXattr,
  sh,
  temporaryDir,
} from './test-support.ts';

const dir = temporaryDir();
const repoDir = join(dir, 'repo');

/** Times of directories are not compared: tar's extraction itself changes them. */
function withoutTime(line: string): string {
  return line.replace(/^(d \S+ \S+) \d+\.\d+/, '$1');
}

/** What `dpkg-deb -x` gives, moved under /usr by rules written apart from the importer's. */
function extracted(deb: string): string[] {
  const root = join(dir, 'extracted');
  sh(`rm -rf ${root}; mkdir ${root}; dpkg-deb -x '${deb}' ${root}`, dir);
  const lines = new Map<string, string>();
  const own = /^(bin|sbin|lib|lib32|lib64|libx32)(\/|$)/;
  // Those under /usr come last and win.
  const all = listing(root).map((line) => {
    const tail = /^([dflpbc] .*?\d+\.\d+(?: links=\d+)?(?: -> (.*?))?) ([^ ]*)$/.exec(line)!;
    return { head: tail[1]!, target: tail[2], path: tail[3]! };
  });
  for (const { head, target, path } of all.sort((a, b) => (a.path < b.path ? -1 : 1))) {
    const moved = own.test(path) ? `usr/${path}` : path;
    if (target?.startsWith('/') && target.slice(1).replace(own, 'usr/$1$2') === moved) continue;
    lines.set(moved, `${withoutTime(head)} ${moved}`);
  }
  return [...lines.values()].sort();
}

test('real packages become what dpkg-deb extracts, moved under /usr', async () => {
  const cache = join(dir, 'cache');
  mkdirSync(cache);
  sh('apt-get download coreutils iputils-ping libc6 base-files >/dev/null 2>&1', cache);
  for (const file of readdirSync(cache)) {
    const deb = join(cache, file);
    const unit = await importDeb(deb, { repoDir });
    const tree = join(unit.dir, 'filesystem');
    const added =
      /var\/lib\/dpkg(\/info.*)?$|^d 755 0:0 var(\/lib)?$|^l .* -> usr\/\S+ \S+$|^d \S+ 0:0 usr\/(s?bin|lib\S*)$/;
    const actual = listing(tree)
      .map(withoutTime)
      .filter((line) => !added.test(line));
    assertSameLines(
      actual,
      extracted(deb).filter((line) => !added.test(line)),
    );
    assert.deepEqual(await verifyUnit(unit), []);
    // The list is dpkg's: the package's own paths.
    const members = sh(`dpkg-deb --fsys-tarfile '${deb}' | tar t --quoting-style=literal`, dir)
      .trim()
      .split('\n');
    const list = members.map((m) => (m === './' ? '/.' : m.slice(1).replace(/\/$/, '')));
    const { layer, architecture, multiArch } = unit.metadata;
    const info = join(tree, 'var/lib/dpkg/info', multiArch === 'same' ? `${layer}:${architecture}` : layer);
    assert.deepEqual(readFileSync(`${info}.list`, 'latin1').trim().split('\n'), list);
    for (const line of sh(`dpkg-deb --fsys-tarfile '${deb}' | TZ=UTC tar tv --full-time`, dir).split('\n')) {
      const time = /^d\S+ \S+ +0 (\S+ \S+) \.\/(etc.*|usr.*)\/$/.exec(line);
      if (time) assert.equal(statSync(join(tree, time[2]!)).mtimeMs, Date.parse(`${time[1]}Z`), time[2]);
    }
    const control = join(dir, 'control');
    sh(`rm -rf ${control}; dpkg-deb -e '${deb}' ${control}`, dir);
    for (const name of readdirSync(control)) {
      if (name === 'control')
        assert.deepEqual(readFileSync(join(unit.dir, name)), readFileSync(join(control, name)));
      else assert.deepEqual(readFileSync(`${info}.${name}`), readFileSync(join(control, name)), name);
    }
  }
  const [base, core, ping, libc] = ['base-files', 'coreutils', 'iputils-ping', 'libc6'].map(
    (name) => listUnits(repoDir).find(({ metadata }) => metadata.layer === name)!,
  );
  for (const [link, target] of [
    ['bin', 'usr/bin'],
    ['sbin', 'usr/sbin'],
    ['lib', 'usr/lib'],
    ['lib64', 'usr/lib64'],
  ]) {
    assert.equal(readlinkSync(join(base!.dir, 'filesystem', link!)), target);
  }
  assert.ok(statSync(join(core!.dir, 'filesystem/usr/bin/ls')).isFile());
  assert.ok(statSync(join(core!.dir, 'filesystem/usr/bin/touch')).isFile());
  assert.ok(statSync(join(ping!.dir, 'scripts/post-install')).mode & 0o100);
  assert.equal(core!.metadata.essential, true);
  assert.ok(readSharedLibs(libc!).some((lib) => lib.library === 'libc' && lib.version === '6'));
  const hosts = readFileSync(join(base!.dir, 'conffiles'), 'utf8');
  const md5 = execFileSync('md5sum', [join(base!.dir, 'filesystem/etc/issue')], { encoding: 'utf8' }).split(
    ' ',
  )[0];
  assert.ok(hosts.includes(`/etc/issue ${md5}\n`));
});

test('the merged /usr: links are rewritten or left out, and what was under /usr wins', async () => {
  const deb = makePackage(dir, {
    name: 'merge',
    tree: `mkdir -p bin sbin lib/deep/er usr/bin usr/lib etc
      echo real > bin/real; ln -s /bin/real usr/bin/real
      echo old > bin/both; echo new > usr/bin/both; ln bin/both bin/both-too
      ln -s ../usr/lib/x lib/up; ln -s ../etc/conf bin/conf; ln -s deep/er lib/within; ln -s ../lib/deep sbin/across
      ln -s /lib/deep/er lib/absolute; ln -s ../../lib/deep usr/lib/stays; ln -s ../../../etc/conf lib/deep/er/far
      echo one > lib/deep/one; ln lib/deep/one lib/deep/two; chmod 711 lib; chmod 750 usr/lib`,
  });
  const unit = await importDeb(deb, { repoDir });
  const tree = join(unit.dir, 'filesystem');
  const target = (path: string): string => readlinkSync(join(tree, path));
  assert.deepEqual(readdirSync(tree).sort(), ['etc', 'usr', 'var']);
  assert.equal(readFileSync(join(tree, 'usr/bin/real'), 'utf8'), 'real\n');
  assert.equal(readFileSync(join(tree, 'usr/bin/both'), 'utf8'), 'new\n');
  assert.equal(readFileSync(join(tree, 'usr/bin/both-too'), 'utf8'), 'old\n');
  assert.equal(target('usr/lib/up'), 'x');
  assert.equal(target('usr/bin/conf'), '../../etc/conf');
  assert.equal(target('usr/lib/within'), 'deep/er');
  assert.equal(target('usr/sbin/across'), '../lib/deep');
  assert.equal(target('usr/lib/absolute'), '/lib/deep/er');
  assert.equal(target('usr/lib/stays'), '../../lib/deep');
  assert.equal(target('usr/lib/deep/er/far'), '../../../../etc/conf');
  assert.equal(statSync(join(tree, 'usr/lib/deep/one')).ino, statSync(join(tree, 'usr/lib/deep/two')).ino);
  assert.equal(statSync(join(tree, 'usr/lib')).mode & 0o777, 0o750);
  assert.deepEqual(await verifyUnit(unit), []);
});

test('owners, modes, devices, capabilities, ACLs, holes, nanoseconds and byte names survive', async () => {
  const source = join(dir, 'exact');
  mkdirSync(source);
  sh(
    `mkdir -p opt/d; printf s > opt/suid; chown 1000:42 opt/suid; chmod 6755 opt/suid; mkdir opt/sticky; chmod 1777 opt/sticky
     mknod opt/null c 1 3; mknod opt/disk b 8 1; mkfifo opt/pipe; printf data > $'opt/\\xff\\xfe'; ln opt/suid opt/d/again; chown -h 7:8 opt/pipe
     ln -s nowhere opt/dangling; chown -h 5:6 opt/dangling; touch -h -d '2001-02-03 04:05:06.123456789' opt/dangling opt/null
     truncate -s 40M opt/holes; printf x | dd of=opt/holes bs=1 seek=20000000 conv=notrunc status=none; touch -d '2001-02-03 04:05:06.123456789' opt/d opt/suid
     cp /bin/true opt/ping; setcap cap_net_raw=ep opt/ping`,
    source,
  );
  setXattr(join(source, 'opt/d'), 'user.note', 'kept');
  setXattr(join(source, 'opt/d'), 'system.posix_acl_access', ACL);
  sh('tar -C exact --xattrs --xattrs-include=* --acls --format=pax -S -czf exact.tar.gz .', dir);
  const unit = await importTar(join(dir, 'exact.tar.gz'), { repoDir, name: 'exact', version: '1' });
  const tree = join(unit.dir, 'filesystem');
  assertSameLines(listing(tree), listing(source));
  assert.match(sh(`getcap ${tree}/opt/ping`, dir), /cap_net_raw/);
  assert.ok(statSync(join(tree, 'opt/holes')).blocks < 100);
  const index = openUnitIndex(unit);
  assert.equal(index.blocks(index.find('opt/holes')), statSync(join(tree, 'opt/holes')).blocks);
  assert.deepEqual([...index.xattrs(index.find('opt/d'))].length, 2);
  assert.deepEqual(await verifyUnit(unit), []);
});

test('metadata, conffiles, scripts and shared-libs come from the control archive', async () => {
  const deb = makePackage(dir, {
    name: 'libfull',
    version: '2:1.0~rc1-3+b2',
    control: [
      'Multi-Arch: same',
      'Depends: libc6 (>= 2.36), foo | bar',
      'Pre-Depends: dpkg',
      'Provides: virtual (= 2)',
      'Installed-Size: 12',
    ],
    info: {
      postinst: '#!/bin/sh\nexit 0\n',
      prerm: '#!/bin/sh\n',
      conffiles: '/etc/full.conf\n/etc/missing\n',
      shlibs: 'libfull 1 libfull (>= 2:1.0)\nudeb: libfull 1 libfull-udeb\n',
      symbols:
        'libother.so.2 libfull #MINVER#\n| libfull-alt #MINVER#\n* Build-Depends-Package: x\n one@Base 1.0\n two@Base 1.10\n three@Base 1.9\n',
      triggers: 'activate-noawait ldconfig\n',
    },
    tree: 'mkdir -p etc; printf conf > etc/full.conf',
  });
  const unit = await importDeb(deb, { repoDir });
  assert.equal(unit.dir, join(repoDir, 'libfull_2:1.0~rc1-3+b2'));
  assert.equal(unit.metadata.depends, 'libc6 (>= 2.36), foo | bar');
  assert.equal(unit.metadata.preDepends, 'dpkg');
  const md5 = execFileSync('md5sum', { input: 'conf', encoding: 'utf8' }).split(' ')[0];
  assert.equal(readFileSync(join(unit.dir, 'conffiles'), 'utf8'), `/etc/full.conf ${md5}\n`);
  assert.deepEqual(readdirSync(join(unit.dir, 'scripts')).sort(), ['post-install', 'pre-remove']);
  assert.deepEqual(readSharedLibs(unit), [
    { library: 'libother', version: '2', dependency: 'libfull (>= 1.10)' },
    { library: 'libfull', version: '1', dependency: 'libfull (>= 2:1.0)' },
  ]);
  const info = readdirSync(join(unit.dir, 'filesystem/var/lib/dpkg/info')).sort();
  const names = ['conffiles', 'list', 'postinst', 'prerm', 'shlibs', 'symbols', 'triggers'];
  assert.deepEqual(
    info,
    names.map((name) => `libfull:amd64.${name}`),
  );
  assert.equal(
    readFileSync(join(unit.dir, 'filesystem/var/lib/dpkg/info/libfull:amd64.list'), 'utf8'),
    '/.\n/etc\n/etc/full.conf\n',
  );
  // Again: the unit that is there is returned, untouched.
  const before = statSync(join(unit.dir, 'index')).ino;
  await importDeb(deb, { repoDir });
  assert.equal(statSync(join(unit.dir, 'index')).ino, before);
  await importDeb(deb, { repoDir, replace: true });
  assert.notEqual(statSync(join(unit.dir, 'index')).ino, before);
});

test('hostile and damaged packages are refused and leave nothing', async () => {
  const hostile = join(dir, 'hostile');
  const cases: Record<string, string> = {
    escape: 'tar -cPf $T --transform s,^,../../, $F',
    absolute: 'tar -cPf $T --transform s,^,/tmp/strata-escape/, $F',
    'below-link':
      'ln -s /tmp evil; tar -cf $T evil; mkdir -p x/evil; echo x > x/evil/f; tar -rf $T -C x evil/f',
    'link-out': 'echo x > a; ln a b; tar -cPf $T --transform "s,^a$,../../etc/passwd,RS" a b',
    whiteout: 'mknod w c 0 0; tar -cf $T w',
    'var-link': 'mkdir -p var/lib; ln -s /tmp var/lib/dpkg; tar -cf $T var',
    'usr-link': 'ln -s /tmp usr; tar -cf $T usr; mkdir -p bin; echo x > bin/x; tar -rf $T bin/x',
  };
  for (const [name, script] of Object.entries(cases)) {
    sh(
      `rm -rf ${hostile}; mkdir ${hostile}; cd ${hostile}; echo x > file; T=data.tar F=file; ${script}`,
      dir,
    );
    put(
      join(hostile, 'control'),
      `Package: ${name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n`,
    );
    sh(
      'echo 2.0 > debian-binary; tar cf control.tar control; rm -f p.deb; ar q p.deb debian-binary control.tar data.tar 2>&1',
      hostile,
    );
    const repo = join(dir, 'hostile-repo');
    await assert.rejects(
      importDeb(join(hostile, 'p.deb'), { repoDir: repo }),
      (error: unknown) => {
        assert.ok(error instanceof StrataError && error.code === 'BAD_FORMAT', `${name}: ${String(error)}`);
        return true;
      },
      name,
    );
    assert.deepEqual(readdirSync(repo), [], name);
  }
  const whole = readFileSync(
    makePackage(dir, { name: 'cut', compression: 'xz', tree: 'mkdir d; head -c 200000 /dev/urandom > d/r' }),
  );
  for (const length of [0, 1, 100, 1000, whole.length >> 1, whole.length - 1]) {
    writeFileSync(join(dir, 'cut.deb'), whole.subarray(0, length));
    await assert.rejects(
      importDeb(join(dir, 'cut.deb'), { repoDir: join(dir, 'hostile-repo') }),
      StrataError,
    );
  }
  const flipped = Buffer.from(whole);
  flipped[whole.length >> 1]! ^= 0x40;
  writeFileSync(join(dir, 'cut.deb'), flipped);
  await assert.rejects(importDeb(join(dir, 'cut.deb'), { repoDir: join(dir, 'hostile-repo') }), StrataError);
  assert.deepEqual(readdirSync(join(dir, 'hostile-repo')), []);
});
