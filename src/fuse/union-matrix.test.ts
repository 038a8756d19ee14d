/**
 * Every operation on every kind of object of a union (in a layer, in two, copied up, deleted, made anew, renamed), over a real mount beside a plain directory
 * that was made and changed in the same way, while layers are added, exchanged and removed: both answer the same and show the same, and so does the mount when it is
 * made again.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { writeTreeIndex } from '../layer/index.ts';
import type { LevelSpec, StackSpec, VlfsSpec } from '../vlfs/contract.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

/** Between two relayers. */
const PAUSE_MS = 100;
const SCRIPT = join(import.meta.dirname, 'test-support/union-cases.py');

type Case = [at: string, label: string, outcome: unknown, shown: unknown];

async function cases(...args: string[]): Promise<Case[]> {
  const { stdout } = await promisify(execFile)('python3', [SCRIPT, ...args], { maxBuffer: 1 << 28 });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Case);
}

async function layer(t: TestPlane, name: string, fill: (tree: string) => unknown): Promise<LevelSpec> {
  const treeDir = t.makeDir(`units/${name}_1/filesystem`);
  await fill(treeDir);
  const indexFile = join(t.dir, `units/${name}_1/index`);
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: `main/${name} 1`, treeDir, indexFile, whiteoutsDir: null };
}

function assertSame(mount: Case[], plain: Case[]): void {
  assert.equal(mount.length, plain.length);
  const wrong = mount.flatMap((one, i) => {
    const other = plain[i]!;
    return JSON.stringify(one) === JSON.stringify(other) ? [] : [[one, other]];
  });
  assert.deepEqual(
    wrong.slice(0, 20).map(([one]) => one),
    wrong.slice(0, 20).map(([, other]) => other),
    `${wrong.length} of ${mount.length} cases differ`,
  );
}

test('a union mount whose layers change answers as a plain directory does', async () => {
  await withDataPlane(
    async (t) => {
      const plain = t.makeDir('plain');
      await cases('make', plain);
      // The second layer's part of a merged directory lies in the plain one too.
      await cases('make', t.makeDir('other'), 'other');
      await promisify(execFile)('cp', ['-a', `${t.dir}/other/.`, plain]);
      const levels = [
        await layer(t, 'one', (tree) => cases('make', tree)),
        await layer(t, 'two', (tree) => cases('make', tree, 'other')),
      ];
      const live = await Promise.all(
        [1, 2].map((version) =>
          layer(t, `live${version}`, (tree) => {
            for (let i = 0; i < 300; i++) {
              mkdirSync(join(tree, `case-${i * 7}/live-dir`), { recursive: true });
              writeFileSync(join(tree, `case-${i * 7}/live`), String(version));
              writeFileSync(join(tree, `case-${i * 7}/live-dir/${version}`), '');
            }
          }),
        ),
      );
      const stacks: StackSpec[] = [
        levels,
        [live[0]!, ...levels],
        [live[1]!, ...levels],
        [...levels, live[0]!],
      ].map((all, i) => ({ key: `stack ${i}`, levels: all }));
      const spec = (stack: StackSpec): VlfsSpec => ({
        name: 'union',
        privateDir: t.makeDir('appliance/private'),
        whiteoutsDir: t.makeDir('appliance/whiteouts'),
        stack,
        readOnly: false,
      });
      const mnt = t.makeDir('mnt');
      await t.plane.mount({ id: 'union', mountpoint: mnt, vlfs: spec(stacks[0]!), readOnly: false });

      let isOver = false;
      let relayers = 0;
      const whileLayersChange = async <T>(work: Promise<T>): Promise<T> => {
        isOver = false;
        const done = work.finally(() => {
          isOver = true;
        });
        done.catch(() => {});
        while (!isOver) {
          relayers++;
          await t.plane.relayer([{ id: 'union', stack: stacks[relayers % stacks.length]! }]);
          await delay(PAUSE_MS);
        }
        return done;
      };
      await cases('prepare', plain);
      await whileLayersChange(cases('prepare', mnt));
      const expected = await cases('run', plain);
      assertSame(await whileLayersChange(cases('run', mnt)), expected);
      // Each of the two begins with one.
      assert.ok(relayers > 2, `${relayers} relayers`);

      const left = await cases('dump', plain);
      assertSame(await cases('dump', mnt), left);
      await t.plane.unmount(mnt, { force: false });
      await t.plane.mount({ id: 'union', mountpoint: mnt, vlfs: spec(stacks[0]!), readOnly: false });
      assertSame(await cases('dump', mnt), left);
    },
    { layered: true },
  );
});
