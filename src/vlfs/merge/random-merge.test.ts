/**
 * Random changes in an appliance and its clone, merged; the oracle is a plain three-way merge of all that both show, path by path. Where that finds no conflict the
 * result must be the same, where it finds one nothing may be done. Then the choices in conflicts, and what path by path cannot say: hard links, renames without copies.
 */
import assert from 'node:assert/strict';
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import type { MergeChoice, VlfsSpec } from '../contract.ts';
import { diffPair, type MergeOutcome, mergeVlfs } from '../index.ts';
import { copyRootAttributes } from '../offline.ts';
import { cloneOf, freeze } from '../test-support/frozen.test-support.ts';
import { answer } from '../test-support/host.test-support.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from '../test-support/operations.test-support.ts';
import { Client, makeSandbox, type Sandbox, sandboxed } from '../test-support/vlfs.test-support.ts';

type Trees = Map<string, string>;

function seen(spec: VlfsSpec): Trees {
  const client = new Client(spec);
  const found: Trees = new Map();
  for (const [path, kind] of Object.entries(client.tree())) {
    const { mode, uid, gid } = client.stat(path);
    found.set(path, [kind, mode, uid, gid, ...client.listxattr(path)].join(' '));
  }
  client.close();
  assert.deepEqual(client.faults, []);
  return found;
}

const isDirectory = (what: string | undefined): boolean => what?.startsWith('dir ') === true;

/** Null: a conflict. */
function plainMerge(base: Trees, child: Trees, parent: Trees): Trees | null {
  const result: Trees = new Map();
  for (const path of new Set([...base.keys(), ...child.keys(), ...parent.keys()])) {
    const [b, c, p] = [base.get(path), child.get(path), parent.get(path)];
    if (c !== b && p !== b && c !== p) return null;
    const now = c === b ? p : c;
    if (now !== undefined) result.set(path, now);
  }
  for (const path of result.keys()) {
    const slash = path.lastIndexOf('/');
    if (slash >= 0 && !isDirectory(result.get(path.slice(0, slash)))) return null;
  }
  return result;
}

function change(spec: VlfsSpec, operations: readonly Operation[]): void {
  const client = new Client(spec, { partialBytes: 0 });
  for (const o of operations) {
    if (o.op === 'remount') continue;
    try {
      answer(() => onVlfs(client, o));
    } catch {
      // The client does not follow symlinks.
    }
  }
  client.close();
}

interface Family {
  base: VlfsSpec;
  child: VlfsSpec;
  parent: VlfsSpec;
}

let families = 0;

/** An appliance with a history of its own, and its clone. */
function family(box: Sandbox, spec: VlfsSpec, history: readonly Operation[]): Family {
  change(spec, history);
  const parent = freeze(box, spec);
  const child = cloneOf(box, parent, `${spec.name}-child`);
  return { base: cloneOf(box, parent, `${spec.name}-base`), child, parent };
}

/** Half of them at places that there are. */
const mixed: fc.Arbitrary<Operation> = fc.oneof(
  operation,
  fc
    .tuple(operation, fc.constantFrom('d', 'd/a', 'd/b', 'd/e', 'd/e/a', 'e', 'e/a', 'e/b', 'c/a'))
    .map(([o, path]) => (o.op === 'remount' ? o : { ...o, path })),
);

const ASK: MergeChoice = { prefer: null, ours: [], theirs: [] };

async function merge(
  box: Sandbox,
  { base, child, parent }: Family,
  choice: MergeChoice = ASK,
): Promise<{ outcome: MergeOutcome; target: VlfsSpec }> {
  const present = freeze(box, parent);
  const target = box.spec(`target-${families++}`, present.stack.levels);
  copyRootAttributes(present.privateDir, target.privateDir);
  const outcome = await mergeVlfs({
    child,
    childBase: base,
    parent: present,
    parentBase: base,
    target,
    choice,
  });
  return { outcome, target };
}

test('a merge is a plain three-way merge of what child and parent show', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    const some = (most: number) => fc.array(mixed, { minLength: Math.floor(most / 3), maxLength: most });
    const counts = { merged: 0, conflicts: 0 };
    await fc.assert(
      fc.asyncProperty(some(10), some(12), some(10), async (history, ofChild, ofParent) => {
        const one = family(box, box.spec(`r${run++}`, levels), history);
        change(one.child, ofChild);
        change(one.parent, ofParent);
        const [base, child, parent] = [one.base, one.child, one.parent].map(seen) as [Trees, Trees, Trees];
        const { outcome, target } = await merge(box, one);
        const expected = plainMerge(base, child, parent);
        assert.equal(outcome.conflicts.length === 0, expected !== null, JSON.stringify(outcome.conflicts));
        counts[expected === null ? 'conflicts' : 'merged']++;
        if (expected !== null) {
          assert.deepEqual(new Map([...seen(target)].sort()), new Map([...expected].sort()));
          return;
        }
        assert.deepEqual(readdirSync(target.privateDir), []);
        assert.deepEqual(readdirSync(target.whiteoutsDir), []);
        for (const prefer of ['theirs', 'ours'] as const) {
          const again = await merge(box, { ...one, parent: target }, { ...ASK, prefer });
          assert.ok(again.outcome.conflicts.every(({ taken }) => taken === prefer));
          const now = seen(again.target);
          const winner = prefer === 'theirs' ? child : parent;
          for (const path of new Set([...base.keys(), ...winner.keys()]))
            if (winner.get(path) !== base.get(path))
              assert.equal(now.get(path), winner.get(path), `${prefer} ${path}`);
        }
      }),
      randomRuns(60),
    );
    assert.ok(counts.merged > 5 && counts.conflicts > 5, JSON.stringify(counts));
  } finally {
    box.remove();
  }
});

const TREE = { 'd/a': 'a', 'd/b': 'b', 'd/e/f': 'f', 'd/big': 'x'.repeat(300_000), other: 'o', more: 'm' };

test(
  'hard links, renamed directories, attributes and types come over as they are',
  sandboxed(async (box) => {
    const one = family(box, box.spec('a', [await box.unit('one', '1', TREE)]), []);
    const client = new Client(one.child);
    client.link('other', 'linked');
    client.rename('d', 'renamed');
    client.write('renamed/a', 'changed');
    client.unlink('renamed/b');
    client.mkdir('made', 0o700);
    client.mknod('made/fifo', 0o010644);
    client.symlink('/x', 'made/link');
    client.setxattr('more', 'user.note', 'text');
    client.chmod('more', 0o4755);
    client.close();
    const { outcome, target } = await merge(box, one);
    assert.deepEqual(outcome.conflicts, []);
    assert.deepEqual(diffPair(one.child, target).entries, []);
    const merged = new Client(target);
    assert.equal(merged.stat('linked').ino, merged.stat('other').ino);
    assert.equal(merged.stat('other').nlink, 2);
    assert.equal(merged.getxattr('more', 'user.note'), 'text');
    assert.equal(merged.exists('d'), false);
    merged.close();
    // It was renamed, not copied.
    assert.throws(() => lstatSync(join(target.privateDir, 'renamed/big')), { code: 'ENOENT' });
    assert.throws(() => lstatSync(join(target.privateDir, 'renamed/e')), { code: 'ENOENT' });
  }),
);

test(
  'conflicts say why, and paths are answered one by one',
  sandboxed(async (box) => {
    const one = family(box, box.spec('a', [await box.unit('one', '1', TREE)]), []);
    const child = new Client(one.child);
    const parent = new Client(one.parent);
    child.write('other', 'child');
    parent.write('other', 'parent');
    child.unlink('more');
    parent.write('more', 'parent');
    child.write('d/a', 'child');
    parent.unlink('d/a');
    child.write('new', 'child');
    parent.mkdir('new');
    child.chmod('d', 0o700);
    parent.chmod('d', 0o711);
    for (const client of [child, parent]) {
      client.write('d/b', 'the same');
      client.close();
    }
    const { outcome, target: same } = await merge(box, one);
    assert.deepEqual(
      outcome.conflicts.map(({ path, kind }) => `${path} ${kind}`),
      ['/d metadata', '/d/a deleted-by-parent', '/more deleted-by-child', '/new type', '/other changed'],
    );
    const choice: MergeChoice = { prefer: 'ours', ours: ['/d/e'], theirs: ['/d', '/new'] };
    const { target } = await merge(box, { ...one, parent: same }, choice);
    const merged = new Client(target);
    assert.equal(merged.stat('d').mode & 0o777, 0o700);
    for (const [path, text] of Object.entries({
      'd/a': 'child',
      new: 'child',
      other: 'parent',
      more: 'parent',
    }))
      assert.equal(merged.read(path), text, path);
    merged.close();
  }),
);
