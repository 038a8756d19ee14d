/** statfs and pathconf tell the truth; the last byte of space is an error, not damage (see full-disk.test.ts for that). */
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
    'statfs: sizes add up, and a file takes space and gives it back'(dir) {
      const before = fs.statfsSync(dir);
      assert.ok(before.blocks > 0 && before.bfree <= before.blocks && before.bavail <= before.bfree);
      assert.ok(before.files >= before.ffree && before.bsize >= 512);
      const size = 32 << 20;
      const fd = fs.openSync(join(dir, 'big'), 'w');
      for (let at = 0; at < size; at += 1 << 20)
        fs.writeSync(fd, Buffer.alloc(1 << 20, at >> 20), 0, 1 << 20, at);
      fs.fsyncSync(fd);
      fs.closeSync(fd);
      const taken = (before.bfree - fs.statfsSync(dir).bfree) * before.bsize;
      assert.ok(taken > size * 0.5, `${taken} bytes`);
      assert.ok(fs.statSync(join(dir, 'big')).blocks * 512 >= size);
      fs.unlinkSync(join(dir, 'big'));
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
