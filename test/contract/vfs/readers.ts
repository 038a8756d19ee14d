/**
 * What a reader of a file sees when another program writes to it later, through descriptors and mappings that it has had open since before. `f` is small,
 * `large` is not: overlayfs goes on showing such a reader the old content.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../../../src/base/until.test-support.ts';
import type { Topic } from './behaviour.ts';
import { python, withFile } from './behaviour.ts';

const LARGE = 3 << 20;

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), Buffer.alloc(10_000, 'a'));
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(LARGE, 'b'));
}

/** What `length` bytes at `at` are now. */
function bytes(fd: number, length: number, at: number): string {
  const into = Buffer.alloc(length);
  return into.toString('latin1', 0, fs.readSync(fd, into, 0, length, at));
}

function writesAreSeen(path: string): void {
  withFile(path, 'r', (reader) => {
    const before = fs.fstatSync(reader);
    assert.equal(bytes(reader, 4, 5000).length, 4);
    withFile(path, 'r+', (writer) => {
      fs.writeSync(writer, 'FIRST', 5000);
      assert.equal(bytes(reader, 5, 5000), 'FIRST');
      fs.writeSync(writer, 'BEHIND', before.size);
      const after = fs.fstatSync(reader);
      assert.equal(after.ino, before.ino);
      assert.equal(after.size, before.size + 6);
      assert.equal(bytes(reader, 100, before.size), 'BEHIND');
      fs.ftruncateSync(writer, 100);
      assert.equal(fs.fstatSync(reader).size, 100);
      assert.equal(bytes(reader, 10, 5000), '');
      fs.ftruncateSync(writer, 6000);
      assert.equal(bytes(reader, 5, 5000), '\0'.repeat(5));
    });
    // A second writer, and another name for the file.
    fs.renameSync(path, `${path}.moved`);
    fs.writeFileSync(`${path}.moved`, 'SECOND');
    assert.equal(bytes(reader, 100, 0), 'SECOND');
    assert.equal(fs.fstatSync(reader).ino, fs.statSync(`${path}.moved`).ino);
  });
}

const MAPPED = `
import mmap, os, sys
path = sys.argv[1]
size = os.stat(path).st_size
fd = os.open(path, os.O_RDONLY)
m = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
p = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
untouched = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
old = m[4000:4004]
assert p[4000:4004] == old
ino = os.fstat(fd).st_ino
os.close(fd)
w = os.open(path, os.O_RDWR)
os.pwrite(w, b'PWRITE', 4000)
for n in (m, p, untouched): assert n[4000:4006] == b'PWRITE', n[4000:4006]
x = mmap.mmap(w, size)
x[4100:4106] = b'MAPPED'
for n in (m, p, untouched): assert n[4100:4106] == b'MAPPED', n[4100:4106]
assert os.fstat(w).st_ino == ino
x.close()
os.close(w)
with open(path, 'r+b') as late: late.seek(8000); late.write(b'LATE')
assert m[8000:8004] == b'LATE'
`;

const DIRECT = `
import mmap, os, sys
path = sys.argv[1]
block = mmap.mmap(-1, 4096)
fd = os.open(path, os.O_RDONLY)
direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
assert os.preadv(direct, [block], 4096) == 4096
os.pread(fd, 100, 4096)
w = os.open(path, os.O_RDWR)
os.pwrite(w, b'W' * 4096, 4096)
os.preadv(direct, [block], 4096)
assert block[:4096] == b'W' * 4096
block[:] = b'D' * 4096
d = os.open(path, os.O_RDWR | os.O_DIRECT)
assert os.pwritev(d, [block], 4096) == 4096
assert os.pread(fd, 4096, 4096) == b'D' * 4096
os.preadv(direct, [block], 4096)
assert block[:4096] == b'D' * 4096
`;

/** Python follows the file as tail -f does: by size and position of the descriptor that it has. */
const FOLLOW = `
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
os.lseek(fd, 0, os.SEEK_END)
print('ready', flush=True)
got = b''
end = time.time() + 15
while not got.endswith(b'three\\n') and time.time() < end:
    got += os.read(fd, 100)
    time.sleep(0.002)
print(repr(got))
`;

async function followed(path: string): Promise<void> {
  const child = spawn('python3', ['-I', '-S', '-c', FOLLOW, path]);
  try {
    let said = '';
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.stdout.on('data', (chunk) => {
      said += chunk;
    });
    await until('it has the file open', () => said.startsWith('ready'));
    for (const line of ['one', 'two', 'three']) {
      fs.appendFileSync(path, `${line}\n`);
      await delay(5);
    }
    await ended;
    assert.equal(said, "ready\nb'one\\ntwo\\nthree\\n'\n");
  } finally {
    child.kill('SIGKILL');
  }
}

export const readers: Topic = {
  name: 'readers',
  plant,
  behaviours: {
    'a descriptor sees what is written, the new size, truncation (small)': (dir) =>
      writesAreSeen(join(dir, 'f')),
    'a descriptor sees what is written, the new size, truncation': (dir) => writesAreSeen(join(dir, 'large')),
    'mappings see what is written (small)'(dir) {
      python(MAPPED, join(dir, 'f'));
    },
    'mappings see what is written'(dir) {
      python(MAPPED, join(dir, 'large'));
    },
    'buffered and direct readers see buffered and direct writes (small)'(dir) {
      python(DIRECT, join(dir, 'f'));
    },
    'buffered and direct readers see buffered and direct writes'(dir) {
      python(DIRECT, join(dir, 'large'));
    },
    'a growing file is followed (small)': (dir) => followed(join(dir, 'f')),
    'a growing file is followed': (dir) => followed(join(dir, 'large')),
    'a reader sees the file emptied and written anew'(dir) {
      for (const name of ['f', 'large']) {
        withFile(join(dir, name), 'r', (reader) => {
          fs.writeFileSync(join(dir, name), 'anew');
          assert.equal(bytes(reader, 100, 0), 'anew');
        });
      }
    },
    'changed attributes are seen by a reader, which goes on reading'(dir) {
      for (const name of ['f', 'large']) {
        withFile(join(dir, name), 'r', (reader) => {
          const { ino, size } = fs.fstatSync(reader);
          fs.chmodSync(join(dir, name), 0o600);
          fs.utimesSync(join(dir, name), 1000, 1000);
          const now = fs.fstatSync(reader);
          assert.deepEqual([now.ino, now.size, now.mode & 0o777, now.atimeMs], [ino, size, 0o600, 1_000_000]);
          assert.equal(bytes(reader, 2, 0).length, 2);
        });
      }
    },
  },
};
