/** st_ino: a file keeps its number whatever is done to it; directory entries tell the same number. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { fsetxattr } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { inoOf, ok, python, withFile } from './behaviour.ts';

/** More than one reply of READDIR holds. */
const MANY = 600;

const CHANGES: Record<string, (path: string) => void> = {
  chmod: (path) => fs.chmodSync(path, 0o600),
  chown: (path) => fs.chownSync(path, 1, 1),
  utimes: (path) => fs.utimesSync(path, 1, 1),
  append: (path) => fs.appendFileSync(path, 'x'),
  truncate: (path) => fs.truncateSync(path, 1),
  empty: (path) => fs.writeFileSync(path, ''),
  link: (path) => fs.linkSync(path, `${path}.link`),
  xattr: (path) => withFile(path, 'r', (fd) => ok(fsetxattr(fd, 'user.x', Buffer.from('x')))),
};

function plant(dir: string): void {
  for (const name of Object.keys(CHANGES)) {
    fs.writeFileSync(join(dir, name), 'content');
    fs.writeFileSync(join(dir, `large-${name}`), Buffer.alloc(200_000, 'c'));
  }
  for (const sub of ['d/sub', 'full/of', 'many']) fs.mkdirSync(join(dir, sub), { recursive: true });
  for (let i = 0; i < MANY; i++) fs.writeFileSync(join(dir, `many/f${i}`), '');
  fs.writeFileSync(join(dir, 'd/f'), '');
  fs.symlinkSync('x', join(dir, 'symlink'));
}

/** The entries' names and numbers, read to the end before any is looked up; every d_ino is the st_ino. */
function listed(dir: string): string[] {
  const shown = python(
    `
import os, sys
entries = [(e.name, e.inode()) for e in os.scandir(sys.argv[1])]
for name, ino in entries:
    assert os.lstat(os.path.join(sys.argv[1], name)).st_ino == ino, (name, ino)
    print(name, ino)
`,
    dir,
  );
  return shown.split('\n').sort();
}

export const inodeNumbers: Topic = {
  name: 'inode-numbers',
  plant,
  behaviours: {
    'a file keeps its number through every change, open or not'(dir) {
      for (const [name, change] of Object.entries(CHANGES)) {
        for (const file of [name, `large-${name}`]) {
          const path = join(dir, file);
          const ino = inoOf(path);
          withFile(path, 'r', (fd) => {
            change(path);
            assert.equal(inoOf(fd), ino, `${file}, by the descriptor opened before`);
            assert.equal(inoOf(path), ino, `${file}, by its name`);
          });
          assert.equal(inoOf(path), ino, `${file}, closed`);
        }
      }
    },
    'a directory and a symlink keep theirs'(dir) {
      const numbers = ['d', 'd/sub', 'symlink'].map((name) => inoOf(join(dir, name)));
      fs.chmodSync(join(dir, 'd/sub'), 0o700);
      fs.writeFileSync(join(dir, 'd/new'), '');
      fs.lutimesSync(join(dir, 'symlink'), 1, 1);
      fs.lchownSync(join(dir, 'symlink'), 1, 1);
      assert.deepEqual(
        ['d', 'd/sub', 'symlink'].map((name) => inoOf(join(dir, name))),
        numbers,
      );
      fs.renameSync(join(dir, 'd'), join(dir, 'e'));
      fs.renameSync(join(dir, 'symlink'), join(dir, 'e/symlink'));
      assert.deepEqual(
        ['e', 'e/sub', 'e/symlink'].map((name) => inoOf(join(dir, name))),
        numbers,
      );
    },
    'directory entries tell st_ino, before and after changes'(dir) {
      const before = listed(dir);
      fs.chmodSync(join(dir, 'chmod'), 0o600);
      fs.appendFileSync(join(dir, 'append'), 'x');
      fs.writeFileSync(join(dir, 'd/f'), 'x');
      assert.deepEqual(listed(dir), before);
    },
    'directory entries tell st_ino in a directory of many that came from elsewhere'(dir) {
      for (let i = 0; i < MANY; i++) {
        const path = join(dir, `many/f${i}`);
        if (i % 4 === 0) fs.renameSync(path, join(dir, `d/renamed${i}`));
        else if (i % 4 === 1) fs.linkSync(path, join(dir, `d/linked${i}`));
        else if (i % 4 === 2) fs.writeFileSync(join(dir, `d/new${i}`), '');
        else fs.mkdirSync(join(dir, `d/directory${i}`));
      }
      fs.renameSync(join(dir, 'full'), join(dir, 'd/full'));
      assert.equal(listed(join(dir, 'd')).length, MANY + 3);
      listed(join(dir, 'many'));
    },
    'all numbers of a directory differ'(dir) {
      const inos = fs.readdirSync(dir).map((name) => inoOf(join(dir, name)));
      assert.equal(new Set(inos).size, inos.length);
      const device = fs.statSync(dir).dev;
      for (const name of fs.readdirSync(dir)) assert.equal(fs.lstatSync(join(dir, name)).dev, device);
    },
    'descriptors opened before and after a change are the same file'(dir) {
      const path = join(dir, 'large-append');
      withFile(path, 'r', (before) => {
        withFile(path, 'r+', (writer) => {
          assert.equal(fs.fstatSync(before).dev, fs.fstatSync(writer).dev);
          assert.equal(inoOf(before), inoOf(writer));
        });
      });
    },
  },
};
