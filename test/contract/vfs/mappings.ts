/** mmap: shared writes reach the file and every other reader, private ones nobody. The calls are made by Python. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { Topic } from './behaviour.ts';
import { python } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), Buffer.alloc(10_000, 'a'));
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(500_000, 'b'));
}

const HEAD = 'import mmap, os, sys, time\npath = sys.argv[1]\n';

export const mappings: Topic = {
  name: 'mappings',
  plant,
  behaviours: {
    'shared writes are read by read(2) and by other mappings at once'(dir) {
      for (const name of ['f', 'large']) {
        python(
          `${HEAD}
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0)
other = os.open(path, os.O_RDWR)
n = mmap.mmap(other, 0, prot=mmap.PROT_READ)
m[5000:5004] = b'MMAP'
assert os.pread(fd, 4, 5000) == b'MMAP'
assert os.pread(other, 4, 5000) == b'MMAP'
assert n[5000:5004] == b'MMAP'
os.pwrite(other, b'PWRITE', 6000)
assert m[6000:6006] == b'PWRITE'
m.flush()
m.close(); n.close(); os.close(fd); os.close(other)
assert open(path, 'rb').read()[5000:5004] == b'MMAP'
`,
          join(dir, name),
        );
        assert.equal(fs.readFileSync(join(dir, name), 'latin1').slice(6000, 6006), 'PWRITE');
      }
    },
    'private writes stay private'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDONLY)
m = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
m[0:4] = b'mine'
assert os.pread(fd, 4, 0) == b'aaaa'
m.close()
`,
        join(dir, 'f'),
      );
      assert.equal(fs.readFileSync(join(dir, 'f'), 'latin1'), 'a'.repeat(10_000));
    },
    'a mapping outlives the descriptor, the name and a rename'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0)
os.close(fd)
os.rename(path, path + '2')
m[0:2] = b'XY'
assert open(path + '2', 'rb').read(2) == b'XY'
os.unlink(path + '2')
m[2:4] = b'ZZ'
m.flush()
assert m[0:5] == b'XYZZa'
`,
        join(dir, 'f'),
      );
    },
    'the file grows and shrinks below a mapping'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDWR)
os.ftruncate(fd, 20000)
m = mmap.mmap(fd, 20000)
assert m[10000:10010] == bytes(10)
m[19990:20000] = b'0123456789'
assert os.pread(fd, 100, 19990) == b'0123456789'
os.ftruncate(fd, 4096)
assert m[0:4096] == b'a' * 4096
os.ftruncate(fd, 20000)
assert m[4096:20000] == bytes(20000 - 4096)
assert os.pread(fd, 20000, 4096) == bytes(20000 - 4096)
`,
        join(dir, 'f'),
      );
    },
    'bytes behind the end are zero in the last page and do not reach the file'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0)
os.ftruncate(fd, 5000)
os.ftruncate(fd, 10000)
assert m[5000:8192] == bytes(3192)
m[9000:9003] = b'end'
m.flush()
assert os.pread(fd, 10, 8999) == b'\\0end' + bytes(6)
`,
        join(dir, 'f'),
      );
    },
    'a shared write changes the modification time once it was synced'(dir) {
      python(
        `${HEAD}
os.utime(path, (1000, 1000))
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0)
assert os.stat(path).st_mtime == 1000
m[0:1] = b'z'
m.flush()
m.close()
os.fsync(fd)
os.close(fd)
assert os.stat(path).st_mtime > 1000, os.stat(path).st_mtime
`,
        join(dir, 'f'),
      );
    },
    'writes of two processes through mappings meet'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDWR)
m = mmap.mmap(fd, 0)
pid = os.fork()
if pid == 0:
    other = os.open(path, os.O_RDWR)
    n = mmap.mmap(other, 0)
    n[1] = 1
    for i in range(1000000):
        if n[2] == 2: break
    os._exit(0 if n[2] == 2 else 1)
while m[1] != 1: pass
m[2] = 2
assert os.waitpid(pid, 0)[1] == 0
`,
        join(dir, 'f'),
      );
    },
    'a shared mapping for writing needs a descriptor that may write'(dir) {
      python(
        `${HEAD}
fd = os.open(path, os.O_RDONLY)
try:
    mmap.mmap(fd, 0)
    sys.exit(1)
except PermissionError: pass
m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
assert m[:3] == b'aaa'
`,
        join(dir, 'f'),
      );
    },
    'a program is executed from it'(dir) {
      fs.copyFileSync('/bin/true', join(dir, 'program'));
      fs.chmodSync(join(dir, 'program'), 0o755);
      python('import subprocess, sys; subprocess.run([sys.argv[1]], check=True)', join(dir, 'program'));
    },
  },
};
