/**
 * strata-fs is killed at every step in which a mounted VLFS goes over to another stack with a fresh private layer (a restore), or with a layer that was merged beside (a merge): programs see
 * each path as before or as after, all of it together, and repeating it ends it.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { LevelSpec } from '../vlfs/contract.ts';
import { ADOPT_FILE, type AdoptFacts, rootFactsOf } from '../vlfs/index.ts';
import { changePrivate, dieAtEachStep, level, MINE, withMount } from './test-support/die-at-each-step.ts';
import type { TestPlane } from './test-support/with-data-plane.ts';

const CHOICE = { prefer: null, ours: [], theirs: [] };

function frozen(t: TestPlane, name: string): LevelSpec {
  const dir = t.makeDir(`frozen/${name}`);
  return {
    kind: 'frozen',
    id: `frozen/${name}`,
    treeDir: join(dir, 'private'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: join(dir, 'whiteouts'),
  };
}

test('another stack with a fresh private layer', async (c) => {
  await withMount(async (t, mnt, control, relayer) => {
    let rounds = 0;
    await dieAtEachStep(c, t, mnt, control, {
      stride: 3,
      atOnce: true,
      onlyLook: true,
      expected: {
        ...MINE,
        'live/a': { before: '1', after: '2' },
        'live/own': { before: 'own', after: null },
      },
      async prepare() {
        rounds++;
        await relayer('1');
        for (const part of ['fresh/private', 'fresh/whiteouts'])
          mkdirSync(join(t.dir, `aside/${rounds}`, part), { recursive: true });
        changePrivate(mnt);
        writeFileSync(join(mnt, 'live/own'), 'own');
      },
      async run() {
        const to = join(t.dir, `aside/${rounds}`);
        const two = await level(t, '2', {});
        const fresh = { from: join(to, 'fresh'), to };
        await t.plane.exchange({ id: 'm', stack: { key: two.id, levels: [two] }, fresh });
        assert.deepEqual(readdirSync(to).sort(), ['fresh', 'private', 'whiteouts']);
        assert.deepEqual(readdirSync(fresh.from), []);
        assert.ok(existsSync(join(to, 'private/live/own')));
      },
    });
  });
});

test('a layer that was merged beside', async (c) => {
  await withMount(async (t, mnt, control) => {
    let rounds = 0;
    await dieAtEachStep(c, t, mnt, control, {
      stride: 3,
      atOnce: true,
      expected: {
        'rev/f': { before: 'shared', after: 'merged' },
        'rev/h': { before: 'shared', after: null },
        'rev/d/g': { before: 'shared', after: 'shared' },
        'live/new': { before: null, after: 'new' },
        'live/own': { before: 'own', after: 'own' },
      },
      async prepare() {
        // The marks of the layer before go with it.
        const to = join(t.dir, `aside/${++rounds}`);
        const fresh = { from: join(to, 'fresh'), to };
        mkdirSync(join(fresh.from, 'private/work'), { recursive: true });
        mkdirSync(join(fresh.from, 'whiteouts'));
        const base = await level(t, '1', {});
        await t.plane.exchange({ id: 'm', stack: { key: base.id, levels: [base] }, fresh });
        // What the freeze leaves to who has it open.
        closeSync(openSync(join(mnt, 'rev/f'), 'r+'));
        writeFileSync(join(mnt, 'live/own'), 'own');
        const { treeDir, whiteoutsDir } = frozen(t, `m${rounds}`);
        for (const dir of ['rev', 'live']) mkdirSync(join(treeDir, dir), { recursive: true });
        writeFileSync(join(treeDir, 'rev/f'), 'merged');
        writeFileSync(join(treeDir, 'live/new'), 'new');
        mkdirSync(join(whiteoutsDir!, 'main/base_1/rev'), { recursive: true });
        execFileSync('mknod', [join(whiteoutsDir!, 'main/base_1/rev/h'), 'c', '0', '0']);
        const root = rootFactsOf(join(t.dir, 'm/private'));
        const facts: AdoptFacts = { removes: ['rev/h'], root, choice: CHOICE };
        writeFileSync(join(t.dir, `frozen/m${rounds}`, ADOPT_FILE), JSON.stringify(facts));
      },
      async run() {
        const one = await level(t, '1', {});
        const levels = [frozen(t, `m${rounds}`), one];
        await t.plane.exchange({ id: 'm', stack: { key: `m${rounds}`, levels }, fresh: null });
        assert.deepEqual(readdirSync(join(t.dir, `frozen/m${rounds}`)).sort(), ['private', 'whiteouts']);
        assert.equal(existsSync(join(t.dir, 'm/private/rev/f')), false);
        assert.deepEqual(readdirSync(join(t.dir, 'm/work')), []);
      },
    });
  });
});

test('what changed meanwhile is refused by its path, and nothing is done', async () => {
  await withMount(async (t, mnt) => {
    writeFileSync(join(mnt, 'rev/f'), 'mine');
    const { treeDir, whiteoutsDir, ...more } = frozen(t, 'm');
    mkdirSync(join(treeDir, 'rev'), { recursive: true });
    mkdirSync(whiteoutsDir!);
    writeFileSync(join(treeDir, 'rev/f'), 'merged');
    const root = rootFactsOf(join(t.dir, 'm/private'));
    const put = (facts: Partial<AdoptFacts>): void =>
      writeFileSync(
        join(t.dir, 'frozen/m', ADOPT_FILE),
        JSON.stringify({ removes: [], root, choice: CHOICE, ...facts }),
      );
    const levels = [{ ...more, treeDir, whiteoutsDir }, await level(t, '1', {})];
    const exchange = (): Promise<void> =>
      t.plane.exchange({ id: 'm', stack: { key: 'm', levels }, fresh: null });
    put({});
    await assert.rejects(exchange(), /\/rev\/f was changed while the merge was made/);
    put({ removes: ['rev'] });
    await assert.rejects(exchange(), { code: 'BUSY' });
    assert.equal((await t.plane.status()).mounts[0]!.stackKey, 'main/base 1');
    assert.deepEqual(readdirSync(join(mnt, 'rev')).sort(), ['d', 'f', 'h']);
    put({ choice: { ...CHOICE, theirs: ['rev'] } });
    await exchange();
    assert.equal(execFileSync('cat', [join(mnt, 'rev/f')]).toString(), 'merged');
  });
});
