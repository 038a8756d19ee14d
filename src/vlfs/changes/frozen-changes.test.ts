/**
 * What has been frozen is the appliance's own: diff, revert and reset of a clone do what they would have done without the clone. The oracle is the
 * same private layer, not frozen.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../../base/index.ts';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import type { VlfsSpec } from '../contract.ts';
import { diffVlfs, resetOffline, revertOffline, whoOwns } from '../index.ts';
import { cloneOf, freeze } from '../test-support/frozen.test-support.ts';
import { answer, vlfsTree } from '../test-support/host.test-support.ts';
import { BASE, type Operation, onVlfs, operation, SECOND } from '../test-support/operations.test-support.ts';
import { Client, makeSandbox, type Sandbox, sandboxed } from '../test-support/vlfs.test-support.ts';

const PATHS = ['', 'a', 'd', 'd/a', 'd/b', 'd/e', 'd/e/a', 'e', 'e/a', 'e/b', 'e/e', 'l', 'c', 'c/a'];
const path = fc.constantFrom(...PATHS).map((at) => `/${at}`);
const change = fc.oneof(fc.record({ revert: path }), fc.record({ reset: fc.array(path, { maxLength: 2 }) }));

type Change = { revert?: string; reset?: string[] };

/** Applies operations to the appliance; refusals do not matter here. */
function change1(spec: VlfsSpec, operations: readonly Operation[]): void {
  const client = new Client(spec);
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

function shown(spec: VlfsSpec): unknown {
  const client = new Client(spec);
  const tree = vlfsTree(client);
  client.close();
  assert.deepEqual(client.faults, []);
  return { tree, changes: diffVlfs(spec), owners: PATHS.map((at) => whoOwns(spec, `/${at}`)) };
}

function apply(spec: VlfsSpec, what: Change): unknown {
  try {
    if (what.revert !== undefined) return new Set(revertOffline(spec, [what.revert]));
    resetOffline(spec, what.reset!);
    return null;
  } catch (error) {
    if (!(error instanceof StrataError)) throw error;
    return error.code;
  }
}

function play(box: Sandbox, spec: VlfsSpec, parts: readonly Operation[][], changes: readonly Change[]): void {
  const plain = box.spec(`${spec.name}-plain`, spec.stack.levels);
  let frozen = spec;
  for (const [i, operations] of parts.entries()) {
    if (i > 0) frozen = freeze(box, frozen);
    change1(frozen, operations);
    change1(plain, operations);
  }
  const clone = cloneOf(box, freeze(box, frozen), `${spec.name}-clone`);
  const before = shown(plain);
  assert.deepEqual(shown(clone), before, 'the clone');
  for (const [i, what] of changes.entries()) {
    const expected = apply(plain, what);
    assert.deepEqual(apply(clone, what), expected, `${i}: ${JSON.stringify(what)}`);
    assert.deepEqual(shown(clone), shown(plain), `after ${i}: ${JSON.stringify(what)}`);
  }
  for (const { privateDir } of [plain, clone]) rmSync(dirname(privateDir), { recursive: true });
}

test('revert and reset of what was frozen are those of the same private layer', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(operation, { minLength: 1, maxLength: 10 }), { minLength: 1, maxLength: 3 }),
        fc.array(change, { minLength: 1, maxLength: 3 }),
        async (parts, changes) => play(box, box.spec(`r${run++}`, levels), parts, changes),
      ),
      randomRuns(60),
    );
  } finally {
    box.remove();
  }
});

const rename = (path: string, to: string): Operation => ({ op: 'rename', path, to, flags: 0 });
const exchange = (path: string, to: string): Operation => ({ op: 'rename', path, to, flags: 2 });
const unlink = (path: string): Operation => ({ op: 'unlink', path });
const mkdir = (path: string): Operation => ({ op: 'mkdir', path });

/** What the random test once found. */
const FOUND: Record<string, [parts: Operation[][], changes: Change[]]> = {
  'a reset that keeps everything, after one that kept nothing, hides no place of what frozen layers had renamed':
    [[[exchange('e/a', 'd')]], [{ reset: [] }, { reset: ['/'] }, { revert: '/' }]],
  'a reset that keeps everything keeps directories that had changed places in a frozen layer': [
    [[exchange('c', 'd')], [unlink('a')]],
    [{ reset: ['/'] }],
  ],
  'a reset that keeps everything keeps a directory that was made in place of a renamed one': [
    [[rename('d', 'a'), mkdir('d')]],
    [{ reset: ['/'] }],
  ],
  'a reset that keeps a directory which two frozen layers have renamed hides its first place': [
    [[rename('e', 'b')], [exchange('b', 'd')]],
    [{ reset: ['/d/e/a'] }],
  ],
  'a reset that keeps a directory hides no place of a renamed one that it has replaced': [
    [[rename('e', 'b')], [{ op: 'remove', path: 'b' }, mkdir('b')]],
    [{ reset: ['/b'] }],
  ],
  'a reset that keeps a renamed directory keeps what was deleted in it hidden': [
    [[{ op: 'write', path: 'c/b' }], [rename('c', 'l')], [unlink('l/b')]],
    [{ reset: ['/l'] }],
  ],
  'a reset that keeps a renamed directory, and what is nowhere, hides nothing in the directory': [
    [[{ op: 'write', path: 'c/b' }], [rename('c', 'l')]],
    [{ reset: ['/l', '/c/a'] }],
  ],
  'a reset that keeps a part of a renamed directory hides the rest': [
    [
      [
        { op: 'write', path: 'd/e/e' },
        { op: 'write', path: 'd/b' },
      ],
      [rename('d', 'l')],
    ],
    [{ reset: ['/l/e'] }],
  ],
  'a reset that keeps something in a directory made in place of a renamed one shows nothing else in it': [
    [[rename('d', 'a')], [mkdir('d')]],
    [{ reset: ['/d/e/a'] }, { reset: [] }],
  ],
  'a revert of directories that changed places tells only what changed': [
    [[{ op: 'write', path: 'd/a' }], [exchange('d', 'e')]],
    [{ revert: '/' }],
  ],
  'what was deleted in a directory that a frozen layer had renamed shows where the directory is brought back, and only there':
    [
      [[rename('d', 'b')], [unlink('b/a')]],
      [{ revert: '/d' }, { revert: '/' }],
    ],
};

test('what was found: revert and reset of what was frozen are those of the same private layer', async (t) => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    for (const [i, [name, [parts, changes]]] of Object.entries(FOUND).entries())
      await t.test(name, () => play(box, box.spec(`found-${i}`, levels), parts, changes));
  } finally {
    box.remove();
  }
});

test(
  'an opaque directory that was frozen: a revert shows the layer in it, and what was added stays',
  sandboxed(async (box) => {
    const levels = [await box.unit('one', '1', { 'd/a': 'a', 'd/b': 'b' })];
    const spec = box.spec('x', levels);
    execFileSync('mkdir', [`${spec.privateDir}/d`]);
    execFileSync('setfattr', ['-n', 'trusted.overlay.opaque', '-v', 'y', `${spec.privateDir}/d`]);
    execFileSync('touch', [`${spec.privateDir}/d/new`]);
    const frozen = freeze(box, spec);
    const clone = cloneOf(box, frozen, 'y');
    assert.deepEqual(revertOffline(clone, ['/d']), ['/d']);
    const tree = (one: VlfsSpec) => Object.keys((shown(one) as { tree: object }).tree);
    assert.deepEqual(tree(clone), ['d', 'd/a', 'd/b', 'd/new']);
    assert.deepEqual(tree(frozen), ['d', 'd/new'], 'the source does not see it');
  }),
);
