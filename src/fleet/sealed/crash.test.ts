/**
 * A stratad that is killed at every step of a sealed mount, of its unmount and of settling: the tree is the one before or after the changes, the next
 * unmount brings the private layer to the form of all doors, and fsck has nothing to say.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { noProgress } from '../../base/index.ts';
import { MNT_DETACH, umount } from '../../sys/index.ts';
import { releaseSealedImages } from '../../vlfs/index.ts';
import type { Fleet } from '../contract.ts';
import { fakePlane, makeWorld, type World } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';
import { treeOf } from './crash.test-support.ts';

const run = promisify(execFile);
const CHILD = join(import.meta.dirname, 'crash-child.test-support.ts');
let w: World;
let view: string;

before(async () => {
  w = await makeWorld();
  view = join(w.dir, 'view');
  await w.build('base', '1', {
    'etc/motd': 'base',
    'etc/gone': 'g',
    'usr/share/man/one': '1',
    'usr/share/man/two': '2',
    'usr/share/doc/base': 'b',
    'opt/kept/file': 'k',
    'opt/other': 'o',
  });
  await w.build('tool', '1', { 'usr/share/doc/tool': 't' });
  await w.fleet.templateCreate({ name: 't', layers: ['base', 'tool'], from: [] }, noProgress);
  await w.fleet.create({ name: 'a', template: 't' }, noProgress);
  // A part that was renamed out of a deleted directory: the next sealed mount must hide where it was.
  await w.fleet.mount({ name: 'a', dir: view, door: 'sealed' });
  execFileSync('sh', ['-c', 'mv opt/kept kept && rm -r opt'], { cwd: view });
  await w.fleet.umount({ target: 'a' });
  await w.fleet.close();
});
after(async () => {
  umount(view, MNT_DETACH);
  releaseSealedImages();
  w.fleet = await w.reopenClosed();
  await w.remove();
});

function open(root: string): Promise<Fleet> {
  const plane = fakePlane();
  return openFleetWith({ root, dataPlane: async () => plane });
}

interface State {
  tree: Record<string, string>;
  diff: unknown;
  /** Device nodes in the private layer. */
  marks: string;
}

/** Runs the child until step `at`; then what a new stratad finds and makes of it. */
async function killedAt(at: number): Promise<State & { steps: string[]; isKilled: boolean; seen: unknown }> {
  const root = join(w.dir, `root-${at}`);
  execFileSync('cp', ['-a', w.root, root]);
  const args = [CHILD, root, view, String(at)];
  const child = await run(process.execPath, args, { timeout: 60_000 }).catch((error) => error);
  const isKilled = child.signal === 'SIGKILL';
  assert.ok(isKilled || child.code === undefined, child.stderr);
  const fleet = await open(root);
  const isMounted = (await fleet.list()).appliances[0]!.mounts.length > 0;
  const seen = isMounted ? treeOf(view) : null;
  if (isMounted) await fleet.umount({ target: 'a' });
  const { entries } = await fleet.diff({ name: 'a' });
  const marks = execFileSync('find', [join(root, 'appliances/a/private'), '-type', 'c', '-printf', '%P\n'], {
    encoding: 'utf8',
  });
  const { problems } = await fleet.fsck({}, noProgress);
  assert.deepEqual(problems, [], `step ${at}`);
  await fleet.mount({ name: 'a', dir: view, door: 'sealed', readOnly: true });
  const tree = treeOf(view);
  await fleet.umount({ target: 'a' });
  await fleet.close();
  rmSync(root, { recursive: true });
  return { tree, diff: entries, marks, steps: child.stdout.split('\n'), isKilled, seen };
}

test('killed at every step: before or after, and settled', { timeout: 300_000 }, async () => {
  const whole = await killedAt(0);
  assert.equal(whole.isKilled, false);
  assert.equal(whole.tree['kept/file'], 'k');
  assert.equal(whole.tree['usr/man/two'], '2');
  assert.equal('opt' in whole.tree || 'usr/man/one' in whole.tree, false);
  const steps = whole.steps.filter(Boolean);
  const changed = steps.indexOf('changed');
  for (const expected of ['sealed: attach', 'absorb: opaque', 'absorb: whiteout'])
    assert.ok(steps.includes(expected), `${expected} is a step: ${steps}`);
  let old: State | null = null;
  for (let at = 1; at <= steps.length; at++) {
    const found = await killedAt(at);
    const what = `killed at step ${at}, ${steps[at - 1]}`;
    assert.equal(found.isKilled, true, what);
    if (found.seen !== null && at > changed) assert.deepEqual(found.seen, whole.tree, what);
    const state = { tree: found.tree, diff: found.diff, marks: found.marks };
    if (at <= changed) {
      old ??= state;
      assert.deepEqual(state, old, what);
    } else {
      assert.deepEqual(state, { tree: whole.tree, diff: whole.diff, marks: whole.marks }, what);
    }
  }
  assert.notDeepEqual(old!.tree, whole.tree);
});
