/** statfs and pathconf tell the truth; the last byte of space is an error, not damage (full-disk.test.ts has that, on a disk of its own). */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { Topic } from './behaviour.ts';
import { python } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'content');
}

export const space: Topic = {
  name: 'space',
  plant,
  behaviours: {
    'statfs: sizes add up, and st_blocks counts what a file takes'(dir) {
      const { blocks, bfree, bavail, files, ffree, bsize } = fs.statfsSync(dir);
      assert.ok(blocks > 0 && bfree <= blocks && bavail <= bfree);
      assert.ok(files >= ffree && bsize >= 512);
      const size = 8 << 20;
      fs.writeFileSync(join(dir, 'big'), Buffer.alloc(size, 'b'), { flush: true });
      assert.ok(fs.statSync(join(dir, 'big')).blocks * 512 >= size);
    },
    'fstatvfs and pathconf'(dir) {
      python(
        `
import os, sys
path = sys.argv[1]
v = os.statvfs(path)
assert v.f_namemax == 255, v
assert v.f_frsize > 0 and v.f_bsize > 0
assert os.pathconf(path, 'PC_NAME_MAX') == 255
assert os.pathconf(path, 'PC_PATH_MAX') == 4096
fd = os.open(path, os.O_RDONLY)
assert os.fstatvfs(fd).f_blocks == v.f_blocks
`,
        join(dir, 'f'),
      );
    },
  },
};
