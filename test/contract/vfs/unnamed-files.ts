/** Files without a name: unlinked while open, O_TMPFILE, removed directories that somebody still holds. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import {
  AT_FDCWD,
  AT_SYMLINK_FOLLOW,
  fsetxattr,
  futimens,
  linkat,
  O_EXCL,
  O_RDWR,
  O_TMPFILE,
  openat,
} from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { fails, ok, refused, withFile } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'content');
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(300_000, 'l'));
  fs.mkdirSync(join(dir, 'd/sub'), { recursive: true });
  fs.writeFileSync(join(dir, 'd/x'), 'x');
}

const linkFd = (fd: number, to: string) =>
  linkat(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, to, AT_SYMLINK_FOLLOW);

export const unnamedFiles: Topic = {
  name: 'unnamed-files',
  plant,
  behaviours: {
    'an unlinked file is read and written until it is closed'(dir) {
      for (const name of ['f', 'large']) {
        withFile(join(dir, name), 'r+', (fd) => {
          fs.unlinkSync(join(dir, name));
          fails('ENOENT', () => fs.statSync(join(dir, name)));
          const { size } = fs.fstatSync(fd);
          assert.equal(fs.fstatSync(fd).nlink, 0);
          fs.writeSync(fd, 'MORE', size);
          fs.ftruncateSync(fd, size + 2);
          assert.equal(fs.fstatSync(fd).size, size + 2);
          const got = Buffer.alloc(2);
          fs.readSync(fd, got, 0, 2, size);
          assert.equal(got.toString(), 'MO');
          fs.fsyncSync(fd);
        });
      }
    },
    'a file opened for reading only is read after it was unlinked, and after its name was taken'(dir) {
      withFile(join(dir, 'large'), 'r', (fd) => {
        fs.unlinkSync(join(dir, 'large'));
        fs.writeFileSync(join(dir, 'large'), 'other');
        assert.equal(fs.fstatSync(fd).nlink, 0);
        assert.equal(fs.fstatSync(fd).size, 300_000);
        assert.equal(fs.readFileSync(fd, 'latin1'), 'l'.repeat(300_000));
      });
      assert.equal(fs.readFileSync(join(dir, 'large'), 'utf8'), 'other');
    },
    'attributes of an unlinked file change, also when it was opened for reading only'(dir) {
      for (const flags of ['r', 'r+']) {
        const name = flags === 'r' ? 'f' : 'd/x';
        withFile(join(dir, name), flags, (fd) => {
          fs.unlinkSync(join(dir, name));
          fs.fchmodSync(fd, 0o604);
          fs.fchownSync(fd, 4001, 4002);
          ok(futimens(fd, 1, 2, 3, 4));
          const stat = fs.fstatSync(fd, { bigint: true });
          assert.deepEqual(
            [stat.mode & 0o7777n, stat.uid, stat.gid, stat.mtimeNs, stat.nlink],
            [0o604n, 4001n, 4002n, 3_000_000_004n, 0n],
          );
        });
      }
    },
    'an unlinked file is opened again through /proc for reading'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => {
        fs.unlinkSync(join(dir, 'f'));
        assert.equal(fs.readFileSync(`/proc/self/fd/${fd}`, 'utf8'), 'content');
        withFile(`/proc/self/fd/${fd}`, 'r', (again) =>
          assert.equal(fs.readFileSync(again, 'utf8'), 'content'),
        );
      });
    },
    'a file without a name is opened again for writing, and gets attributes of all kinds'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => {
        fs.unlinkSync(join(dir, 'f'));
        ok(fsetxattr(fd, 'user.x', Buffer.from('1')));
        withFile(`/proc/self/fd/${fd}`, 'r+', (again) => fs.writeSync(again, 'C'));
        assert.equal(fs.readFileSync(fd, 'utf8'), 'Content');
        fs.truncateSync(`/proc/self/fd/${fd}`, 3);
        assert.equal(fs.fstatSync(fd).size, 3);
      });
    },
    'an unlinked file cannot be linked again'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => {
        fs.unlinkSync(join(dir, 'f'));
        refused('ENOENT', linkFd(fd, join(dir, 'back')));
      });
    },
    'O_TMPFILE: nothing shows until it is linked'(dir) {
      const before = fs.readdirSync(join(dir, 'd'));
      const fd = ok(openat(AT_FDCWD, join(dir, 'd'), O_TMPFILE | O_RDWR, 0o640));
      fs.writeSync(fd, 'temporary');
      assert.deepEqual(fs.readdirSync(join(dir, 'd')), before);
      assert.equal(fs.fstatSync(fd).nlink, 0);
      ok(linkFd(fd, join(dir, 'd/named')));
      assert.equal(fs.fstatSync(fd).nlink, 1);
      fs.writeSync(fd, ' file');
      fs.closeSync(fd);
      const stat = fs.statSync(join(dir, 'd/named'));
      assert.deepEqual([stat.mode & 0o7777, stat.nlink], [0o640, 1]);
      assert.equal(fs.readFileSync(join(dir, 'd/named'), 'utf8'), 'temporary file');
      fs.appendFileSync(join(dir, 'd/named'), '!');
    },
    'O_TMPFILE: linked onto a name that was deleted, not onto one that is there, not with O_EXCL'(dir) {
      const fd = ok(openat(AT_FDCWD, dir, O_TMPFILE | O_RDWR, 0o600));
      fs.writeSync(fd, 'new');
      refused('EEXIST', linkFd(fd, join(dir, 'f')));
      fs.unlinkSync(join(dir, 'f'));
      ok(linkFd(fd, join(dir, 'f')));
      ok(linkFd(fd, join(dir, 'd/second')));
      assert.equal(fs.fstatSync(fd).nlink, 2);
      fs.closeSync(fd);
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'new');
      const exclusive = ok(openat(AT_FDCWD, dir, O_TMPFILE | O_EXCL | O_RDWR, 0o600));
      refused('ENOENT', linkFd(exclusive, join(dir, 'never')));
      fs.closeSync(exclusive);
    },
    'a removed directory that is held shows nothing and takes nothing'(dir) {
      withFile(join(dir, 'd/sub'), 'r', (fd) => {
        fs.rmdirSync(join(dir, 'd/sub'));
        assert.deepEqual(fs.readdirSync(`/proc/self/fd/${fd}`), []);
        fails('ENOENT', () => fs.writeFileSync(`/proc/self/fd/${fd}/new`, ''));
        fails('ENOENT', () => fs.mkdirSync(`/proc/self/fd/${fd}/new`));
        fails('ENOENT', () => fs.statSync(`/proc/self/fd/${fd}/..x`));
        assert.equal(fs.fstatSync(fd).isDirectory(), true);
        fs.mkdirSync(join(dir, 'd/sub'));
        fs.writeFileSync(join(dir, 'd/sub/y'), '');
        assert.deepEqual(fs.readdirSync(`/proc/self/fd/${fd}`), []);
        assert.notEqual(fs.fstatSync(fd).ino, 0);
      });
      assert.deepEqual(fs.readdirSync(join(dir, 'd/sub')), ['y']);
    },
    'a file replaced by a rename is read on'(dir) {
      withFile(join(dir, 'large'), 'r', (old) => {
        fs.renameSync(join(dir, 'f'), join(dir, 'large'));
        assert.equal(fs.fstatSync(old).nlink, 0);
        assert.equal(fs.readFileSync(old, 'latin1').length, 300_000);
      });
    },
  },
};
