/** A mount whose kernel opens files without telling (`--cache exact`): what strata-fs keeps open is bounded, and nobody who has a file open loses what is in it. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import { writeTreeIndex } from '../layer/index.ts';
import type { LevelSpec, StackSpec } from '../vlfs/contract.ts';
import { dataPlanePid } from './process/client.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

const FILES = 1500;
/** As nodes/opens-on-demand.ts. */
const MOST_OPEN = 512;

async function unit(t: TestPlane, name: string, files: Record<string, string>): Promise<LevelSpec> {
  const treeDir = t.makeDir(`${name}/filesystem`);
  for (const [path, content] of Object.entries(files)) {
    fs.mkdirSync(dirname(join(treeDir, path)), { recursive: true });
    fs.writeFileSync(join(treeDir, path), content);
  }
  const indexFile = join(t.dir, name, 'index');
  await writeTreeIndex(indexFile, treeDir);
  return { kind: 'software', id: `main/${name.replace('_', ' ')}`, treeDir, indexFile, whiteoutsDir: null };
}

const stackOf = (level: LevelSpec): StackSpec => ({ key: level.id, levels: [level] });

async function mounted(t: TestPlane, level: LevelSpec): Promise<string> {
  const mnt = t.makeDir('mnt');
  const [privateDir, whiteoutsDir] = [t.makeDir('private'), t.makeDir('whiteouts')];
  const vlfs = { name: 'm', privateDir, whiteoutsDir, stack: stackOf(level), readOnly: false };
  await t.plane.mount({ id: 'm', mountpoint: mnt, vlfs: { ...vlfs, cache: 'exact' }, readOnly: false });
  return mnt;
}

test('descriptors: the last files that were used, and those without a name until they are closed', async () => {
  await withDataPlane(
    async (t) => {
      const mnt = await mounted(t, await unit(t, 'base_1', { 'd/shared': 'shared' }));
      const descriptors = (): number => fs.readdirSync(`/proc/${dataPlanePid(t.root)}/fd`).length;
      // The kernel learns by the first open.
      assert.equal(fs.readFileSync(join(mnt, 'd/shared'), 'latin1'), 'shared');
      const before = descriptors();
      for (let i = 0; i < FILES; i++) fs.writeFileSync(join(mnt, `d/f${i}`), `${i}`);
      const { kinds, openFiles } = (await t.plane.status()).mounts[0]!;
      assert.ok((kinds['OPEN'] ?? 0) <= 1 && (kinds['RELEASE'] ?? 0) <= 1, JSON.stringify(kinds));
      assert.ok(openFiles <= MOST_OPEN + 1, `${openFiles} are open`);
      const open = Array.from({ length: FILES }, (_, i) => fs.openSync(join(mnt, `d/f${i}`), 'r+'));
      for (let i = 0; i < FILES; i++) fs.unlinkSync(join(mnt, `d/f${i}`));
      assert.ok(descriptors() >= before + FILES, 'each is kept');
      for (const [i, fd] of open.entries()) {
        fs.writeSync(fd, '!', String(i).length);
        assert.equal(fs.fstatSync(fd).nlink, 0);
        assert.equal(fs.readFileSync(fd, 'latin1'), `${i}!`);
        fs.closeSync(fd);
      }
      await until('the others are closed', () => descriptors() <= before + MOST_OPEN);
      assert.deepEqual(fs.readdirSync(join(mnt, 'd')), ['shared']);
    },
    { layered: true },
  );
});

test('who has a file of a layer open reads and writes it on when the layer was replaced and deleted, and after a reset', async () => {
  await withDataPlane(
    async (t) => {
      const old = 'old '.repeat(100_000);
      const one = await unit(t, 'base_1', { 'd/read': old, 'd/write': 'one', 'd/same': 's' });
      const two = await unit(t, 'base_2', { 'd/read': 'new', 'd/write': 'two', 'd/same': 's' });
      const mnt = await mounted(t, one);
      const reader = fs.openSync(join(mnt, 'd/read'), 'r');
      const writer = fs.openSync(join(mnt, 'd/write'), 'r+');
      fs.writeFileSync(join(mnt, 'd/own'), 'own');
      const own = fs.openSync(join(mnt, 'd/own'), 'r+');
      await t.plane.relayer([{ id: 'm', stack: stackOf(two) }]);
      fs.rmSync(join(t.dir, 'base_1'), { recursive: true });
      for (const [name, now] of [
        ['read', 'new'],
        ['write', 'two'],
      ])
        assert.equal(fs.readFileSync(join(mnt, 'd', name!), 'latin1'), now);
      assert.equal(fs.readFileSync(reader, 'latin1'), old);
      fs.writeSync(writer, 'O');
      assert.equal(fs.readFileSync(`/proc/self/fd/${writer}`, 'latin1'), 'One');
      assert.equal(fs.readFileSync(join(mnt, 'd/write'), 'latin1'), 'two');
      await t.plane.reset('m', []);
      assert.equal(fs.existsSync(join(mnt, 'd/own')), false);
      fs.writeSync(own, 'O');
      assert.equal(fs.readFileSync(`/proc/self/fd/${own}`, 'latin1'), 'Own');
      for (const fd of [reader, writer, own]) fs.closeSync(fd);
    },
    { layered: true },
  );
});
