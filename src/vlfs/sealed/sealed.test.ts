/** The sealed door on the kernel's overlayfs, beside the other door's rules over the same layers: equal trees, and each sees what the other wrote. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fsetxattr, MNT_DETACH, umount } from '../../sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../contract.ts';
import { newBlockMap } from '../delta/block-map.ts';
import { BASES_XATTR, encodePartial, PARTIAL_XATTR } from '../delta/partial-form.ts';
import { diffVlfs, pruneWhiteouts, resetOffline, revertOffline } from '../index.ts';
import { Client, makeSandbox, type Sandbox, stackOf } from '../test-support/vlfs.test-support.ts';
import { absorbSealed } from './absorb.ts';
import { isPrivateInUse, mountSealed, prepareSealed, releaseSealedImages } from './mount.ts';

const boxes: Sandbox[] = [];
after(() => {
  releaseSealedImages();
  for (const box of boxes) box.remove();
});

function sandbox(): Sandbox {
  const box = makeSandbox();
  boxes.push(box);
  return box;
}

const options = (box: Sandbox, spec: VlfsSpec) => ({
  spec,
  imageDir: join(box.dir, 'sealed'),
  dataRoots: [join(box.dir, 'repo')],
});

/** Mounts, runs, unmounts, absorbs. */
async function sealed<T>(box: Sandbox, spec: VlfsSpec, body: (dir: string) => T): Promise<T> {
  const dir = join(box.dir, `mnt-${spec.name}`);
  mkdirSync(dir, { recursive: true });
  await mountSealed({ ...options(box, spec), dir, source: `test:${spec.name}` });
  try {
    return body(dir);
  } finally {
    assert.equal(umount(dir), 0, 'umount');
    if (!spec.readOnly) absorbSealed(spec);
  }
}

function client<T>(spec: VlfsSpec, body: (c: Client) => T): T {
  const c = new Client(spec);
  try {
    return body(c);
  } finally {
    c.close();
    assert.deepEqual(c.faults, []);
  }
}

/** As Client.tree, of a mounted directory. */
function treeOf(dir: string, path = ''): Record<string, string> {
  const result: Record<string, string> = {};
  for (const name of readdirSync(join(dir, path), { encoding: 'latin1' }).sort()) {
    const at = path === '' ? name : `${path}/${name}`;
    const stat = lstatSync(join(dir, at));
    if (stat.isDirectory()) {
      result[at] = 'dir';
      Object.assign(result, treeOf(dir, at));
    } else if (stat.isSymbolicLink()) result[at] = `-> ${readlinkSync(join(dir, at))}`;
    else if (stat.isFile()) result[at] = `file ${readFileSync(join(dir, at), 'latin1')}`;
    else result[at] = `special ${(stat.mode & 0o170000).toString(8)}`;
  }
  return result;
}

/** Both doors show this tree, before and after absorbing. */
async function bothShow(box: Sandbox, spec: VlfsSpec): Promise<Record<string, string>> {
  const shown = client(spec, (c) => c.tree());
  assert.deepEqual(await sealed(box, spec, (dir) => treeOf(dir)), shown);
  assert.deepEqual(
    client(spec, (c) => c.tree()),
    shown,
  );
  return shown;
}

async function twoUnits(box: Sandbox): Promise<[LevelSpec, LevelSpec]> {
  const base = await box.unit('base', '1', {
    'etc/motd': 'base',
    'etc/gone': 'g',
    'bin/a': { text: 'same', mode: 0o755 },
    'bin/b': { hard: 'bin/a' },
    'lib/x': 'x',
    link: { link: 'bin/a' },
    empty: '',
    'd/e/f': 'f',
    'd/only': 'base',
  });
  const tool = await box.unit('tool', '1', {
    'bin/tool': { text: 't', mode: 0o4755 },
    'd/e/g': 'g',
    'd/h': null,
  });
  return [tool, base];
}

test('a stack of two units: contents, attributes, hard links', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  await bothShow(box, spec);
  await sealed(box, spec, (dir) => {
    assert.equal(statSync(join(dir, 'bin/tool')).mode, 0o104755);
    const [a, b] = ['bin/a', 'bin/b'].map((path) => statSync(join(dir, path), { bigint: true }));
    assert.equal(a!.ino, b!.ino);
    assert.equal(a!.nlink, 2n);
    assert.equal(a!.dev, statSync(dir, { bigint: true }).dev, 'one device for files and directories');
    assert.equal(statSync(join(dir, 'etc/motd')).mtimeMs, 1_600_000_000_000);
  });
});

test('what one door writes the other shows: files, deletions, new and renamed things', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  client(spec, (c) => {
    c.write('etc/own', 'own');
    c.append('etc/motd', ' and more');
    c.unlink('etc/gone');
    c.rename('d/e', 'moved');
    c.unlink('moved/f');
    c.mkdir('d/e');
    c.write('d/e/new', 'n');
  });
  await bothShow(box, spec);
  await sealed(box, spec, (dir) => {
    appendFileSync(join(dir, 'etc/motd'), '!');
    unlinkSync(join(dir, 'etc/own'));
    rmSync(join(dir, 'lib'), { recursive: true });
    mkdirSync(join(dir, 'lib'));
    writeFileSync(join(dir, 'lib/y'), 'y');
    unlinkSync(join(dir, 'bin/tool'));
    chmodSync(join(dir, 'bin/a'), 0o700);
    chownSync(join(dir, 'empty'), 7, 8);
    renameSync(join(dir, 'moved'), join(dir, 'again'));
    renameSync(join(dir, 'bin'), join(dir, 'sbin'));
    symlinkSync('sbin', join(dir, 'bin'));
    linkSync(join(dir, 'd/only'), join(dir, 'only'));
  });
  const shown = await bothShow(box, spec);
  assert.deepEqual(shown, {
    again: 'dir',
    'again/g': 'file g',
    bin: '-> sbin',
    d: 'dir',
    'd/e': 'dir',
    'd/e/new': 'file n',
    'd/h': 'dir',
    'd/only': 'file base',
    empty: 'file ',
    etc: 'dir',
    'etc/motd': 'file base and more!',
    lib: 'dir',
    'lib/y': 'file y',
    link: '-> bin/a',
    only: 'file base',
    sbin: 'dir',
    'sbin/a': 'file same',
    'sbin/b': 'file same',
  });
  // What the kernel renamed can be renamed by the other door, and the other way round.
  client(spec, (c) => {
    c.mkdir('deep');
    c.rename('sbin', 'deep/bin');
    assert.equal(c.stat('empty').uid, 7);
    assert.equal(c.stat('deep/bin/a').nlink, 1);
  });
  assert.equal((await bothShow(box, spec))['deep/bin/b'], 'file same');
});

test('deletions by the kernel belong to the layers they hide: a replaced layer is seen again', async () => {
  const box = sandbox();
  const [tool, base] = await twoUnits(box);
  const spec = box.spec('a', [tool, base]);
  await sealed(box, spec, (dir) => {
    unlinkSync(join(dir, 'bin/tool'));
    rmSync(join(dir, 'd'), { recursive: true });
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'd/mine'), 'm');
    mkdirSync(join(dir, 'etc/late.d'));
    unlinkSync(join(dir, 'etc/gone'));
  });
  const newer = await box.unit('tool', '2', { 'bin/tool': 't2', 'd/e/g': 'g2', 'etc/late.d/x': 'x' });
  const next = { ...spec, stack: stackOf([newer, base]) };
  pruneWhiteouts(next);
  const shown = await bothShow(box, next);
  assert.equal(shown['bin/tool'], 'file t2');
  assert.equal(shown['d/e/g'], 'file g2');
  assert.equal(shown['d/mine'], 'file m');
  assert.equal(shown['etc/late.d/x'], 'file x', 'a directory that was there before the layer had it');
  assert.equal(shown['etc/gone'], undefined, 'the layer that has it did not change');
  assert.equal(shown['d/only'], undefined);
});

test('diff and revert know what the kernel wrote', async () => {
  const box = sandbox();
  const [tool, base] = await twoUnits(box);
  const spec = box.spec('a', [tool, base]);
  await sealed(box, spec, (dir) => {
    writeFileSync(join(dir, 'etc/motd'), 'changed');
    unlinkSync(join(dir, 'bin/tool'));
    writeFileSync(join(dir, 'bin/own'), '');
  });
  const found = diffVlfs(spec).map(({ path, change, layer }) => `${change} ${path} ${layer}`);
  assert.deepEqual(found, [
    'added /bin/own null',
    'deleted /bin/tool main/tool 1',
    'changed /etc/motd main/base 1',
  ]);
  const newer = await box.unit('base', '2', { 'etc/motd': 'newer' });
  const next = { ...spec, stack: stackOf([tool, newer]) };
  assert.equal(diffVlfs(next, '/etc/motd')[0]!.base_updated, true);
  revertOffline(spec, ['/etc/motd', '/bin/tool']);
  const shown = await bothShow(box, spec);
  assert.equal(shown['etc/motd'], 'file base');
  assert.equal(shown['bin/tool'], 'file t');
});

test('config levels: their whiteouts, opaque and renamed directories', async () => {
  const box = sandbox();
  const [tool, base] = await twoUnits(box);
  const maker = box.spec('maker', [tool, base]);
  await sealed(box, maker, (dir) => {
    writeFileSync(join(dir, 'etc/motd'), 'configured');
    unlinkSync(join(dir, 'etc/gone'));
    renameSync(join(dir, 'd/e'), join(dir, 'd/renamed'));
    rmSync(join(dir, 'lib'), { recursive: true });
    mkdirSync(join(dir, 'lib'));
  });
  const config = await box.config('t', maker);
  const spec = box.spec('a', [config, tool, base]);
  const shown = await bothShow(box, spec);
  assert.equal(shown['etc/motd'], 'file configured');
  assert.equal(shown['d/renamed/f'], 'file f');
  assert.equal(shown['lib/x'], undefined);
  client(spec, (c) => {
    c.unlink('etc/motd');
    c.rename('d/renamed', 'd/e');
  });
  assert.equal((await bothShow(box, spec))['d/e/g'], 'file g');
});

test('a part that was renamed out of a deleted directory stays, the directory stays deleted', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  client(spec, (c) => {
    c.rename('d/e', 'saved');
    for (const path of ['d/only']) c.unlink(path);
    c.rmdir('d/h');
    c.rmdir('d');
  });
  const shown = await bothShow(box, spec);
  assert.equal(shown['saved/f'], 'file f');
  assert.equal(shown['d'], undefined);
  await sealed(box, spec, (dir) => {
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'd/again'), '');
    rmSync(join(dir, 'saved/g'));
  });
  const again = await bothShow(box, spec);
  assert.deepEqual(
    Object.keys(again).filter((path) => /^(d|saved)/.test(path)),
    ['d', 'd/again', 'saved', 'saved/f'],
  );
  await sealed(box, spec, (dir) => {
    rmSync(join(dir, 'saved'), { recursive: true });
    rmSync(join(dir, 'd'), { recursive: true });
  });
  assert.equal(
    Object.keys(await bothShow(box, spec)).some((path) => /^(d|saved)/.test(path)),
    false,
  );
});

for (const door of ['sealed', 'fuse'])
  test(`a directory of which a part was deleted before is renamed (door ${door})`, () => renamePartly(door));

async function renamePartly(door: string): Promise<void> {
  const box = sandbox();
  const [tool, base] = await twoUnits(box);
  const spec = box.spec('a', [tool, base]);
  client(spec, (c) => {
    for (const path of ['d/e/f', 'd/e/g', 'd/only']) c.unlink(path);
    for (const path of ['d/e', 'd/h', 'd']) c.rmdir(path);
  });
  // An update of one of the two layers brings its part back.
  const newer = await box.unit('tool', '2', { 'd/e/g': 'g2', 'd/e/k': 'k' });
  const next = { ...spec, stack: stackOf([newer, base]) };
  pruneWhiteouts(next);
  await bothShow(box, next);
  if (door === 'sealed') {
    await sealed(box, next, (dir) => {
      renameSync(join(dir, 'd/e'), join(dir, 'kept'));
      renameSync(join(dir, 'd'), join(dir, 'rest'));
    });
  } else {
    client(next, (c) => {
      c.rename('d/e', 'kept');
      c.rename('d', 'rest');
    });
  }
  const shown = door === 'sealed' ? await bothShow(box, next) : client(next, (c) => c.tree());
  assert.deepEqual(
    Object.keys(shown).filter((path) => /^(d|kept|rest)/.test(path)),
    ['kept', 'kept/g', 'kept/k', 'rest'],
  );
}

test('a renamed directory that was brought back too is refused until it stands at one place', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  client(spec, (c) => c.rename('lib', 'moved'));
  revertOffline(spec, ['/lib']);
  assert.equal(
    client(spec, (c) => c.read('lib/x') + c.read('moved/x')),
    'xx',
  );
  const dir = join(box.dir, 'mnt');
  mkdirSync(dir);
  await assert.rejects(mountSealed({ ...options(box, spec), dir, source: 'test' }), {
    code: 'UNSUPPORTED',
    message: /^\/lib was renamed and has been brought back/,
  });
  resetOffline(spec, []);
  assert.equal((await bothShow(box, spec))['lib/x'], 'file x');
});

test('a directory that overlayfs could not rename with all that it shows is refused, while somebody may rename it', async () => {
  const box = sandbox();
  const old = await box.unit('one', '1', { 'e/a': 'one' });
  const maker = box.spec('maker', [old]);
  client(maker, (c) => {
    c.rename('e', 'moved');
    c.mkdir('e');
    c.write('e/own', 'of the config level');
  });
  const config = await box.config('t', maker);
  const first = box.spec('a', [config, old]);
  client(first, (c) => {
    c.unlink('e/own');
    c.rmdir('e');
  });
  const spec = { ...first, stack: stackOf([config, await box.unit('one', '2', { 'e/a': 'ONE' })]) };
  const dir = join(box.dir, 'mnt');
  mkdirSync(dir);
  await assert.rejects(mountSealed({ ...options(box, spec), dir, source: 'test' }), {
    code: 'UNSUPPORTED',
    message: /^\/e was replaced and deleted/,
  });
  assert.equal(
    await sealed(box, { ...spec, readOnly: true }, (at) => readFileSync(join(at, 'e/a'), 'utf8')),
    'ONE',
  );
  client(spec, (c) => {
    c.unlink('e/a');
    c.rmdir('e');
  });
  assert.equal('e' in (await bothShow(box, spec)), false);
});

test('absorbing may be cut off before each of its steps', async () => {
  for (let stopAt = 0; ; stopAt++) {
    const box = sandbox();
    const spec = box.spec('a', await twoUnits(box));
    const dir = join(box.dir, 'mnt');
    mkdirSync(dir);
    await mountSealed({ ...options(box, spec), dir, source: 'test' });
    rmSync(join(dir, 'd'), { recursive: true });
    mkdirSync(join(dir, 'd'));
    unlinkSync(join(dir, 'etc/gone'));
    renameSync(join(dir, 'lib'), join(dir, 'lib2'));
    appendFileSync(join(dir, 'bin/a'), '!');
    const shown = treeOf(dir);
    assert.equal(umount(dir), 0);
    let steps = 0;
    const onStep = () => {
      if (steps++ === stopAt) throw new Error('cut off');
    };
    let isDone = false;
    try {
      absorbSealed(spec, { onStep });
      isDone = true;
    } catch (error) {
      assert.match(String(error), /cut off/);
    }
    assert.deepEqual(
      client(spec, (c) => c.tree()),
      shown,
      `after ${stopAt} steps`,
    );
    absorbSealed(spec);
    assert.deepEqual(
      client(spec, (c) => c.tree()),
      shown,
    );
    box.remove();
    if (isDone) break;
    assert.ok(stopAt < 100);
  }
});

test('one image for all appliances of a stack, made once; whiteouts have their own', async () => {
  const box = sandbox();
  const levels = await twoUnits(box);
  const images = () => readdirSync(join(box.dir, 'sealed'));
  const [a, b] = ['a', 'b'].map((name) => box.spec(name, levels));
  await Promise.all([prepareSealed(options(box, a!)), prepareSealed(options(box, b!))]);
  const [only] = images();
  assert.equal(images().length, 1);
  const dirs = [a!, b!].map((spec) => {
    const dir = join(box.dir, `m-${spec.name}`);
    mkdirSync(dir);
    return { spec, dir };
  });
  for (const { spec, dir } of dirs) await mountSealed({ ...options(box, spec), dir, source: 'test' });
  writeFileSync(join(dirs[0]!.dir, 'etc/motd'), 'a');
  assert.equal(readFileSync(join(dirs[1]!.dir, 'etc/motd'), 'utf8'), 'base');
  // The cache may go while mounts use it.
  rmSync(join(box.dir, 'sealed'), { recursive: true });
  releaseSealedImages();
  execFileSync('sh', ['-c', 'echo 2 > /proc/sys/vm/drop_caches']);
  assert.equal(readFileSync(join(dirs[1]!.dir, 'd/e/g'), 'utf8'), 'g');
  for (const { dir } of dirs) assert.equal(umount(dir), 0);
  await prepareSealed(options(box, a!));
  assert.equal(images()[0], only);
  client(a!, (c) => c.unlink('etc/gone'));
  await prepareSealed(options(box, a!));
  assert.equal(images().length, 2);
});

test('read-only: the private layer shows, nothing is written', async () => {
  const box = sandbox();
  const spec = { ...box.spec('a', await twoUnits(box)), readOnly: true };
  client({ ...spec, readOnly: false }, (c) => {
    c.append('etc/motd', '+');
    c.rename('d/e', 'moved');
    c.unlink('etc/gone');
  });
  const before = execFileSync('find', [spec.privateDir, '-printf', '%p %i %T@\n'], { encoding: 'latin1' });
  const shown = client(spec, (c) => c.tree());
  await sealed(box, spec, (dir) => {
    assert.deepEqual(treeOf(dir), shown);
    assert.throws(() => writeFileSync(join(dir, 'new'), ''), { code: 'EROFS' });
    assert.throws(() => rmdirSync(join(dir, 'd')), { code: 'EROFS' });
  });
  assert.equal(
    execFileSync('find', [spec.privateDir, '-printf', '%p %i %T@\n'], { encoding: 'latin1' }),
    before,
  );
});

test('the kernel tells whether a private layer is in use, also through a mount that is not in sight', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  const dir = join(box.dir, 'mnt');
  mkdirSync(dir);
  assert.equal(isPrivateInUse(spec.privateDir), false);
  await mountSealed({ ...options(box, spec), dir, source: 'test' });
  assert.equal(isPrivateInUse(spec.privateDir), true);
  const cwd = process.cwd();
  process.chdir(dir);
  assert.ok(umount(dir) < 0, 'busy');
  umount(dir, MNT_DETACH);
  assert.equal(isPrivateInUse(spec.privateDir), true);
  process.chdir(cwd);
  assert.equal(isPrivateInUse(spec.privateDir), false);
  assert.deepEqual(
    readdirSync(join(spec.privateDir, '..')).filter((name) => name.startsWith('.')),
    [],
  );
});

test('the bytes of layers never change, and attributes of overlayfs in a layer are not believed', async () => {
  const box = sandbox();
  const [tool, base] = await twoUnits(box);
  const secret = join(box.dir, 'repo', 'secret');
  writeFileSync(secret, 'secret');
  const evil = join(tool.treeDir, 'bin/evil');
  writeFileSync(evil, 'good');
  execFileSync('setfattr', ['-n', 'trusted.overlay.metacopy', evil]);
  execFileSync('setfattr', ['-n', 'trusted.overlay.redirect', '-v', '/secret', evil]);
  const indexed = await box.unit('tool', '1', {});
  const spec = box.spec('a', [indexed, base]);
  const sum = () =>
    execFileSync('sh', ['-c', `cd ${box.dir}/repo && find . -type f -exec sha256sum {} + | sort`]);
  const before = sum();
  await sealed(box, spec, (dir) => {
    assert.equal(readFileSync(join(dir, 'bin/evil'), 'utf8'), 'good');
    execFileSync('sh', ['-c', `cd ${dir} && for f in $(find . -type f); do echo x >> $f; done; rm -rf *`]);
    assert.deepEqual(treeOf(dir), {});
  });
  assert.deepEqual(sum(), before);
  assert.equal(existsSync(secret), true);
  assert.deepEqual(await bothShow(box, spec), {});
});

test('what root inside says through the mount of files below others shows no file of the host', async () => {
  const box = sandbox();
  const spec = box.spec('a', await twoUnits(box));
  const secret = 'known to the host alone';
  writeFileSync(join(box.dir, 'secret'), secret);
  const set = (path: string, name: string, value: Uint8Array): void => {
    const fd = openSync(path, 'r');
    assert.equal(fsetxattr(fd, name, value), 0, name);
    closeSync(fd);
  };
  const form = { baseBlocks: 1, limit: 1, meta: false, map: newBlockMap() };
  await sealed(box, spec, (dir) => {
    set(dir, BASES_XATTR, Buffer.from(`host\0${box.dir}\0`));
    const forge = (name: string, unit: string, path: string, baseSize: number): void => {
      writeFileSync(join(dir, name), '');
      truncateSync(join(dir, name), baseSize);
      set(join(dir, name), PARTIAL_XATTR, encodePartial({ ...form, unit, path, baseSize }));
    };
    forge('leak', 'host', 'secret', secret.length);
    // Of a layer, from which a policy may hide it.
    forge('d/other', 'main/base 1', 'etc/motd', 4);
  });
  const shown = await bothShow(box, spec);
  assert.equal(shown['leak'], `file ${'\0'.repeat(secret.length)}`);
  assert.equal(shown['d/other'], `file ${'\0'.repeat(4)}`);
  client(spec, (c) => {
    for (const path of ['leak', 'd/other']) c.append(path, '!');
    assert.equal(c.tree()['d/other'], 'file \0\0\0\0!');
  });
});
