/** Hard links: one file under many names, whatever happens to any of them. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { AT_FDCWD, linkat } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { fails, inoOf, ok, withFile } from './behaviour.ts';

function plant(dir: string): void {
  fs.mkdirSync(join(dir, 'd/e'), { recursive: true });
  fs.writeFileSync(join(dir, 'a'), 'linked');
  fs.linkSync(join(dir, 'a'), join(dir, 'b'));
  fs.linkSync(join(dir, 'a'), join(dir, 'd/e/c'));
  fs.writeFileSync(join(dir, 'big1'), Buffer.alloc(300_000, 'b'));
  fs.linkSync(join(dir, 'big1'), join(dir, 'd/big2'));
  fs.writeFileSync(join(dir, 'single'), 'single');
  fs.symlinkSync('a', join(dir, 'link'));
}

const NAMES = ['a', 'b', 'd/e/c'];
const text = (path: string) => fs.readFileSync(path, 'utf8');

function allAre(dir: string, names: readonly string[], content: string): void {
  const inos = new Set(names.map((name) => inoOf(join(dir, name))));
  assert.equal(inos.size, 1, 'one number');
  for (const name of names) {
    assert.equal(text(join(dir, name)), content, name);
    assert.equal(fs.statSync(join(dir, name)).nlink, names.length, name);
  }
}

export const hardLinks: Topic = {
  name: 'hard-links',
  plant,
  behaviours: {
    'planted links are one file'(dir) {
      allAre(dir, NAMES, 'linked');
    },
    'a write by one name shows under all, looked up before or not'(dir) {
      const ino = inoOf(join(dir, 'b'));
      fs.appendFileSync(join(dir, 'b'), '!');
      allAre(dir, NAMES, 'linked!');
      assert.equal(inoOf(join(dir, 'a')), ino);
      fs.writeFileSync(join(dir, 'd/e/c'), 'cut');
      allAre(dir, NAMES, 'cut');
    },
    'a large file'(dir) {
      fs.truncateSync(join(dir, 'd/big2'), 200_000);
      for (const name of ['big1', 'd/big2']) {
        assert.deepEqual(
          [fs.statSync(join(dir, name)).size, fs.statSync(join(dir, name)).nlink],
          [200_000, 2],
        );
      }
      fs.unlinkSync(join(dir, 'big1'));
      assert.equal(fs.statSync(join(dir, 'd/big2')).nlink, 1);
    },
    'mode, owner and times are common'(dir) {
      fs.chmodSync(join(dir, 'a'), 0o604);
      fs.chownSync(join(dir, 'b'), 4001, 4002);
      fs.utimesSync(join(dir, 'd/e/c'), 5, 6);
      for (const name of NAMES) {
        const stat = fs.statSync(join(dir, name));
        assert.deepEqual(
          [stat.mode & 0o7777, stat.uid, stat.gid, stat.mtimeMs],
          [0o604, 4001, 4002, 6000],
          name,
        );
      }
      allAre(dir, NAMES, 'linked');
    },
    'a deleted name counts no more; the others go on'(dir) {
      fs.unlinkSync(join(dir, 'a'));
      allAre(dir, ['b', 'd/e/c'], 'linked');
      fs.appendFileSync(join(dir, 'b'), '+');
      allAre(dir, ['b', 'd/e/c'], 'linked+');
      fs.unlinkSync(join(dir, 'd/e/c'));
      allAre(dir, ['b'], 'linked+');
      fails('ENOENT', () => fs.statSync(join(dir, 'a')));
    },
    'a name replaced by a rename counts no more'(dir) {
      fs.renameSync(join(dir, 'single'), join(dir, 'a'));
      allAre(dir, ['b', 'd/e/c'], 'linked');
      assert.equal(text(join(dir, 'a')), 'single');
      fs.renameSync(join(dir, 'b'), join(dir, 'd/moved'));
      allAre(dir, ['d/moved', 'd/e/c'], 'linked');
    },
    'new links before and after a write'(dir) {
      fs.linkSync(join(dir, 'a'), join(dir, 'd/new'));
      allAre(dir, [...NAMES, 'd/new'], 'linked');
      fs.appendFileSync(join(dir, 'd/new'), '#');
      fs.linkSync(join(dir, 'd/e/c'), join(dir, 'newer'));
      allAre(dir, [...NAMES, 'd/new', 'newer'], 'linked#');
      fails('EEXIST', () => fs.linkSync(join(dir, 'a'), join(dir, 'b')));
      fails('EPERM', () => fs.linkSync(join(dir, 'd'), join(dir, 'dirlink')));
      fails('ENOENT', () => fs.linkSync(join(dir, 'none'), join(dir, 'x')));
    },
    'a link to a file with one name'(dir) {
      const ino = inoOf(join(dir, 'single'));
      fs.linkSync(join(dir, 'single'), join(dir, 'd/double'));
      allAre(dir, ['single', 'd/double'], 'single');
      assert.equal(inoOf(join(dir, 'd/double')), ino);
      fs.unlinkSync(join(dir, 'single'));
      allAre(dir, ['d/double'], 'single');
    },
    'a link to a symlink is the symlink'(dir) {
      ok(linkat(AT_FDCWD, join(dir, 'link'), AT_FDCWD, join(dir, 'd/link')));
      assert.equal(fs.readlinkSync(join(dir, 'd/link')), 'a');
      assert.equal(fs.lstatSync(join(dir, 'link')).nlink, 2);
      assert.equal(inoOf(join(dir, 'link')), inoOf(join(dir, 'd/link')));
    },
    'who holds the file open through one name sees writes through another'(dir) {
      withFile(join(dir, 'a'), 'r+', (a) => {
        fs.appendFileSync(join(dir, 'd/e/c'), '1');
        assert.equal(fs.fstatSync(a).size, 7);
        fs.writeSync(a, 'L', 0);
        assert.equal(text(join(dir, 'b')), 'Linked1');
        for (const name of NAMES) fs.unlinkSync(join(dir, name));
        assert.equal(fs.fstatSync(a).nlink, 0);
        assert.equal(fs.readFileSync(a, 'utf8').length, 7);
      });
    },
    'names in a directory that is renamed'(dir) {
      fs.renameSync(join(dir, 'd'), join(dir, 'z'));
      allAre(dir, ['a', 'b', 'z/e/c'], 'linked');
      fs.appendFileSync(join(dir, 'z/e/c'), '~');
      allAre(dir, ['a', 'b', 'z/e/c'], 'linked~');
    },
    'a hundred links'(dir) {
      for (let i = 0; i < 100; i++) fs.linkSync(join(dir, 'a'), join(dir, `d/l${i}`));
      assert.equal(fs.statSync(join(dir, 'd/l99')).nlink, 103);
      for (let i = 0; i < 100; i++) fs.unlinkSync(join(dir, `d/l${i}`));
      allAre(dir, NAMES, 'linked');
    },
  },
};
