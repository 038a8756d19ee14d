/** A full disk: every operation either works or says ENOSPC, nothing is damaged, and with room again everything goes on. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sh } from '../../helpers/strata.ts';
import { openWorkshop } from './places.ts';

const { strata, dir, remove } = openWorkshop();
/** A state root on a small file system of its own. */
const small = join(dir, 'small');
const root = join(small, 'state');
const mnt = join(dir, 'mnt');
const exact = join(dir, 'exact');
const MIB = 1 << 20;

async function run(...args: string[]): Promise<void> {
  const outcome = await strata.run(['--root', root, ...args]);
  assert.equal(outcome.status, 0, `strata ${args.join(' ')}: ${outcome.stderr}${outcome.stdout}`);
}

before(async () => {
  fs.mkdirSync(small);
  fs.mkdirSync(mnt);
  fs.mkdirSync(exact);
  const made = await sh(
    `set -e; truncate -s 96M ${dir}/disk; mkfs.ext4 -q -m 0 ${dir}/disk; mount -o loop ${dir}/disk ${small}`,
  );
  assert.equal(made.status, 0, made.stderr);
  const tree = join(dir, 'tree');
  fs.mkdirSync(join(tree, 'd/sub'), { recursive: true });
  fs.writeFileSync(join(tree, 'd/large'), Buffer.alloc(12 * MIB, 'l'));
  fs.writeFileSync(join(tree, 'd/little'), Buffer.alloc(50_000, 's'));
  for (let i = 0; i < 200; i++) fs.writeFileSync(join(tree, `d/sub/f${i}`), `file ${i}`);
  fs.linkSync(join(tree, 'd/little'), join(tree, 'd/sub/little'));
  await run('repo', 'add', 'local', join(dir, 'units'));
  await run('layer', 'build', tree, '--repo', 'local', '--name', 'l', '--version', '1');
  await run('template', 'create', 't', 'l');
  await run('create', 'a', '--template', 't');
  await run('mount', 'a', mnt);
  await run('create', 'e', '--template', 't');
  await run('mount', 'e', exact, '--cache', 'exact');
});
after(async () => {
  await strata.run(['--root', root, 'daemon', 'stop', '--force']);
  await sh(`umount -l ${mnt}; umount -l ${exact}; umount -l ${small}`);
  await remove();
});

/** Fills the disk through the mount; returns how many bytes were taken. */
function fill(path: string): number {
  const fd = fs.openSync(path, 'w');
  let size = 0;
  try {
    for (let piece = MIB; piece >= 512; ) {
      try {
        size += fs.writeSync(fd, Buffer.alloc(piece, 'f'), 0, piece, size);
      } catch (error) {
        assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
        piece /= 2;
      }
    }
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
  assert.equal(fs.statSync(path).size, size);
  return size;
}

/** Runs a change; true when it was done, false when there was no room. */
function done(change: () => void): boolean {
  try {
    change();
    return true;
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC', String(error));
    return false;
  }
}

const used = (at = mnt) => {
  const { blocks, bfree, bsize } = fs.statfsSync(at);
  return (blocks - bfree) * bsize;
};

test('writes end with ENOSPC, what was written before is there, and deletion gives the room back', () => {
  for (const at of [mnt, exact]) {
    const before = used();
    const size = fill(join(at, 'filler'));
    assert.ok(size > 10 * MIB, `${size}`);
    assert.ok(used() - before >= size, 'statfs counts it');
    const content = fs.readFileSync(join(at, 'filler'));
    assert.equal(content.length, size);
    assert.ok(content.every((byte) => byte === 102));
    fs.unlinkSync(join(at, 'filler'));
    fs.writeFileSync(join(at, 'filler'), Buffer.alloc(size >> 1, 'g'));
    fs.unlinkSync(join(at, 'filler'));
    assert.ok(Math.abs(used(at) - before) < MIB, `${used() - before} bytes`);
  }
});

test('without room for a copy a large shared file can be changed; where its own blocks have no room, what was written before is there', () => {
  const large = join(mnt, 'd/large');
  fill(join(mnt, 'filler'));
  fs.truncateSync(join(mnt, 'filler'), fs.statSync(join(mnt, 'filler')).size - 4 * MIB);
  const { ino } = fs.statSync(large);
  fs.closeSync(fs.openSync(large, 'r+'));
  fs.chmodSync(large, 0o600);
  fs.renameSync(large, join(mnt, 'moved'));
  fs.linkSync(join(mnt, 'moved'), large);
  fs.unlinkSync(join(mnt, 'moved'));
  const stat = fs.statSync(large);
  assert.deepEqual([stat.ino, stat.size, stat.mode & 0o777, stat.nlink], [ino, 12 * MIB, 0o600, 1]);
  const expected = Buffer.alloc(12 * MIB, 'l');
  const fd = fs.openSync(large, 'r+');
  // Every second piece; the gaps between them need no room.
  let at = 0;
  while (
    done(() => assert.equal(fs.writeSync(fd, Buffer.alloc(64 * 1024, 'w'), 0, 64 * 1024, at), 64 * 1024))
  ) {
    expected.fill('w', at, at + 64 * 1024);
    at += 128 * 1024;
    if (at >= 12 * MIB) break;
  }
  fs.closeSync(fd);
  assert.ok(at > 2 * MIB && at < 12 * MIB, `${at}`);
  const shown = fs.readFileSync(large);
  assert.ok(shown.subarray(0, at).equals(expected.subarray(0, at)), 'what was written');
  assert.ok(shown.subarray(at + 64 * 1024).equals(expected.subarray(at + 64 * 1024)), 'what was not');
  assert.equal(
    done(() => fs.writeFileSync(large, 'short')),
    true,
    'an empty copy needs no room',
  );
  fs.unlinkSync(join(mnt, 'filler'));
  assert.equal(fs.readFileSync(large, 'utf8'), 'short');
});

test('changes of a full disk: each is done wholly or not at all', () => {
  fill(join(mnt, 'filler'));
  for (let i = 0; ; i++)
    if (i > 20_000 || !done(() => fs.writeFileSync(join(mnt, `filler-${i}`), 'x'.repeat(4000)))) break;
  const expected = new Map<string, string>();
  const place = (path: string) => join(mnt, 'd/sub', path);
  for (let i = 0; i < 200; i++) expected.set(`f${i}`, `file ${i}`);
  let failures = 0;
  const tried = (change: () => void, then: () => void) => {
    if (done(change)) then();
    else failures++;
  };
  for (let i = 0; i < 200; i++) {
    const name = `f${i}`;
    switch (i % 5) {
      case 0:
        tried(
          () => fs.unlinkSync(place(name)),
          () => expected.delete(name),
        );
        break;
      case 1:
        tried(
          () => fs.renameSync(place(name), place(`${name}.moved`)),
          () => {
            expected.set(`${name}.moved`, expected.get(name)!);
            expected.delete(name);
          },
        );
        break;
      case 2:
        tried(
          () => fs.linkSync(place(name), place(`${name}.link`)),
          () => expected.set(`${name}.link`, expected.get(name)!),
        );
        break;
      case 3:
        tried(
          () => fs.mkdirSync(place(`${name}.dir`)),
          () => expected.set(`${name}.dir`, 'directory'),
        );
        break;
      default:
        tried(
          () => fs.truncateSync(place(name), 0),
          () => expected.set(name, ''),
        );
    }
  }
  expected.set('little', 's'.repeat(50_000));
  tried(
    () => fs.appendFileSync(place('little'), '!'),
    () => expected.set('little', `${'s'.repeat(50_000)}!`),
  );
  let sub = 'd/sub';
  tried(
    () => fs.renameSync(join(mnt, sub), join(mnt, 'elsewhere')),
    () => {
      sub = 'elsewhere';
    },
  );
  assert.ok(failures > 0, 'the disk was full');
  const check = () => {
    assert.deepEqual(fs.readdirSync(join(mnt, sub)).sort(), [...expected.keys()].sort());
    for (const [name, content] of expected) {
      const path = join(mnt, sub, name);
      assert.equal(
        fs.statSync(path).isDirectory() ? 'directory' : fs.readFileSync(path, 'utf8'),
        content,
        name,
      );
    }
  };
  check();
  for (const name of fs.readdirSync(mnt)) if (name.startsWith('filler')) fs.unlinkSync(join(mnt, name));
  check();
  fs.appendFileSync(join(mnt, sub, 'little'), '+');
  expected.set('little', `${expected.get('little')}+`);
  fs.renameSync(join(mnt, sub), join(mnt, 'd/back'));
  sub = 'd/back';
  check();
});

test('after a remount everything is as it was', async () => {
  const tree = () =>
    (fs.readdirSync(mnt, { recursive: true }) as string[])
      .sort()
      .map((path) => [path, fs.lstatSync(join(mnt, path)).ino, fs.lstatSync(join(mnt, path)).size]);
  const before = tree();
  await run('umount', 'a');
  await run('mount', 'a', mnt);
  assert.deepEqual(tree(), before);
});
