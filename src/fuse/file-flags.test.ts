/** lsattr and chattr on a mount, beside the file system below. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeTreeIndex } from '../layer/index.ts';
import type { LevelSpec } from '../vlfs/contract.ts';
import { withDataPlane } from './test-support/with-data-plane.ts';

const TREE = ['shared', 'other'];

function flagsOf(dir: string, name: string): string {
  const text = execFileSync('lsattr', ['-d', name], { cwd: dir, encoding: 'latin1' });
  // Extents are how ext4 stores a file, not a flag that somebody set.
  return text.split(' ')[0]!.replaceAll('e', '-');
}

test('file flags are kept as on ext4, but for those that would outlast a revert', async () => {
  await withDataPlane(
    async (t) => {
      const tree = t.makeDir('repo/one_1/filesystem');
      const plain = t.makeDir('plain');
      for (const at of [tree, plain]) {
        for (const name of TREE) writeFileSync(join(at, name), name);
        mkdirSync(join(at, 'dir'));
        writeFileSync(join(at, 'dir/f'), '');
      }
      const indexFile = join(t.dir, 'repo/one_1/index');
      await writeTreeIndex(indexFile, tree);
      const level: LevelSpec = {
        kind: 'software',
        id: 'main/one 1',
        treeDir: tree,
        indexFile,
        whiteoutsDir: null,
      };
      const mountpoint = t.makeDir('mnt');
      const privateDir = t.makeDir('appliance/private');
      const vlfs = {
        name: 'a',
        privateDir,
        whiteoutsDir: t.makeDir('appliance/whiteouts'),
        stack: { key: 'one', levels: [level] },
        readOnly: false,
      };
      await t.plane.mount({ id: 'a', mountpoint, vlfs, readOnly: false });
      for (const at of [plain, mountpoint]) writeFileSync(join(at, 'own'), 'own');
      const both = (run: (dir: string) => unknown, what: string): void =>
        assert.deepEqual(run(mountpoint), run(plain), what);
      for (const name of ['own', ...TREE, 'dir', '.']) both((dir) => flagsOf(dir, name), name);
      for (const [change, name] of [
        ['+Ad', 'own'],
        ['-d', 'own'],
        ['+d', 'shared'],
        ['+D', 'dir'],
        ['+A', '.'],
        ['-A', '.'],
      ] as const) {
        both((dir) => spawnSync('chattr', [change, name], { cwd: dir }).status, `chattr ${change} ${name}`);
        both((dir) => flagsOf(dir, name), `${name} after ${change}`);
      }
      assert.equal(readFileSync(join(mountpoint, 'shared'), 'utf8'), 'shared');
      assert.match(flagsOf(privateDir, 'shared'), /d/);
      both((dir) => {
        const program = `import fcntl,os,struct\nf=os.open('own',os.O_RDONLY)\nprint(hex(struct.unpack('I',fcntl.ioctl(f,0x801c581f,b'\\0'*28)[:4])[0]&0xff), struct.unpack('i',fcntl.ioctl(f,2,b'\\0'*4))[0])`;
        return execFileSync('python3', ['-c', program], { cwd: dir, encoding: 'latin1' });
      }, 'FS_IOC_FSGETXATTR and FIGETBSZ');
      for (const change of ['+i', '+a']) {
        const refused = spawnSync('chattr', [change, 'own'], { cwd: mountpoint, encoding: 'latin1' });
        assert.notEqual(refused.status, 0);
        assert.match(refused.stderr, /not supported/);
      }
      rmSync(join(mountpoint, 'own'));
    },
    { layered: true },
  );
});
