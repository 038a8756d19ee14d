/** open(2): its flags, appending, direct I/O, truncation. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import {
  AT_FDCWD,
  close,
  O_APPEND,
  O_CREAT,
  O_DIRECT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  openat,
} from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { fails, inoOf, ok, python, refused, withFile } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'content\n');
  fs.writeFileSync(join(dir, 'log'), '');
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(1 << 20, 'x'));
  fs.mkdirSync(join(dir, 'd'));
  fs.symlinkSync('f', join(dir, 'link'));
  fs.symlinkSync('created', join(dir, 'dangling'));
  fs.symlinkSync('loop2', join(dir, 'loop'));
  fs.symlinkSync('loop', join(dir, 'loop2'));
  fs.symlinkSync('d', join(dir, 'dlink'));
}

export const opens: Topic = {
  name: 'opens',
  plant,
  behaviours: {
    'CREAT, EXCL, NOFOLLOW, DIRECTORY, PATH'(dir) {
      const open = (name: string, flags: number) => openat(AT_FDCWD, join(dir, name), flags, 0o644);
      refused('EEXIST', open('f', O_CREAT | O_EXCL | O_RDWR));
      refused('EEXIST', open('dangling', O_CREAT | O_EXCL | O_RDWR));
      refused('ELOOP', open('link', O_NOFOLLOW | O_RDONLY));
      refused('ELOOP', open('loop', O_RDONLY));
      refused('ENOTDIR', open('f', O_DIRECTORY));
      refused('ENOTDIR', open('f/x', O_RDONLY));
      refused('EISDIR', open('d', O_RDWR));
      refused('EISDIR', open('d', O_CREAT | O_RDONLY));
      refused('ENOENT', open('none', O_RDWR));
      ok(close(ok(open('f', O_CREAT | O_RDWR))));
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'content\n');
      ok(close(ok(open('dangling', O_CREAT | O_RDWR))));
      assert.equal(fs.existsSync(join(dir, 'created')), true, 'made through the symlink');
      const path = ok(open('f', O_PATH));
      refused(
        'EBADF',
        (() => {
          try {
            return fs.readSync(path, Buffer.alloc(1));
          } catch (e) {
            return (e as { errno: number }).errno;
          }
        })(),
      );
      assert.equal(fs.fstatSync(path).size, 8);
      ok(close(path));
    },
    'TRUNC empties, also for a reader that has it open'(dir) {
      withFile(join(dir, 'large'), 'r', (reader) => {
        ok(close(ok(openat(AT_FDCWD, join(dir, 'large'), O_WRONLY | O_TRUNC))));
        assert.equal(fs.statSync(join(dir, 'large')).size, 0);
        assert.equal(inoOf(reader), inoOf(join(dir, 'large')));
      });
      fs.writeFileSync(join(dir, 'f'), 'new');
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'new');
    },
    'a truncated file whose write follows starts with a hole'(dir) {
      withFile(join(dir, 'f'), 'r+', (fd) => {
        fs.ftruncateSync(fd, 0);
        fs.writeSync(fd, 'tail', 4);
        assert.equal(fs.readFileSync(join(dir, 'f'), 'latin1'), '\0\0\0\0tail');
      });
    },
    'a reader sees what a writer writes'(dir) {
      withFile(join(dir, 'f'), 'r+', (writer) =>
        withFile(join(dir, 'f'), 'r', (reader) => {
          const got = Buffer.alloc(8);
          fs.writeSync(writer, 'CONTENT', 0);
          fs.readSync(reader, got, 0, 8, 0);
          assert.equal(got.toString(), 'CONTENT\n');
          assert.equal(fs.fstatSync(reader).size, 8);
          fs.writeSync(writer, 'more', 8);
          assert.equal(fs.fstatSync(reader).size, 12);
          assert.equal(fs.readSync(reader, got, 0, 8, 8), 4);
        }),
      );
    },
    'APPEND: writes go to the end, whatever the offset'(dir) {
      const fd = ok(openat(AT_FDCWD, join(dir, 'f'), O_WRONLY | O_APPEND));
      fs.writeSync(fd, 'one\n', 0);
      fs.appendFileSync(join(dir, 'f'), 'two\n');
      fs.writeSync(fd, 'three\n');
      fs.closeSync(fd);
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'content\none\ntwo\nthree\n');
    },
    'APPEND: no line of four processes is lost or torn'(dir) {
      python(
        `
import os, sys
path = sys.argv[1]
pids = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for i in range(300): os.write(fd, b'%d %d %s\\n' % (n, i, b'x' * (i % 50)))
        os._exit(0)
    pids.append(pid)
for pid in pids: assert os.waitpid(pid, 0)[1] == 0
lines = open(path, 'rb').read().split(b'\\n')[:-1]
assert len(lines) == 1200, len(lines)
for n in range(4):
    mine = [line for line in lines if line.startswith(b'%d ' % n)]
    assert mine == [b'%d %d %s' % (n, i, b'x' * (i % 50)) for i in range(300)]
`,
        join(dir, 'log'),
      );
    },
    'DIRECT: aligned reads and writes, mixed with buffered ones'(dir) {
      python(
        `
import mmap, os, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, 8192)
assert os.preadv(fd, [buf], 4096) == 8192 and buf[:4] == b'xxxx'
buf[:] = b'D' * 8192
assert os.pwritev(fd, [buf], 8192) == 8192
other = os.open(path, os.O_RDWR)
assert os.pread(other, 6, 8190) == b'xxDDDD'
os.pwrite(other, b'buffered', 12288)
assert os.preadv(fd, [buf], 12288) == 8192 and buf[:8] == b'buffered'
assert os.fstat(fd).st_size == 1 << 20
`,
        join(dir, 'large'),
      );
      const fd = ok(openat(AT_FDCWD, join(dir, 'large'), O_RDONLY | O_DIRECT));
      ok(close(fd));
    },
    'a descriptor for reading cannot write, one for writing cannot read'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => fails('EBADF', () => fs.writeSync(fd, 'x')));
      const writer = ok(openat(AT_FDCWD, join(dir, 'f'), O_WRONLY));
      fails('EBADF', () => fs.readSync(writer, Buffer.alloc(1)));
      fs.closeSync(writer);
      withFile(join(dir, 'f'), 'r', (fd) => fails('EINVAL', () => fs.ftruncateSync(fd, 0)));
      fails('EISDIR', () => fs.truncateSync(join(dir, 'd'), 0));
    },
    'a file of several megabytes, read and written in odd pieces'(dir) {
      const bytes = Buffer.alloc(5_000_000);
      for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE(i, i);
      withFile(join(dir, 'large'), 'r+', (fd) => {
        for (let at = 0; at < bytes.length; )
          at += fs.writeSync(fd, bytes, at, Math.min(333_333, bytes.length - at), at);
        const back = Buffer.alloc(bytes.length);
        for (let at = 0; at < back.length; )
          at += fs.readSync(fd, back, at, Math.min(77_777, back.length - at), at) || assert.fail('short');
        assert.ok(back.equals(bytes));
      });
    },
    'symlinks are walked, dangling ones are not there'(dir) {
      assert.equal(fs.readFileSync(join(dir, 'link'), 'utf8'), 'content\n');
      assert.equal(fs.statSync(join(dir, 'dlink')).isDirectory(), true);
      fails('ENOENT', () => fs.statSync(join(dir, 'dangling')));
      fails('ELOOP', () => fs.statSync(join(dir, 'loop')));
      fails('EINVAL', () => fs.readlinkSync(join(dir, 'f')));
      fs.symlinkSync('x'.repeat(4095), join(dir, 'long'));
      assert.equal(fs.readlinkSync(join(dir, 'long')).length, 4095);
      assert.equal(fs.lstatSync(join(dir, 'long')).size, 4095);
      fails('ENAMETOOLONG', () => fs.symlinkSync('x'.repeat(4096), join(dir, 'longer')));
      fails('ENOENT', () => fs.symlinkSync('', join(dir, 'empty')));
    },
  },
};
