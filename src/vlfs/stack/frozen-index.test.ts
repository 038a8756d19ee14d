/** Frozen trees that are far deeper than any path: no step in them may cost more for that, or one appliance makes all others wait. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { nameFromText } from '../../base/index.ts';
import { AT_FDCWD, close, mkdirat, O_DIRECTORY, O_RDONLY, openat } from '../../sys/index.ts';
import type { EntryOut } from '../contract.ts';
import { newAttr } from '../nodes/attributes.ts';
import { freeze } from '../test-support/frozen.test-support.ts';
import { Client, sandboxed } from '../test-support/vlfs.test-support.ts';
import { openFrozenIndex } from './frozen-index.ts';
import { closeIdleStacks } from './stack.ts';

const DEPTH = 3000;
const LESS_DEEP = 1000;
const PART = 200;

function makeDeep(dir: string, branches: readonly string[], levels: number): void {
  for (const branch of branches) {
    let fd = openat(AT_FDCWD, nameFromText(dir), O_RDONLY | O_DIRECTORY);
    for (let depth = 0; depth < levels; depth++) {
      const name = depth === 0 ? branch : 'd';
      mkdirat(fd, name, 0o755);
      const next = openat(fd, name, O_RDONLY | O_DIRECTORY);
      close(fd);
      fd = next;
    }
    mkdirat(fd, `end-of-${branch}`, 0o700);
    close(fd);
  }
}

test(
  'a look-up deep in a frozen tree costs what it costs near its root',
  sandboxed(async (box) => {
    const first = box.spec('a', [await box.unit('one', '1', { 'etc/x': 'x' })]);
    makeDeep(first.privateDir, ['a'], DEPTH);
    const spec = freeze(box, first);
    const c = new Client(spec);
    const out: EntryOut = { nodeId: 0, generation: 0, attr: newAttr(), entryValidMs: 0, attrValidMs: 0 };
    const costs: number[] = [];
    let node = 1;
    for (let depth = 0; depth < DEPTH; depth += PART) {
      const before = process.cpuUsage();
      for (let i = depth; i < depth + PART; i++) {
        assert.equal(c.fs.lookup(c.caller, node, (i === 0 ? 'a' : 'd') as never, out), 0);
        node = out.nodeId;
      }
      const { user, system } = process.cpuUsage(before);
      costs.push(user + system);
    }
    assert.equal(c.fs.lookup(c.caller, node, 'end-of-a' as never, out), 0);
    c.close();
    assert.deepEqual(c.faults, []);
    // Of the first parts the first may compile; of ways from the root these would be as 1 to 14.
    const [near, far] = [costs[1]!, costs.at(-1)!];
    assert.ok(far < 5 * near, `${near} us near the root, ${far} us at the end`);
    closeIdleStacks();
    execFileSync('rm', ['-rf', box.dir]);
  }),
);

test(
  'whichever directories are asked for, few are open, and each entry is what it is',
  sandboxed(async (box) => {
    const { privateDir } = box.spec('a', []);
    const branches = ['a', 'b', 'c'];
    makeDeep(privateDir, branches, LESS_DEEP);
    closeIdleStacks();
    const before = readdirSync('/proc/self/fd').length;
    const index = openFrozenIndex(privateDir);
    const ends = branches.map((branch) => {
      let entry = index.child(0, branch as never);
      for (let depth = 1; depth < LESS_DEEP; depth++) entry = index.child(entry, 'd' as never);
      return entry;
    });
    for (let round = 0; round < 3; round++) {
      for (const [i, end] of ends.entries()) {
        const last = index.child(end, `end-of-${branches[i]}` as never);
        assert.equal(index.mode(last) & 0o7777, 0o700);
        for (const entry of [last, end, index.parent(end)]) {
          const fd = index.open(entry, O_RDONLY | O_DIRECTORY);
          assert.ok(fd >= 0);
          assert.equal(readdirSync(`/proc/self/fd/${fd}`).length, entry === last ? 0 : 1);
          close(fd);
        }
      }
      assert.ok(readdirSync('/proc/self/fd').length - before <= 70);
    }
    index.close();
    assert.equal(readdirSync('/proc/self/fd').length, before);
    assert.ok(index.open(ends[0]!) < 0);
    execFileSync('rm', ['-rf', box.dir]);
  }),
);
