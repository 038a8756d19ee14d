/**
 * Random operations on an appliance, its clones and theirs; then what tells each two of them apart must be what a plain comparison of everything that they show says. And the
 * cost is that of what differs.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import type { LevelSpec, VlfsSpec } from '../contract.ts';
import { diffPair } from '../index.ts';
import { closeStack, openStack } from '../stack/stack.ts';
import { cloneOf, freeze } from '../test-support/frozen.test-support.ts';
import { answer } from '../test-support/host.test-support.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from '../test-support/operations.test-support.ts';
import { Client, makeSandbox, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';

type Step = { who: number; o: Operation } | { who: number; clone: true };

const who = fc.nat(3);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 9, arbitrary: fc.record({ who, o: operation }) },
  { weight: 1, arbitrary: fc.record({ who, clone: fc.constant(true as const) }) },
);

interface Seen {
  kind: string;
  meta: string;
}

/** All that a VLFS shows; times of directories do not count. */
function seen(spec: VlfsSpec): Map<string, Seen> {
  const client = new Client(spec);
  const found = new Map<string, Seen>();
  for (const [path, kind] of Object.entries(client.tree())) {
    const { mode, uid, gid, mtimeSec, mtimeNsec } = client.stat(path);
    const times = kind === 'dir' ? [] : [mtimeSec, mtimeNsec];
    found.set(path, { kind, meta: [mode, uid, gid, ...times, ...client.listxattr(path)].join(' ') });
  }
  client.close();
  assert.deepEqual(client.faults, []);
  return found;
}

function plainDiff(a: Map<string, Seen>, b: Map<string, Seen>): string[] {
  const found: string[] = [];
  for (const [path, { kind, meta }] of b) {
    const before = a.get(path);
    if (before === undefined) found.push(`/${path} added`);
    else if (before.kind !== kind) found.push(`/${path} changed`);
    else if (before.meta !== meta) found.push(`/${path} metadata`);
  }
  for (const path of a.keys()) {
    const parent = path.includes('/') ? b.get(path.slice(0, path.lastIndexOf('/')))?.kind : 'dir';
    if (!b.has(path) && parent === 'dir') found.push(`/${path} deleted`);
  }
  return found.sort();
}

test('the differences of any two relatives are those of all that they show', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    const play = (steps: Step[]): void => {
      const name = `r${run++}`;
      const sides = [box.spec(name, levels)];
      for (const one of steps) {
        const at = one.who % sides.length;
        if ('clone' in one) {
          sides[at] = freeze(box, sides[at]!);
          sides.push(cloneOf(box, sides[at]!, `${name}-${sides.length}`));
          continue;
        }
        if (one.o.op === 'remount') continue;
        const client = new Client(sides[at]!, { partialBytes: 0 });
        try {
          answer(() => onVlfs(client, one.o as never));
        } catch {
          // The client does not follow symlinks.
        }
        client.close();
      }
      const shown = sides.map(seen);
      for (const [i, left] of sides.entries())
        for (const [j, right] of sides.entries()) {
          const found = diffPair(left, right).entries.map(({ path, change }) => `${path} ${change}`);
          assert.deepEqual(found.sort(), plainDiff(shown[i]!, shown[j]!), `${i} to ${j}`);
        }
    };
    fc.assert(fc.property(fc.array(step, { minLength: 5, maxLength: 45 }), play), randomRuns(80));
  } finally {
    box.remove();
  }
});

test(
  'what two have in common is not read',
  sandboxed(async (box) => {
    const first = box.spec('a', [await box.unit('one', '1', BASE)]);
    for (let i = 0; i < 200; i++) {
      mkdirSync(join(first.privateDir, `dir${i}/sub`), { recursive: true });
      writeFileSync(join(first.privateDir, `dir${i}/sub/file`), `${i}`);
    }
    const source = freeze(box, first);
    const clone = cloneOf(box, source, 'b');
    const client = new Client(clone);
    client.write('dir7/sub/file', 'other');
    client.unlink('dir9/sub/file');
    client.close();
    const stack = openStack(source.stack);
    try {
      assert.deepEqual(
        diffPair(source, clone).entries.map(({ path, change }) => `${path} ${change}`),
        ['/dir7/sub/file changed', '/dir9/sub/file deleted'],
      );
      // The root, and the two directories on the way.
      assert.ok(stack.units[0]!.index.entryCount <= 1 + 200 + 2 * 2, `${stack.units[0]!.index.entryCount}`);
    } finally {
      closeStack(stack);
    }
    // As after a merge in the background: another layer with the same files.
    const [layer, ...below] = source.stack.levels as [LevelSpec, ...LevelSpec[]];
    const treeDir = join(box.dir, 'merged');
    execFileSync('cp', ['-al', layer.treeDir, treeDir]);
    const merged = stackOf([{ ...layer, id: 'frozen/merged', treeDir }, ...below]);
    assert.deepEqual(
      diffPair({ ...source, name: 'c', stack: merged }, clone).entries.map(({ path }) => path),
      ['/dir7/sub/file', '/dir9/sub/file'],
    );
    assert.deepEqual(
      diffPair(source, clone, '/dir9').entries.map(({ path }) => path),
      ['/dir9/sub/file'],
    );
  }),
);
