/** FIFOs, sockets and devices: they work, keep their attributes, and can be renamed, linked and deleted. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { AT_FDCWD, encodeDev, mknodat, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ok, python } from './behaviour.ts';

function make(dir: string, name: string, mode: number, device = 0): void {
  ok(mknodat(AT_FDCWD, join(dir, name), mode, device));
  fs.chmodSync(join(dir, name), mode & 0o7777);
}

/** Layers hold no sockets. */
function makeSocket(dir: string): void {
  make(dir, 'socket', S_IFSOCK | 0o755);
}

function plant(dir: string): void {
  make(dir, 'fifo', S_IFIFO | 0o640);
  make(dir, 'null', S_IFCHR | 0o666, encodeDev(1, 3));
  make(dir, 'block', S_IFBLK | 0o600, encodeDev(300, 5000));
  fs.mkdirSync(join(dir, 'd'));
}

export const specialFiles: Topic = {
  name: 'special-files',
  plant,
  behaviours: {
    'kinds, modes and device numbers'(dir) {
      const stat = (name: string) => fs.lstatSync(join(dir, name));
      makeSocket(dir);
      assert.ok(stat('fifo').isFIFO() && stat('socket').isSocket());
      assert.ok(stat('null').isCharacterDevice() && stat('block').isBlockDevice());
      assert.equal(stat('null').rdev, encodeDev(1, 3));
      assert.equal(stat('block').rdev, encodeDev(300, 5000));
      assert.deepEqual(
        ['fifo', 'null', 'block', 'socket'].map((n) => stat(n).mode & 0o7777),
        [0o640, 0o666, 0o600, 0o755],
      );
    },
    'a FIFO carries bytes between processes; two mounts of it are one'(dir) {
      python(
        `
import os, sys
path = sys.argv[1]
pid = os.fork()
if pid == 0:
    with open(path, 'wb') as f: f.write(b'through the fifo')
    os._exit(0)
with open(path, 'rb') as f: assert f.read() == b'through the fifo'
assert os.waitpid(pid, 0)[1] == 0
assert os.stat(path).st_size == 0
`,
        join(dir, 'fifo'),
      );
    },
    'a socket is bound, connected to, and refused when nobody listens'(dir) {
      makeSocket(dir);
      python(
        `
import errno, os, socket, sys
os.chdir(sys.argv[1])
try:
    socket.socket(socket.AF_UNIX).connect('socket'); sys.exit('connected')
except OSError as e: assert e.errno == errno.ECONNREFUSED, e
try:
    socket.socket(socket.AF_UNIX).bind('socket'); sys.exit('bound')
except OSError as e: assert e.errno == errno.EADDRINUSE, e
s = socket.socket(socket.AF_UNIX); s.bind('d/new'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('d/new')
c.sendall(b'hello'); assert s.accept()[0].recv(10) == b'hello'
os.rename('d/new', 'moved')
c = socket.socket(socket.AF_UNIX); c.connect('moved')
os.unlink('moved')
`,
        dir,
      );
    },
    'devices work'(dir) {
      fs.writeFileSync(join(dir, 'null'), 'nothing');
      assert.equal(fs.readFileSync(join(dir, 'null')).length, 0);
      ok(mknodat(AT_FDCWD, join(dir, 'd/zero'), S_IFCHR | 0o666, encodeDev(1, 5)));
      const fd = fs.openSync(join(dir, 'd/zero'), 'r');
      const got = Buffer.alloc(5, 'x');
      fs.readSync(fd, got, 0, 5, null);
      fs.closeSync(fd);
      assert.deepEqual([...got], [0, 0, 0, 0, 0]);
    },
    'attributes change and stay with a rename, a link, a replacement'(dir) {
      makeSocket(dir);
      for (const name of ['fifo', 'null', 'block', 'socket']) {
        const path = join(dir, name);
        const { ino, rdev } = fs.lstatSync(path);
        fs.chmodSync(path, 0o604);
        fs.chownSync(path, 4001, 4002);
        fs.utimesSync(path, 7, 8);
        fs.linkSync(path, join(dir, `d/${name}`));
        fs.renameSync(path, join(dir, `moved-${name}`));
        const stat = fs.lstatSync(join(dir, `moved-${name}`));
        assert.deepEqual(
          [stat.ino, stat.rdev, stat.mode & 0o7777, stat.uid, stat.gid, stat.mtimeMs, stat.nlink],
          [ino, rdev, 0o604, 4001, 4002, 8000, 2],
          name,
        );
        fs.writeFileSync(join(dir, 'file'), name);
        fs.renameSync(join(dir, 'file'), join(dir, `d/${name}`));
        assert.equal(fs.readFileSync(join(dir, `d/${name}`), 'utf8'), name);
        fs.unlinkSync(join(dir, `moved-${name}`));
      }
      assert.deepEqual(fs.readdirSync(dir), ['d']);
    },
  },
};
