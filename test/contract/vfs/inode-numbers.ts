/** st_ino: a file keeps its number whatever is done to it; directory entries tell the same number. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { close, fsetxattr, O_DIRECTORY, openat, readDirectory } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { inoOf, ok, withFile } from './behaviour.ts';

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
  fs.mkdirSync(join(dir, 'd/sub'), { recursive: true });
  fs.writeFileSync(join(dir, 'd/f'), '');
  fs.symlinkSync('x', join(dir, 'symlink'));
}

function listed(dir: string): Map<string, number> {
  const fd = ok(openat(-100, dir, O_DIRECTORY));
  const entries = readDirectory(fd);
  close(fd);
  assert.ok(typeof entries !== 'number');
  return new Map(entries.map(({ name, ino }) => [name, ino]));
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
      const check = () => {
        const entries = listed(dir);
        for (const [name, ino] of entries) {
          assert.equal(ino, Number(inoOf(join(dir, name))), name);
        }
        return entries;
      };
      const before = check();
      fs.chmodSync(join(dir, 'chmod'), 0o600);
      fs.appendFileSync(join(dir, 'append'), 'x');
      fs.writeFileSync(join(dir, 'd/f'), 'x');
      const after = check();
      assert.deepEqual([...after].sort(), [...before].sort());
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
