import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeTreeIndex } from '../../layer/index.ts';
import { openShared } from '../copy-up/shared-content.ts';
import { prepareVlfs } from '../open-core.ts';
import { sandboxed } from '../test-support/vlfs.test-support.ts';
import { closeIdleStacks, closeStack, openStack, unitRootFd } from './stack.ts';

test(
  'an idle stack whose index changed is opened anew, unless its owner says that nothing changed',
  sandboxed(async (box) => {
    const unit = await box.unit('a', '1', { 'usr/one': '1' });
    const spec = box.spec('a', [unit]);
    /** Whether the stack has usr/two, after it was held as a mount holds it. */
    const hasTwo = (stamp?: string): boolean => {
      const hold = prepareVlfs(stamp === undefined ? spec : { ...spec, unitsStamp: stamp });
      while (hold.step(performance.now() + 1) === null);
      const stack = openStack(spec.stack);
      const { index } = stack.units[0]!;
      closeStack(stack);
      hold.release();
      return index.child(index.child(0, 'usr' as never), 'two' as never) >= 0;
    };
    try {
      assert.equal(hasTwo('first'), false);
      writeFileSync(join(unit.treeDir, 'usr/two'), '2');
      await writeTreeIndex(unit.indexFile, unit.treeDir);
      assert.equal(hasTwo('first'), false);
      assert.equal(hasTwo('second'), true);
      rmSync(join(unit.treeDir, 'usr/two'));
      await writeTreeIndex(unit.indexFile, unit.treeDir);
      assert.equal(hasTwo(), false, 'without a stamp the files are looked at');
    } finally {
      closeIdleStacks();
    }
  }),
);

test(
  'a tree that became a link is no tree: nothing shows what it leads to',
  sandboxed(async (box) => {
    const unit = await box.unit('a', '1', { 'etc/shadow': 'of the layer' });
    const host = join(box.dir, 'host');
    mkdirSync(join(host, 'etc'), { recursive: true });
    writeFileSync(join(host, 'etc/shadow'), 'of the host!');
    const spec = box.spec('a', [unit]);
    // Opened before it is one.
    const stack = openStack(spec.stack);
    renameSync(unit.treeDir, `${unit.treeDir}-was`);
    symlinkSync(host, unit.treeDir);
    try {
      const known = stack.units[0]!;
      assert.ok(unitRootFd(known) < 0);
      assert.ok(
        openShared(known, known.index.child(known.index.child(0, 'etc' as never), 'shadow' as never)) < 0,
      );
    } finally {
      closeStack(stack);
      closeIdleStacks();
    }
    assert.throws(() => openStack(spec.stack), { code: 'NOT_FOUND' });
  }),
);
