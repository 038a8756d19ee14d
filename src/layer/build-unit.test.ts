/** Units from directories, inferred dependencies, conflicts between units, and memory that does not grow with a package. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Name, StrataError } from '../base/index.ts';
import { S_IFDIR, S_IFREG } from '../sys/index.ts';
import type { IndexedUnit } from './index.ts';
import {
  buildTreeIndex,
  buildUnit,
  findConflicts,
  findOverlaps,
  listUnits,
  openUnitIndex,
  readSharedLibs,
  type TreeEntry,
  treeIndexFromBytes,
  verifyUnit,
} from './index.ts';
import { assertSameLines, listing, put, sh, temporaryDir } from './test-support.ts';

const dir = temporaryDir();
const repoDir = join(dir, 'repo');

test('a unit built from a directory is that directory, copied, and moved under /usr', async () => {
  const tree = join(dir, 'destdir');
  mkdirSync(tree);
  sh(
    `mkdir -p usr/bin etc/app var/lib/app; printf '#!/bin/sh\\n' > usr/bin/app; chmod 4755 usr/bin/app; ln usr/bin/app usr/bin/app2; ln -s app usr/bin/link
      chown 33:33 var/lib/app; echo c > etc/app/conf; mknod etc/app/null c 1 3; truncate -s 20M var/lib/app/hole; printf x >> var/lib/app/hole; touch -d '2020-01-01 00:00:00.25' etc`,
    tree,
  );
  put(join(dir, 'scripts/post-install'), '#!/bin/sh\nexit 0\n');
  const unit = await buildUnit(tree, {
    repoDir,
    name: 'app',
    version: '1.0',
    depends: 'libc6',
    scriptsDir: join(dir, 'scripts'),
  });
  assertSameLines(listing(join(unit.dir, 'filesystem')), listing(tree));
  assert.notEqual(
    statSync(join(unit.dir, 'filesystem/etc/app/conf')).ino,
    statSync(join(tree, 'etc/app/conf')).ino,
  );
  assert.ok(statSync(join(unit.dir, 'filesystem/var/lib/app/hole')).blocks < 100);
  assert.equal(unit.metadata.depends, 'libc6');
  assert.equal(statSync(join(unit.dir, 'scripts/post-install')).mode & 0o777, 0o755);
  assert.deepEqual(await verifyUnit(unit), []);

  const old = join(dir, 'old-style');
  put(join(old, 'bin/tool'), 'x', 0o755);
  put(join(old, 'lib/tool/data'), 'x');
  const moved = await buildUnit(old, { repoDir, name: 'tool', version: '1' });
  const index = openUnitIndex(moved);
  assert.ok(index.find('usr/bin/tool') > 0 && index.find('usr/lib/tool/data') > 0 && index.find('bin') < 0);

  await assert.rejects(
    buildUnit(tree, { repoDir, name: 'app', version: '2', scriptsDir: old }),
    /holds none of the scripts/,
  );
  await assert.rejects(buildUnit(join(dir, 'nowhere'), { repoDir, name: 'app', version: '2' }), StrataError);
  assert.deepEqual(
    listUnits(repoDir).map(({ metadata }) => metadata.layer),
    ['app', 'tool'],
  );
});

test('a config layer keeps whiteouts and overlay attributes', async () => {
  const tree = join(dir, 'config');
  sh(`mkdir -p ${tree}/etc; mknod ${tree}/etc/gone c 0 0`, dir);
  const unit = await buildUnit(tree, { repoDir, name: 'conf', version: '1', category: 'config' });
  const index = openUnitIndex(unit);
  assert.equal(index.mode(index.find('etc/gone')) & 0o170000, 0o020000);
  assert.deepEqual(await verifyUnit(unit), []);
  await assert.rejects(buildUnit(tree, { repoDir, name: 'conf', version: '2' }), /whiteout/);
});

test('dependencies come from what the programs are linked against', async () => {
  const libc = realpathSync(
    existsSync('/lib/x86_64-linux-gnu')
      ? '/lib/x86_64-linux-gnu/libc.so.6'
      : '/lib/aarch64-linux-gnu/libc.so.6',
  );
  const libDir = join(dir, 'libc-tree/usr/lib/x86_64-linux-gnu');
  put(join(libDir, 'x'), '');
  copyFileSync(libc, join(libDir, 'libc.so.6'));
  const declaring = await buildUnit(join(dir, 'libc-tree'), { repoDir, name: 'libc6', version: '2.36-9' });
  assert.deepEqual(readSharedLibs(declaring), [
    { library: 'libc', version: '6', dependency: 'libc6 (>= 2.36-9)' },
  ]);

  // A program that needs libc and one library that a unit holds without declaring it.
  const program = realpathSync('/bin/ls');
  const needed = execFileSync('readelf', ['-dW', program], { encoding: 'utf8' });
  const others = [...needed.matchAll(/\(NEEDED\).*\[(.*)\]/g)]
    .map((m) => m[1]!)
    .filter((name) => name !== 'libc.so.6');
  const tree = join(dir, 'program');
  put(join(tree, 'usr/bin/x'), '');
  copyFileSync(program, join(tree, 'usr/bin/program'));
  const build = (version: string, inferFrom: (typeof declaring)[]): ReturnType<typeof buildUnit> =>
    buildUnit(tree, { repoDir, name: 'program', version, depends: 'own', inferFrom });
  if (others.length > 0) {
    await assert.rejects(build('1', [declaring]), (error: unknown) => {
      assert.ok(error instanceof StrataError && error.code === 'UNSATISFIABLE');
      assert.ok(
        others.every((name) => error.message.includes(name)) && error.message.includes('usr/bin/program'),
      );
      return true;
    });
  }
  for (const name of others) put(join(dir, 'others/usr/lib', name), 'not really a library');
  put(join(dir, 'others/usr/share/doc/others/x'), '');
  const holding = await buildUnit(join(dir, 'others'), { repoDir, name: 'others', version: '1' });
  const unit = await build('1', [declaring, holding]);
  assert.equal(unit.metadata.depends, `own, libc6 (>= 2.36-9)${others.length > 0 ? ', others' : ''}`);
});

function indexed(id: string, paths: string[], replaces?: string): IndexedUnit {
  const root: TreeEntry = {
    path: '' as Name,
    mode: S_IFDIR | 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
  };
  const entries = new Map<string, TreeEntry>([['', root]]);
  for (const path of paths) {
    for (let at = path.indexOf('/'); at > 0; at = path.indexOf('/', at + 1)) {
      const parent = path.slice(0, at) as Name;
      entries.set(parent, { ...root, path: parent });
    }
    if (!path.endsWith('/')) entries.set(path, { ...root, path: path as Name, mode: S_IFREG | 0o644 });
  }
  const [layer, version] = id.split(' ') as [string, string];
  return {
    id,
    metadata: { layer, version, category: 'software', ...(replaces === undefined ? {} : { replaces }) },
    index: treeIndexFromBytes(buildTreeIndex(entries.values())),
  };
}

test('conflicts name the path and all owners; Replaces settles them', () => {
  const a = indexed('a 1', ['usr/bin/tool', 'usr/share/doc/a/x', 'etc/thing/conf', 'var/same/']);
  const b = indexed('b 2', ['usr/bin/tool', 'usr/share/doc/b/x', 'etc/thing', 'var/same/']);
  const c = indexed('c 1', ['usr/share/doc/a/y', 'usr/bin/tool'], 'a (<< 2), b');
  assert.deepEqual(findConflicts([a, b]), [
    { path: 'etc/thing', owners: ['a 1', 'b 2'], winner: null },
    { path: 'usr/bin/tool', owners: ['a 1', 'b 2'], winner: null },
  ]);
  assert.deepEqual(findOverlaps([a, b, c]), [
    { path: 'etc/thing', owners: ['a 1', 'b 2'], winner: null },
    { path: 'usr/bin/tool', owners: ['a 1', 'b 2', 'c 1'], winner: 'c 1' },
  ]);
  assert.deepEqual(findConflicts([a, c]), []);
  assert.equal(findConflicts([a, indexed('c 1', ['usr/bin/tool'], 'a (<< 1)')]).length, 1);
  assert.deepEqual(findConflicts([]), []);
  const both = [indexed('p 1', ['f'], 'q'), indexed('q 1', ['f'], 'p')];
  assert.equal(findConflicts(both).length, 1);
});

test('640 units of 43,000 entries are compared in a second or so', () => {
  const units: IndexedUnit[] = [];
  for (let u = 0; u < 640; u++) {
    const paths = [`usr/bin/tool-${u}`, `var/lib/dpkg/info/p${u}.list`, `usr/share/doc/p${u}/copyright`];
    for (let f = 0; f < 55; f++) paths.push(`usr/share/p${u}/d${f % 5}/file-${f}`);
    for (let f = 0; f < 4; f++) paths.push(`usr/lib/python3/dist-packages/m${u}-${f}.py`);
    units.push(indexed(`p${u} 1`, paths));
  }
  const entries = units.reduce((sum, { index }) => sum + index.entryCount, 0);
  assert.ok(entries > 43_000);
  const before = process.cpuUsage();
  assert.deepEqual(findConflicts(units), []);
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 10_000_000, `${entries} entries in ${(user + system) / 1000} ms`);
});

test('a package with a 1 GB file is imported in bounded memory', () => {
  const sizeBytes = 2 ** 30;
  const file = join(dir, 'large.deb');
  const tarHeader = Buffer.alloc(512);
  const fields: [number, string][] = [
    [0, './large'],
    [100, '0000644\0'],
    [108, '0000000\0'],
    [116, '0000000\0'],
    [124, `${sizeBytes.toString(8).padStart(11, '0')}\0`],
    [136, '00000000000\0'],
    [148, '        '],
    [156, '0'],
    [257, 'ustar\0' + '00'],
  ];
  for (const [at, text] of fields) tarHeader.write(text, at, 'latin1');
  const sum = tarHeader.reduce((total, byte) => total + byte, 0);
  tarHeader.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  put(
    join(dir, 'large/control'),
    'Package: large\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n',
  );
  sh(
    'echo 2.0 > debian-binary; tar cf control.tar control; ar qc ../large.deb debian-binary control.tar',
    join(dir, 'large'),
  );
  // The data member is a hole, so the package itself costs nothing.
  const fd = openSync(file, 'r+');
  const end = statSync(file).size;
  const memberBytes = 512 + sizeBytes + 1024;
  const arHeader = `${'data.tar'.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(memberBytes).padEnd(10)}\`\n`;
  writeSync(fd, arHeader, end, 'latin1');
  writeSync(fd, tarHeader, 0, 512, end + 60);
  ftruncateSync(fd, end + 60 + memberBytes);
  closeSync(fd);
  const program = `
    const { importDeb } = await import(${JSON.stringify(join(import.meta.dirname, 'index.ts'))});
    const unit = await importDeb(${JSON.stringify(file)}, { repoDir: ${JSON.stringify(repoDir)}, durable: false });
    console.log(unit.metadata.layer, process.resourceUsage().maxRSS);`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  const [layer, maxRssKb] = stdout.trim().split(' ');
  assert.equal(layer, 'large', stderr);
  assert.ok(Number(maxRssKb) < 700 * 1024, `${maxRssKb} KiB`);
  const unit = listUnits(repoDir).find(({ metadata }) => metadata.layer === 'large')!;
  const index = openUnitIndex(unit);
  assert.equal(index.size(index.find('large')), sizeBytes);
  assert.equal(
    index.digest(index.find('large')),
    '49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14',
  );
  assert.equal(readFileSync(join(unit.dir, 'metadata'), 'utf8').includes('Layer: large'), true);
});
