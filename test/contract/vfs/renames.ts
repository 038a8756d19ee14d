/** rename and its flags: replacing, exchanging, whole directories with what lies below them. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { AT_FDCWD, RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2 } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { fails, inoOf, ok, refused, withFile } from './behaviour.ts';

const text = (path: string) => fs.readFileSync(path, 'utf8');
const move = (from: string, to: string, flags = 0) => renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);

function plant(dir: string): void {
  for (const sub of ['d/sub', 'e', 'full', 'tree/a/b/c', 'other'])
    fs.mkdirSync(join(dir, sub), { recursive: true });
  fs.writeFileSync(join(dir, 'f'), 'f');
  fs.writeFileSync(join(dir, 'g'), 'g');
  fs.writeFileSync(join(dir, 'd/x'), 'x');
  fs.writeFileSync(join(dir, 'd/sub/y'), 'y');
  fs.writeFileSync(join(dir, 'full/in'), '');
  fs.writeFileSync(join(dir, 'tree/a/b/c/leaf'), 'leaf');
  fs.writeFileSync(join(dir, 'tree/a/second'), 'second');
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(400_000, 'large'));
  fs.linkSync(join(dir, 'f'), join(dir, 'f2'));
  fs.symlinkSync('f', join(dir, 'link'));
}

function list(path: string): string[] {
  return (fs.readdirSync(path, { recursive: true }) as string[]).sort();
}

export const renames: Topic = {
  name: 'renames',
  plant,
  behaviours: {
    'a file replaces a file at once, and who had that open keeps it'(dir) {
      withFile(join(dir, 'g'), 'r', (fd) => {
        const ino = inoOf(join(dir, 'f'));
        fs.renameSync(join(dir, 'f'), join(dir, 'g'));
        assert.equal(text(join(dir, 'g')), 'f');
        assert.equal(inoOf(join(dir, 'g')), ino);
        fails('ENOENT', () => fs.statSync(join(dir, 'f')));
        assert.equal(fs.readFileSync(fd, 'utf8'), 'g');
        assert.equal(fs.fstatSync(fd).nlink, 0);
      });
    },
    'a file to a new name in another directory; a large one too; a symlink too'(dir) {
      fs.renameSync(join(dir, 'large'), join(dir, 'd/sub/large'));
      assert.equal(fs.statSync(join(dir, 'd/sub/large')).size, 400_000);
      fs.renameSync(join(dir, 'link'), join(dir, 'e/link'));
      assert.equal(fs.readlinkSync(join(dir, 'e/link')), 'f');
      fails('ENOENT', () => fs.lstatSync(join(dir, 'link')));
    },
    'two names of one file: nothing happens'(dir) {
      fs.renameSync(join(dir, 'f'), join(dir, 'f2'));
      assert.equal(text(join(dir, 'f')), 'f');
      assert.equal(text(join(dir, 'f2')), 'f');
      assert.equal(fs.statSync(join(dir, 'f')).nlink, 2);
      fs.renameSync(join(dir, 'f'), join(dir, 'f'));
      assert.equal(fs.statSync(join(dir, 'f')).nlink, 2);
    },
    'NOREPLACE keeps what is there'(dir) {
      refused('EEXIST', move(join(dir, 'f'), join(dir, 'g'), RENAME_NOREPLACE));
      refused('EEXIST', move(join(dir, 'd'), join(dir, 'e'), RENAME_NOREPLACE));
      assert.equal(text(join(dir, 'g')), 'g');
      ok(move(join(dir, 'f'), join(dir, 'new'), RENAME_NOREPLACE));
      assert.equal(text(join(dir, 'new')), 'f');
      fs.unlinkSync(join(dir, 'g'));
      ok(move(join(dir, 'new'), join(dir, 'g'), RENAME_NOREPLACE));
      assert.equal(text(join(dir, 'g')), 'f');
    },
    'EXCHANGE of two files'(dir) {
      const [f, g] = [inoOf(join(dir, 'f')), inoOf(join(dir, 'g'))];
      ok(move(join(dir, 'f'), join(dir, 'g'), RENAME_EXCHANGE));
      assert.deepEqual([text(join(dir, 'f')), text(join(dir, 'g')), text(join(dir, 'f2'))], ['g', 'f', 'f']);
      assert.deepEqual([inoOf(join(dir, 'f')), inoOf(join(dir, 'g'))], [g, f]);
    },
    'EXCHANGE of a file and a directory, of two directories, of a file with nothing'(dir) {
      ok(move(join(dir, 'g'), join(dir, 'd'), RENAME_EXCHANGE));
      assert.equal(text(join(dir, 'd')), 'g');
      assert.deepEqual(list(join(dir, 'g')), ['sub', 'sub/y', 'x']);
      ok(move(join(dir, 'g'), join(dir, 'tree/a'), RENAME_EXCHANGE));
      assert.deepEqual(list(join(dir, 'tree/a')), ['sub', 'sub/y', 'x']);
      assert.deepEqual(list(join(dir, 'g')), ['b', 'b/c', 'b/c/leaf', 'second']);
      assert.equal(text(join(dir, 'g/b/c/leaf')), 'leaf');
      refused('ENOENT', move(join(dir, 'f'), join(dir, 'nothing'), RENAME_EXCHANGE));
      refused('EINVAL', move(join(dir, 'f'), join(dir, 'g'), RENAME_EXCHANGE | RENAME_NOREPLACE));
      refused('EINVAL', move(join(dir, 'e'), join(dir, 'g'), 64));
    },
    'kinds must agree, and a directory that is replaced must be empty'(dir) {
      fails('EISDIR', () => fs.renameSync(join(dir, 'f'), join(dir, 'e')));
      fails('ENOTDIR', () => fs.renameSync(join(dir, 'd'), join(dir, 'f')));
      fails('ENOTEMPTY', () => fs.renameSync(join(dir, 'd'), join(dir, 'full')));
      fails('EINVAL', () => fs.renameSync(join(dir, 'tree'), join(dir, 'tree/a/b/new')));
      refused('EINVAL', move(join(dir, 'tree'), join(dir, 'tree/a/b'), RENAME_EXCHANGE));
      fails('ENOTEMPTY', () => fs.renameSync(join(dir, 'tree/a/b/c'), join(dir, 'tree/a')));
      fails('ENOTDIR', () => fs.renameSync(join(dir, 'f'), join(dir, 'new/')));
      fs.renameSync(join(dir, 'd'), join(dir, 'e'));
      assert.deepEqual(list(join(dir, 'e')), ['sub', 'sub/y', 'x']);
      fs.unlinkSync(join(dir, 'full/in'));
      fs.renameSync(join(dir, 'tree'), join(dir, 'full'));
      assert.equal(text(join(dir, 'full/a/b/c/leaf')), 'leaf');
      fails('ENOENT', () => fs.statSync(join(dir, 'tree')));
    },
    'a directory moves with everything below it, again and again'(dir) {
      const ino = inoOf(join(dir, 'tree'));
      const leaf = inoOf(join(dir, 'tree/a/b/c/leaf'));
      fs.renameSync(join(dir, 'tree'), join(dir, 'moved'));
      fs.renameSync(join(dir, 'moved'), join(dir, 'other/again'));
      fs.renameSync(join(dir, 'other/again/a/b'), join(dir, 'd/b'));
      assert.equal(text(join(dir, 'd/b/c/leaf')), 'leaf');
      assert.deepEqual(list(join(dir, 'other')), ['again', 'again/a', 'again/a/second']);
      assert.equal(inoOf(join(dir, 'other/again')), ino);
      assert.equal(inoOf(join(dir, 'd/b/c/leaf')), leaf);
      fs.writeFileSync(join(dir, 'd/b/c/leaf'), 'changed');
      fs.renameSync(join(dir, 'd/b'), join(dir, 'other/again/a/b'));
      fs.renameSync(join(dir, 'other/again'), join(dir, 'tree'));
      assert.deepEqual(list(join(dir, 'tree')), ['a', 'a/b', 'a/b/c', 'a/b/c/leaf', 'a/second']);
      assert.equal(text(join(dir, 'tree/a/b/c/leaf')), 'changed');
    },
    'the old name is free: a new directory there is empty'(dir) {
      fs.renameSync(join(dir, 'd'), join(dir, 'moved'));
      fails('ENOENT', () => fs.readdirSync(join(dir, 'd')));
      fs.mkdirSync(join(dir, 'd'));
      assert.deepEqual(fs.readdirSync(join(dir, 'd')), []);
      fs.writeFileSync(join(dir, 'd/own'), '');
      assert.deepEqual(list(join(dir, 'moved')), ['sub', 'sub/y', 'x']);
      fails('ENOTEMPTY', () => fs.renameSync(join(dir, 'moved'), join(dir, 'd')));
      fs.unlinkSync(join(dir, 'd/own'));
      fs.renameSync(join(dir, 'moved'), join(dir, 'd'));
      assert.deepEqual(list(join(dir, 'd')), ['sub', 'sub/y', 'x']);
    },
    'a directory onto the place of a deleted one, and onto that of a deleted file'(dir) {
      fs.rmSync(join(dir, 'full'), { recursive: true });
      fs.renameSync(join(dir, 'd'), join(dir, 'full'));
      assert.deepEqual(list(join(dir, 'full')), ['sub', 'sub/y', 'x']);
      fs.unlinkSync(join(dir, 'g'));
      fs.renameSync(join(dir, 'full/sub'), join(dir, 'g'));
      assert.deepEqual(list(join(dir, 'g')), ['y']);
      fs.renameSync(join(dir, 'g/y'), join(dir, 'd'));
      assert.equal(text(join(dir, 'd')), 'y');
      fs.rmdirSync(join(dir, 'g'));
      fs.writeFileSync(join(dir, 'g'), 'file again');
      assert.equal(text(join(dir, 'g')), 'file again');
    },
    'open files and working directories follow their directory'(dir) {
      withFile(join(dir, 'd/sub/y'), 'r+', (fd) => {
        withFile(join(dir, 'd/sub'), 'r', (sub) => {
          fs.renameSync(join(dir, 'd'), join(dir, 'moved'));
          fs.writeSync(fd, 'Y', 0);
          assert.equal(text(`/proc/self/fd/${sub}/y`), 'Y');
          fs.writeFileSync(`/proc/self/fd/${sub}/made`, '');
        });
      });
      assert.deepEqual(list(join(dir, 'moved')), ['sub', 'sub/made', 'sub/y', 'x']);
    },
    'times: both directories change, the moved file keeps its modification time'(dir) {
      fs.utimesSync(join(dir, 'f'), 1000, 1000);
      for (const name of ['d', 'e', 'd/x']) fs.utimesSync(join(dir, name), 1000, 1000);
      fs.renameSync(join(dir, 'd/x'), join(dir, 'e/x'));
      assert.ok(fs.statSync(join(dir, 'd')).mtimeMs > 1e9);
      assert.ok(fs.statSync(join(dir, 'e')).mtimeMs > 1e9);
      assert.equal(fs.statSync(join(dir, 'e/x')).mtimeMs, 1_000_000);
    },
    'a hundred renames of one directory to fresh names'(dir) {
      let at = 'tree';
      for (let i = 0; i < 100; i++) {
        const next = i % 2 === 0 ? `t${i}` : `d/t${i}`;
        fs.renameSync(join(dir, at), join(dir, next));
        at = next;
      }
      assert.equal(text(join(dir, at, 'a/b/c/leaf')), 'leaf');
      assert.deepEqual(fs.readdirSync(join(dir, 'd')).sort(), ['sub', at.slice(2), 'x'].sort());
    },
  },
};
