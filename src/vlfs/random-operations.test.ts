/**
 * Random sequences of operations on a VLFS and, side by side, on a plain directory of the host's file system that holds the same tree: both must
 * answer with the same errno and show the same tree, with link counts, modes and contents. Stability of st_ino, and that a second opening of the
 * same private layer shows the same, are checked too.
 */
import assert from 'node:assert/strict';
import * as nodeFs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../base/random-runs.test-support.ts';
import type { VlfsSpec } from './contract.ts';
import {
  answer,
  answerable,
  hostTree,
  onHost,
  type Shown,
  vlfsTree,
} from './test-support/host.test-support.ts';
import {
  BASE,
  MODES,
  type Mode,
  type Operation,
  onVlfs,
  operation,
  SECOND,
} from './test-support/operations.test-support.ts';
import { Client, makeSandbox, type Sandbox } from './test-support/vlfs.test-support.ts';

/** d_ino is st_ino, also for what was not looked up before. */
function checkListedNumbers(c: Client, shown: Record<string, Shown>): void {
  for (const dir of ['', ...Object.keys(shown).filter((at) => shown[at]!.kind === 'dir')]) {
    for (const { name: entry, ino } of c.entries(dir)) {
      if (entry === '.') assert.equal(ino, c.stat(dir).ino);
      else if (entry !== '..') assert.equal(ino, c.stat(`${dir}/${entry}`).ino, `${dir}/${entry}`);
    }
  }
}

async function play(box: Sandbox, spec: VlfsSpec, operations: Operation[], mode: Mode): Promise<void> {
  const host = join(box.dir, `host-${spec.name}`);
  nodeFs.mkdirSync(host);
  for (const level of [...spec.stack.levels].reverse()) {
    nodeFs.cpSync(level.treeDir, host, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
  }
  // cp does not keep hard links.
  nodeFs.rmSync(join(host, 'e/b'));
  nodeFs.linkSync(join(host, 'e/a'), join(host, 'e/b'));
  nodeFs.rmSync(join(host, 'e/d'));
  nodeFs.linkSync(join(host, 'e/c'), join(host, 'e/d'));
  let c = new Client(spec, mode);
  try {
    assert.deepEqual(vlfsTree(c), hostTree(host));
    for (const [i, o] of operations.entries()) {
      if (o.op === 'remount') {
        c.close();
        c = new Client(spec, mode);
        continue;
      }
      const step = `${i}: ${JSON.stringify(o)}`;
      if (!answerable(host, o)) continue;
      const expected = answer(() => onHost(host, o));
      assert.equal(
        answer(() => onVlfs(c, o)),
        expected,
        step,
      );
      if (i % 5 === 4) assert.deepEqual(vlfsTree(c), hostTree(host), step);
    }
    const final = hostTree(host);
    assert.deepEqual(vlfsTree(c), final, 'at the end');
    checkListedNumbers(c, final);
    const inos = Object.keys(final).map((at) => [at, c.stat(at).ino]);
    c.close();
    c = new Client(spec, mode);
    checkListedNumbers(c, final);
    assert.deepEqual(vlfsTree(c), final, 'opened again');
    assert.deepEqual(
      Object.keys(final).map((at) => [at, c.stat(at).ino]),
      inos,
      'st_ino stays',
    );
    assert.deepEqual(c.faults, []);
  } finally {
    c.close();
  }
}

/** Found once: the old place is deleted by one mark, the names still count at the new one. */
const LINKS_IN_A_MOVED_DIRECTORY: Operation[] = [
  { op: 'write', path: 'l' },
  { op: 'rename', path: 'l', to: 'e', flags: 2 },
  { op: 'unlink', path: 'e' },
  { op: 'write', path: 'a' },
  { op: 'remount' },
  { op: 'append', path: 'l/a' },
];

test('random operations behave as on the host file system', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { minLength: 5, maxLength: 40 }),
        fc.constantFrom(...MODES),
        async (operations, mode) => {
          await play(box, box.spec(`r${run++}`, levels), operations, mode);
        },
      ),
      {
        ...randomRuns(60),
        examples: [[LINKS_IN_A_MOVED_DIRECTORY, MODES[0]!]],
      },
    );
  } finally {
    box.remove();
  }
});
