/** Files with very many names, up to the limit of ext4. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeTreeIndex } from '../../layer/index.ts';
import { E } from '../../sys/index.ts';
import { Client, type ErrnoError, sandboxed } from '../test-support/vlfs.test-support.ts';

/** EXT4_LINK_MAX. */
const MOST = 65_000;

test(
  'a shared file with as many names as ext4 allows is copied up with all of them',
  sandboxed(async (box) => {
    const unit = await box.unit('a', '1', { 'd/0': 'shared' });
    const script = `import os\nfor i in range(1, ${MOST}): os.link('d/0', 'd/%d' % i)`;
    execFileSync('python3', ['-c', script], { cwd: unit.treeDir });
    await writeTreeIndex(unit.indexFile, unit.treeDir);
    const spec = box.spec('one', [unit]);
    const c = new Client(spec);
    assert.equal(c.stat('d/7').nlink, MOST);
    c.append('d/9', ' and mine');
    assert.equal(c.read(`d/${MOST - 1}`), 'shared and mine');
    assert.equal(c.stat('d/0').nlink, MOST);
    assert.equal(statSync(join(spec.privateDir, 'd/5')).nlink, MOST);
    assert.throws(
      () => c.link('d/0', 'd/more'),
      (error: ErrnoError) => error.errno === -E.MLINK,
    );
    c.unlink('d/1');
    c.link('d/0', 'd/more');
    assert.deepEqual(c.faults, []);
    c.close();
    assert.deepEqual(readdirSync(join(spec.privateDir, '../work')), []);
  }),
);

test(
  'a hard-linked file in a directory that a config level renamed keeps its names when it is changed by one',
  sandboxed(async (box) => {
    const unit = await box.unit('one', '1', { 'e/a': 'a', 'e/b': { hard: 'e/a' }, outside: { hard: 'e/a' } });
    const maker = box.spec('maker', [unit]);
    let c = new Client(maker);
    c.rename('e', 'moved');
    c.mkdir('e');
    c.close();
    c = new Client(box.spec('a', [await box.config('t', maker), unit]));
    assert.equal(c.stat('moved/a').nlink, 3);
    c.rmdir('e');
    assert.equal(c.stat('moved/a').nlink, 3);
    c.append('moved/a', '+');
    assert.deepEqual([c.read('moved/b'), c.read('outside')], ['a+', 'a+']);
    assert.equal(c.stat('outside').nlink, 3);
    c.close();
  }),
);
