/** Through a real mount: a renamed directory to all of which no redirect leads. What programs have open, and where they are, goes along. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { withDataPlane } from '../../fuse/test-support/with-data-plane.ts';
import { copyOf, freeze } from '../test-support/frozen.test-support.ts';
import { replacedInConfig } from '../test-support/replaced-directory.test-support.ts';
import { Client, sandboxed } from '../test-support/vlfs.test-support.ts';

const PROGRAM = `
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def exchange(a, b): assert libc.renameat2(-100, a.encode(), -100, b.encode(), 2) == 0, os.strerror(ctypes.get_errno())
def tree(at): return sorted((os.path.relpath(d, at), os.lstat(d).st_ino, [(n, os.lstat(os.path.join(d, n)).st_ino) for n in sorted(ds + fs)]) for d, ds, fs in os.walk(at))
def read(p): return open(p, 'rb').read()
top = os.getcwd()
shown, other = tree('e'), tree('other')
large = os.open('e/deep/er/large', os.O_RDONLY)
writing = os.open('e/deep/b', os.O_WRONLY | os.O_APPEND)
listing = os.scandir('e/deep')
next(listing)
os.chdir('e/deep')
os.rename(top + '/e', top + '/away')
assert os.getcwd() == top + '/away/deep', os.getcwd()
assert not os.path.exists(top + '/e') and read('../a') == b'ONE'
os.write(writing, b'+')
assert read('b') == read('er/same') == b'B+'
assert os.pread(large, 6, 60000) == b'large ' and os.fstat(large).st_ino == os.stat('er/large').st_ino
list(listing)
os.chdir(top)
assert tree('away') == shown
exchange('away', 'other')
assert tree('other') == shown and tree('away') == other
exchange('away', 'other')
os.rename('away', 'e')
assert tree('e') == shown and tree('other') == other
open('e/new', 'w').close()
os.rename('e', 'kept')
print('all good')
`;

test(
  'a program renames a directory that no redirect leads to the whole of, in an appliance and in its clone',
  sandboxed(async (box) => {
    const { spec } = await replacedInConfig(box);
    const clone = freeze(box, copyOf(box, spec));
    await withDataPlane(
      async (t) => {
        for (const [id, vlfs] of Object.entries({ one: spec, clone })) {
          const mountpoint = t.makeDir(`mnt-${id}`);
          await t.plane.mount({ id, mountpoint, readOnly: false, vlfs });
          const run = spawnSync('python3', ['-c', PROGRAM, mountpoint], {
            encoding: 'utf8',
            timeout: 60_000,
          });
          assert.equal(run.stderr, '', id);
          assert.equal(run.stdout, 'all good\n', id);
          await t.plane.unmount(mountpoint, { force: false });
        }
      },
      { layered: true },
    );
    for (const one of [spec, clone]) {
      const c = new Client(one);
      assert.deepEqual(c.readdir('kept'), ['a', 'deep', 'link', 'new']);
      assert.equal(c.read('kept/deep/er/same'), 'B+');
      c.close();
    }
  }),
);
