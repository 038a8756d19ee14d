/** copy_file_range, reflink and sendfile between files of one mount. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { copyFileRange, ficlone } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ok, python, refused, tool, withFile } from './behaviour.ts';

const SIZE = 3_000_000;

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'from'), Buffer.alloc(SIZE, '0123456789'));
  fs.writeFileSync(join(dir, 'to'), 'target');
  fs.writeFileSync(join(dir, 'small'), 'abcdefghij');
}

export const rangeCopies: Topic = {
  name: 'range-copies',
  plant,
  behaviours: {
    'a range from one file to another, and a whole file'(dir) {
      withFile(join(dir, 'from'), 'r', (from) =>
        withFile(join(dir, 'to'), 'r+', (to) => {
          assert.equal(copyFileRange(from, 5, to, 3, 10), 10);
          assert.equal(fs.readFileSync(join(dir, 'to'), 'latin1'), 'tar5678901234');
          let at = 0;
          while (at < SIZE)
            at += ok(copyFileRange(from, at, to, at, SIZE - at)) || assert.fail('no progress');
          assert.equal(copyFileRange(from, SIZE, to, SIZE, 100), 0, 'nothing behind the end');
        }),
      );
      assert.deepEqual(fs.readFileSync(join(dir, 'to')), fs.readFileSync(join(dir, 'from')));
    },
    'within one file, but not onto itself'(dir) {
      withFile(join(dir, 'small'), 'r+', (fd) => {
        assert.equal(copyFileRange(fd, 0, fd, 10, 10), 10);
        assert.equal(fs.readFileSync(join(dir, 'small'), 'latin1'), 'abcdefghijabcdefghij');
        refused('EINVAL', copyFileRange(fd, 0, fd, 5, 10));
      });
    },
    'descriptors must be for reading and for writing, and not for appending'(dir) {
      withFile(join(dir, 'from'), 'r', (from) => {
        withFile(join(dir, 'to'), 'r', (to) => refused('EBADF', copyFileRange(from, 0, to, 0, 10)));
        withFile(join(dir, 'to'), 'a', (to) => refused('EBADF', copyFileRange(from, 0, to, 0, 10)));
        withFile(dir, 'r', (to) => refused('EISDIR', copyFileRange(to, 0, from, 0, 10)));
      });
    },
    'to and from another file system'(dir) {
      const outside = fs.mkdtempSync('/dev/shm/contract-');
      try {
        tool('cp', join(dir, 'from'), join(outside, 'copy'));
        assert.deepEqual(fs.readFileSync(join(outside, 'copy')), fs.readFileSync(join(dir, 'from')));
        tool('cp', join(outside, 'copy'), join(dir, 'back'));
        assert.deepEqual(fs.readFileSync(join(dir, 'back')), fs.readFileSync(join(dir, 'from')));
      } finally {
        fs.rmSync(outside, { recursive: true });
      }
    },
    'cp --reflink and install'(dir) {
      tool('cp', '--reflink=auto', '--sparse=auto', join(dir, 'from'), join(dir, 'cloned'));
      tool('install', '-m', '640', join(dir, 'small'), join(dir, 'to'));
      assert.equal(fs.statSync(join(dir, 'cloned')).size, SIZE);
      assert.equal(fs.readFileSync(join(dir, 'to'), 'utf8'), 'abcdefghij');
      withFile(join(dir, 'small'), 'r', (from) =>
        withFile(join(dir, 'to'), 'r+', (to) => {
          const result = ficlone(to, from);
          assert.ok(result <= 0);
        }),
      );
      assert.equal(fs.readFileSync(join(dir, 'to'), 'utf8'), 'abcdefghij');
    },
    'sendfile and splice'(dir) {
      python(
        `
import os, sys
a, b, c = (os.path.join(sys.argv[1], n) for n in ('from', 'to', 'small'))
i, o = os.open(a, os.O_RDONLY), os.open(b, os.O_RDWR)
assert os.sendfile(o, i, 7, 5) == 5
assert os.pread(o, 10, 0) == b'78901t'
r, w = os.pipe()
assert os.splice(i, w, 100, offset_src=0) == 100
assert os.splice(r, o, 100, offset_dst=2) == 100
assert os.pread(o, 200, 0) == b'78' + b'0123456789' * 10
`,
        dir,
      );
    },
  },
};
