/** Units on disk: names, listing, removal, verification, and what kill -9 and power loss may leave. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { StrataError } from '../base/index.ts';
import {
  buildUnit,
  cleanRepoDir,
  importDeb,
  importTar,
  listUnits,
  makeDurable,
  openImportPool,
  openUnit,
  openUnitIndex,
  readSharedLibs,
  removeUnit,
  unitDirName,
  verifyUnit,
} from './index.ts';
import { makePackage, put, setXattr, sh, temporaryDir } from './test-support.ts';

const dir = temporaryDir();

function rejects(code: string): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof StrataError && error.code === code, String(error));
    return true;
  };
}

async function smallUnit(repoDir: string, name: string, version = '1'): ReturnType<typeof buildUnit> {
  const tree = join(dir, `tree-${name}`);
  put(join(tree, 'usr/share/doc', name, 'readme'), `${name} ${version}\n`);
  return buildUnit(tree, { repoDir, name, version });
}

test("a unit directory has the unit's name; everything else is not a unit", async () => {
  const repoDir = join(dir, 'names');
  assert.equal(unitDirName('mysql-server', '5.0.51a-3'), 'mysql-server_5.0.51a-3');
  assert.equal(unitDirName('x', '1:2~rc+b1'), 'x_1:2~rc+b1');
  for (const [layer, version] of [
    ['a/b', '1'],
    ['..', '1'],
    ['.hidden', '1'],
    ['a', '../1'],
    ['a', '1/2'],
    ['', '1'],
    ['a', ''],
    ['a', '1\0'],
  ]) {
    assert.throws(() => unitDirName(layer!, version!), rejects('BAD_NAME'));
  }
  const unit = await smallUnit(repoDir, 'one', '1:2~3');
  await smallUnit(repoDir, 'two');
  assert.deepEqual(openUnit(unit.dir).metadata, unit.metadata);
  put(join(repoDir, 'Layers'), '');
  put(join(repoDir, 'no_unit/x'), '');
  put(join(repoDir, 'bad_1/metadata'), 'Layer: other\nVersion: 1\n');
  put(join(repoDir, 'worse_1/metadata'), Buffer.from([0xff, 0, 1]));
  const problems: string[] = [];
  const units = listUnits(repoDir, (error) => problems.push(error.code));
  assert.deepEqual(
    units.map(({ metadata }) => metadata.layer),
    ['one', 'two'],
  );
  assert.deepEqual(problems, ['BAD_FORMAT', 'NOT_FOUND', 'BAD_FORMAT']);
  assert.deepEqual(listUnits(join(dir, 'nowhere')), []);
  assert.throws(() => openUnit(join(repoDir, 'three_1')), rejects('NOT_FOUND'));
  const open = readFileSync(join(unit.dir, 'filesystem/usr/share/doc/one/readme'));
  await removeUnit(unit);
  assert.ok(open.length > 0);
  assert.deepEqual(
    listUnits(repoDir).map(({ metadata }) => metadata.layer),
    ['two'],
  );
  await assert.rejects(removeUnit(unit), rejects('NOT_FOUND'));
});

test('verify finds every kind of tampering', async () => {
  const repoDir = join(dir, 'verify');
  const tree = join(dir, 'verify-tree');
  mkdirSync(tree);
  sh(
    `mkdir -p d e; printf same > d/content; printf x > d/size; printf x > d/mode; printf x > d/owner; printf x > d/time; printf x > d/gone
      ln -s a d/link; printf x > d/type; printf x > d/xattr; mknod d/device c 1 3; printf x > d/h1; ln d/h1 d/h2; printf x > 'd/h 3'; ln 'd/h 3' d/h4`,
    tree,
  );
  const unit = await buildUnit(tree, { repoDir, name: 'v', version: '1' });
  assert.deepEqual(await verifyUnit(unit), []);
  const there = join(unit.dir, 'filesystem');
  sh(
    `T=$(stat -c %y d); C=$(stat -c %y d/content); printf SAME > d/content; touch -d "$C" d/content; S=$(stat -c %y d/size); printf longer > d/size; touch -d "$S" d/size
      chmod 4755 d/mode; M=$(stat -c %y d/owner); chown 5:6 d/owner; touch -d 2000-01-01 d/time; rm d/gone; L=$(stat -c %y d/link); ln -sfn b d/link; touch -h -d "$L" d/link
      rm d/type; mkdir d/type; D=$(stat -c %y d/device); rm d/device; mknod d/device c 1 5; touch -d "$D" d/device
      H=$(stat -c %y d/h2); rm d/h2; printf x > d/h2; touch -d "$H" d/h2; echo extra > e/extra; touch -d "$T" d; chmod 700 e; rm -f d/h4; ln d/h1 d/h4; touch -d "$T" d`,
    there,
  );
  setXattr(join(there, 'd/xattr'), 'user.mark', '1');
  const problems = (await verifyUnit(unit)).map(({ path, problem }) => `${path}: ${problem}`);
  const expected = [
    /^d\/content: content changed/,
    /^d\/size: 6 bytes instead of 1/,
    /^d\/mode: mode 4755 instead of 644/,
    /^d\/owner: owner 5:6 instead of 0:0/,
    /^d\/time: modification time/,
    /^d\/gone: missing/,
    /^d\/link: leads to b instead of a/,
    /^d\/type: a directory instead of a file/,
    /^d\/xattr: extended attribute user.mark extra/,
    /^d\/device: another device number/,
    /^d\/h2: no longer a hard link/,
    /^e\/extra: extra/,
    /^e: mode 700/,
    /^d\/h4: hard link/,
  ];
  for (const pattern of expected)
    assert.ok(
      problems.some((p) => pattern.test(p)),
      `${pattern} in ${problems.join('; ')}`,
    );
  assert.ok(!problems.some((p) => /^d: /.test(p)), problems.join('; '));

  const index = readFileSync(join(unit.dir, 'index'));
  index[index.length - 3]! ^= 1;
  writeFileSync(join(unit.dir, 'index'), index);
  assert.deepEqual(
    (await verifyUnit(unit)).map(({ path }) => path),
    ['index'],
  );
  sh('rm index', unit.dir);
  assert.deepEqual(await verifyUnit(unit), [{ path: 'index', problem: 'missing' }]);
});

test('kill -9 at any moment of an import leaves a whole unit or only .tmp-*, which is cleaned', async () => {
  const repoDir = join(dir, 'killed');
  mkdirSync(repoDir);
  const deb = makePackage(dir, {
    name: 'killed',
    compression: 'none',
    tree: 'mkdir -p usr/share/k; for i in $(seq 600); do echo $i > usr/share/k/file-$i; done; head -c 3000000 /dev/urandom > usr/share/k/big',
  });
  const program = `
    const { importDeb } = await import(${JSON.stringify(join(import.meta.dirname, 'index.ts'))});
    process.stdout.write('ready');
    for (;;) await importDeb(${JSON.stringify(deb)}, { repoDir: ${JSON.stringify(repoDir)}, replace: true });`;
  let leftovers = 0;
  // Until some kill came in the middle, but not for ever.
  for (let round = 0; round < 5 || (leftovers === 0 && round < 100); round++) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    await new Promise((resolve) => setTimeout(resolve, 5 + (round % 5) * 61));
    // Cleaning beside it takes nothing the import needs: it goes on until it is killed. (What it has just exchanged for the new unit,
    // or has made and not locked yet, may go.)
    await cleanRepoDir(repoDir);
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(child.exitCode, null, 'the import failed');
    const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)));
    child.kill('SIGKILL');
    assert.equal(await ended, 'SIGKILL');
    const left = readdirSync(repoDir);
    const work = left.filter((name) => name.startsWith('.tmp-'));
    assert.deepEqual(
      left.filter((name) => !name.startsWith('.tmp-') && name !== 'killed_1.0-1'),
      [],
    );
    leftovers += work.length;
    for (const unit of listUnits(repoDir)) assert.deepEqual(await verifyUnit(unit), []);
    assert.deepEqual((await cleanRepoDir(repoDir)).sort(), work.sort());
    assert.ok(readdirSync(repoDir).every((name) => name === 'killed_1.0-1'));
  }
  assert.ok(leftovers > 0, 'some kill came in the middle');
});

test('a unit that was not durable counts as absent after a reboot, until makeDurable', async () => {
  const repoDir = join(dir, 'boot');
  const deb = makePackage(dir, { name: 'boot', tree: 'mkdir d; echo x > d/f' });
  const unit = await importDeb(deb, { repoDir, durable: false });
  assert.equal(listUnits(repoDir).length, 1);
  assert.deepEqual(await cleanRepoDir(repoDir), []);
  writeFileSync(join(unit.dir, '.unsynced'), 'another boot\n');
  assert.deepEqual(listUnits(repoDir), []);
  assert.throws(() => openUnit(unit.dir), rejects('NOT_FOUND'));
  // The next import takes its place; or cleaning removes it.
  const again = await importDeb(deb, { repoDir, durable: false });
  assert.equal(listUnits(repoDir).length, 1);
  makeDurable([again.dir]);
  assert.deepEqual(readdirSync(again.dir).sort(), ['control', 'filesystem', 'index', 'metadata']);
  writeFileSync(join(unit.dir, '.unsynced'), 'another boot\n');
  assert.deepEqual(await cleanRepoDir(repoDir), ['boot_1.0-1']);
  assert.deepEqual(readdirSync(repoDir), []);
});

test('pipes and links in a unit are refused; nobody waits for them or reads what they lead to', async () => {
  const repoDir = join(dir, 'odd');
  for (const file of ['metadata', 'index', '.unsynced', 'shared-libs']) {
    for (const make of [`mkfifo`, 'ln -s /etc/passwd', 'ln -s /dev/zero', 'mkdir']) {
      const unit = await smallUnit(repoDir, 'odd');
      const at = join(unit.dir, file);
      rmSync(at, { force: true });
      sh(`${make} ${at}`, dir);
      const what = `${make} ${file}`;
      if (file === 'metadata' || file === '.unsynced')
        assert.throws(() => openUnit(unit.dir), rejects('BAD_FORMAT'), what);
      else if (file === 'index') assert.throws(() => openUnitIndex(unit), rejects('BAD_FORMAT'), what);
      else assert.throws(() => readSharedLibs(unit), rejects('BAD_FORMAT'), what);
      const isOffered = listUnits(repoDir).length > 0;
      assert.equal(isOffered, file === 'index' || file === 'shared-libs', what);
      await removeUnit(unit);
    }
  }
});

test('two imports of one unit at once give one unit', async () => {
  const repoDir = join(dir, 'race');
  const deb = makePackage(dir, { name: 'race', tree: 'mkdir d; head -c 3000000 /dev/zero > d/f' });
  const units = await Promise.all([1, 2, 3].map(() => importDeb(deb, { repoDir })));
  assert.equal(new Set(units.map((unit) => unit.dir)).size, 1);
  assert.deepEqual(readdirSync(repoDir), ['race_1.0-1']);
  assert.deepEqual(await verifyUnit(units[0]!), []);
  assert.equal(statSync(units[0]!.dir).mode & 0o777, 0o700);
  renameSync(units[0]!.dir, join(repoDir, 'other_1'));
  assert.throws(() => openUnit(join(repoDir, 'other_1')), rejects('BAD_FORMAT'));
});

test('a full disk and a missing file are clear errors, and nothing stays behind', async () => {
  const repoDir = join(dir, 'full');
  mkdirSync(repoDir);
  const deb = makePackage(dir, {
    name: 'full',
    tree: 'mkdir d; for i in 1 2 3 4; do head -c 900000 /dev/urandom > d/$i; done',
  });
  sh(`mount -t tmpfs -o size=2m strata-test ${repoDir}`, dir);
  try {
    await assert.rejects(importDeb(deb, { repoDir }), rejects('NO_SPACE'));
    assert.deepEqual(readdirSync(repoDir), []);
  } finally {
    sh(`umount ${repoDir}`, dir);
  }
  await assert.rejects(importDeb(join(dir, 'nowhere.deb'), { repoDir }), rejects('IO'));
  await assert.rejects(
    importTar(join(dir, 'nowhere.tar'), { repoDir, name: 'x', version: '1' }),
    rejects('IO'),
  );
});

test('a pool imports in threads; errors keep their code, and a failing job does not stop the others', async () => {
  const repoDir = join(dir, 'pool');
  const pool = openImportPool(2);
  const debs = Array.from({ length: 5 }, (_, i) =>
    makePackage(dir, { name: `pool${i}`, tree: `mkdir d${i}; head -c 100000 /dev/urandom > d${i}/f` }),
  );
  writeFileSync(join(dir, 'bad.deb'), 'not a package');
  const events: string[] = [];
  const progress = (event: { message?: string }): void => void events.push(event.message ?? '');
  const bad = assert.rejects(pool.importDeb(join(dir, 'bad.deb'), { repoDir }), rejects('BAD_FORMAT'));
  const units = await Promise.all(
    debs.map((deb) => pool.importDeb(deb, { repoDir, progress, durable: false })),
  );
  await bad;
  assert.deepEqual(
    units.map(({ metadata }) => metadata.layer),
    ['pool0', 'pool1', 'pool2', 'pool3', 'pool4'],
  );
  assert.deepEqual(
    events.sort(),
    units.map(({ metadata }) => `${metadata.layer} 1.0-1`),
  );
  makeDurable(units.map((unit) => unit.dir));
  for (const unit of units) assert.deepEqual(await verifyUnit(unit), []);
  await pool.close();
  await assert.rejects(pool.importDeb(debs[0]!, { repoDir }));
});
