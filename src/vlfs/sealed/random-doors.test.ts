/**
 * Random sessions through both doors in turn, with relayers, reverts, resets and freezes (as by a clone) between them. In a session every operation answers
 * as on a plain directory of the host with the same tree, and shows the same afterwards; what a session leaves is, once absorbed, what the plain
 * reference works out from the disk (as long as nothing is frozen).
 */
import assert from 'node:assert/strict';
import * as nodeFs from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../../base/index.ts';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { MNT_DETACH, umount } from '../../sys/index.ts';
import type { StackSpec, VlfsSpec } from '../contract.ts';
import { pruneWhiteouts } from '../index.ts';
import { freeze } from '../test-support/frozen.test-support.ts';
import { answer, answerable, onHost } from '../test-support/host.test-support.ts';
import { type Operation, onVlfs } from '../test-support/operations.test-support.ts';
import { referenceTree } from '../test-support/reference.test-support.ts';
import { Client, makeSandbox, type Sandbox, stackOf } from '../test-support/vlfs.test-support.ts';
import { absorbSealed } from './absorb.ts';
import { mountSealed, releaseSealedImages } from './mount.ts';

const name = fc.constantFrom('a', 'b', 'c', 'd', 'e');
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));

type PlayedOperation = Exclude<Operation, { op: 'remount' }>;

const operation: fc.Arbitrary<PlayedOperation> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ op: fc.constantFrom('write', 'append', 'mkdir'), path }) },
  { weight: 8, arbitrary: fc.record({ op: fc.constantFrom('unlink', 'rmdir', 'remove'), path }) },
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('rename'),
      path,
      to: path,
      flags: fc.constantFrom(0, 0, 0, 1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('link'), path, to: path }) },
) as fc.Arbitrary<PlayedOperation>;

const session = fc.record({
  door: fc.constantFrom('sealed', 'sealed', 'fuse'),
  operations: fc.array(operation, { minLength: 1, maxLength: 10 }),
  after: fc.oneof(
    { weight: 6, arbitrary: fc.constant({ change: 'none' as const }) },
    { weight: 6, arbitrary: fc.record({ change: fc.constant('relayer' as const), stack: fc.nat(5) }) },
    { weight: 4, arbitrary: fc.constant({ change: 'freeze' as const }) },
    { weight: 2, arbitrary: fc.record({ change: fc.constant('revert' as const), path }) },
    { weight: 1, arbitrary: fc.record({ change: fc.constant('reset' as const), keep: path }) },
  ),
});
type Session = typeof session extends fc.Arbitrary<infer T> ? T : never;

function treeOf(root: string, dir = '', into: Record<string, string> = {}): Record<string, string> {
  for (const entry of nodeFs.readdirSync(join(root, dir)).sort()) {
    const at = dir === '' ? entry : `${dir}/${entry}`;
    if (nodeFs.lstatSync(join(root, at)).isDirectory()) {
      into[at] = 'dir';
      treeOf(root, at, into);
    } else into[at] = `file ${nodeFs.readFileSync(join(root, at), 'latin1')}`;
  }
  return into;
}

/** A plain directory with the tree that the VLFS shows, hard links too. */
function copyToHost(c: Client, host: string): void {
  nodeFs.rmSync(host, { recursive: true, force: true });
  nodeFs.mkdirSync(host);
  const byInode = new Map<number, string>();
  for (const [at, what] of Object.entries(c.tree())) {
    const to = join(host, at);
    if (what === 'dir') {
      nodeFs.mkdirSync(to);
      continue;
    }
    const { ino, nlink } = c.stat(at);
    const linked = nlink > 1 ? byInode.get(ino) : undefined;
    if (linked !== undefined) nodeFs.linkSync(linked, to);
    else nodeFs.writeFileSync(to, what.slice('file '.length), 'latin1');
    byInode.set(ino, to);
  }
}

function withClient<T>(spec: VlfsSpec, body: (c: Client) => T): T {
  const c = new Client(spec);
  try {
    return body(c);
  } finally {
    c.close();
    assert.deepEqual(c.faults, []);
  }
}

/** Runs the operations on both; false when the kernel cannot show this private layer, which it must say before it mounts. */
async function sealedSession(
  box: Sandbox,
  spec: VlfsSpec,
  host: string,
  operations: PlayedOperation[],
): Promise<boolean> {
  const dir = join(box.dir, 'mnt');
  nodeFs.mkdirSync(dir, { recursive: true });
  const dataRoots = [join(box.dir, 'repo'), join(box.dir, 'frozen')];
  const options = { spec, imageDir: join(box.dir, 'sealed'), dataRoots };
  try {
    await mountSealed({ ...options, dir, source: 'test' });
  } catch (error) {
    if (error instanceof StrataError && error.code === 'UNSUPPORTED') {
      assert.match(error.message, /was (renamed and (deleted|has been brought back)|replaced and deleted)/);
      absorbSealed(spec);
      return false;
    }
    throw error;
  }
  try {
    assert.deepEqual(treeOf(dir), treeOf(host), 'mounted');
    run(host, operations, (o) => onHost(dir, o));
    assert.deepEqual(treeOf(dir), treeOf(host), 'before the unmount');
  } finally {
    assert.equal(umount(dir, MNT_DETACH), 0);
  }
  absorbSealed(spec);
  return true;
}

function run(host: string, operations: PlayedOperation[], on: (o: PlayedOperation) => unknown): void {
  for (const [i, o] of operations.entries()) {
    if (!answerable(host, o)) continue;
    assert.equal(
      answer(() => on(o)),
      answer(() => onHost(host, o)),
      `${i}: ${JSON.stringify(o)}`,
    );
  }
}

async function play(box: Sandbox, spec: VlfsSpec, stacks: StackSpec[], sessions: Session[]): Promise<void> {
  const host = join(box.dir, 'host');
  let current: VlfsSpec = { ...spec, stack: stacks[0]! };
  withClient(current, (c) => copyToHost(c, host));
  for (const [i, { door, operations, after }] of sessions.entries()) {
    const step = `session ${i}: ${door}`;
    if (door === 'sealed') await sealedSession(box, current, host, operations);
    else withClient(current, (c) => run(host, operations, (o) => onVlfs(c, o)));
    const left = treeOf(host);
    const frozen = current.stack.levels.filter(({ kind }) => kind === 'frozen');
    if (frozen.length === 0) assert.deepEqual(referenceTree(current), left, step);
    withClient(current, (c) => assert.deepEqual(c.tree(), left, step));
    if (after.change === 'none') continue;
    if (after.change === 'freeze') {
      current = freeze(box, current);
      withClient(current, (c) => assert.deepEqual(c.tree(), left, `${step}, frozen`));
      continue;
    }
    if (after.change === 'relayer') {
      const { levels } = stacks[after.stack % stacks.length]!;
      current = { ...current, stack: stackOf([...frozen, ...levels]) };
      pruneWhiteouts(current);
    }
    withClient(current, (c) => {
      if (after.change === 'reset') c.fs.reset([after.keep]);
      if (after.change === 'revert') {
        try {
          c.fs.revert([after.path]);
        } catch (error) {
          if (!(error instanceof StrataError) || error.code !== 'NOT_FOUND') throw error;
        }
      }
      if (frozen.length === 0)
        assert.deepEqual(c.tree(), referenceTree(current), `${step}, ${JSON.stringify(after)}`);
      copyToHost(c, host);
    });
  }
}

/** Found once: the mark of the whole directory took the place of those below, which count for what the config level renamed. */
const DELETED_WHERE_CONFIG_MOVED: Session[] = [
  {
    door: 'fuse',
    operations: [{ op: 'unlink', path: 'e/a' }],
    after: { change: 'relayer', stack: 4 },
  },
  { door: 'sealed', operations: [{ op: 'remove', path: 'e' }], after: { change: 'none' } },
];

/** Found once: what was shown again was one inode with its renamed copy to overlayfs, and the copy was gone. */
const SHOWN_AGAIN_BESIDE_ITS_COPY: Session[] = [
  {
    door: 'sealed',
    operations: [{ op: 'rename', path: 'd/a', to: 'e/a', flags: 0 }],
    after: { change: 'revert', path: 'd' },
  },
  { door: 'sealed', operations: [{ op: 'unlink', path: 'a' }], after: { change: 'none' } },
];

test('both doors in turn, with relayers, reverts and resets between them', async () => {
  const box = makeSandbox();
  try {
    const one1 = await box.unit('one', '1', {
      'd/a': 'one a',
      'd/b': 'one b',
      'd/e/a': 'deep',
      'e/a': 'one',
      'e/b': 'shared',
    });
    const one2 = await box.unit('one', '2', { 'd/a': 'ONE a', 'd/e/b': 'DEEP b', 'e/a': 'E', 'b/a': 'B a' });
    const two1 = await box.unit('two', '1', { 'd/c': 'two c', 'd/e/c': 'deep', 'e/c': 'two', 'c/a': 'c a' });
    const two2 = await box.unit('two', '2', { 'd/c': 'TWO c', 'e/c/a': 'now a directory', c: 'now a file' });
    const maker = box.spec('maker', [two1, one1]);
    withClient(maker, (c) => {
      c.write('d/b', 'configured');
      c.unlink('d/c');
      c.rename('e', 'd/d');
      c.mkdir('e');
      c.write('e/b', 'fresh');
    });
    const config = await box.config('t', maker);
    const levels = [
      [two1, one1],
      [two1, one2],
      [two2, one1],
      [one2],
      [config, two1, one1],
      [config, two2, one2],
    ];
    const stacks = levels.map(stackOf);
    let count = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(session, { minLength: 2, maxLength: 6 }), async (sessions) => {
        const spec = box.spec(`r${count++}`, []);
        await play(box, spec, stacks, sessions);
        nodeFs.rmSync(dirname(spec.privateDir), { recursive: true });
      }),
      {
        ...randomRuns(10),
        examples: [[DELETED_WHERE_CONFIG_MOVED], [SHOWN_AGAIN_BESIDE_ITS_COPY]],
      },
    );
  } finally {
    releaseSealedImages();
    box.remove();
  }
});
