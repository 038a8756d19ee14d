/** Clones as the fleet keeps them: records, deletion of either side, gc, fsck, reset. What a clone shows is proven in src/vlfs. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { until } from '../../base/until.test-support.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

let w: World;
const at = (...parts: string[]): string => join(w.root, ...parts);
const frozen = (): string[] => readdirSync(at('frozen')).filter((name) => !name.startsWith('.'));

before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n', 'usr/bin/tool': '1' });
  await w.build('other', '1', { 'usr/bin/other': '1' });
  await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
});
after(() => w.remove());

async function appliance(name: string, files: Record<string, string>): Promise<void> {
  await w.fleet.create({ name, template: 't' }, noProgress);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(at('appliances', name, 'private'), path, '..'), { recursive: true });
    writeFileSync(at('appliances', name, 'private', path), text);
  }
}

async function paths(name: string): Promise<string[]> {
  return (await w.fleet.diff({ name })).entries.map(({ path, change }) => `${change} ${path}`);
}

/** What threads delete is gone. */
async function spaceIsBack(): Promise<void> {
  await until('space comes back', () => readdirSync(at('frozen')).length === 0);
}

async function isClean(): Promise<void> {
  const { problems } = await w.fleet.fsck({}, noProgress);
  assert.deepEqual(problems, []);
}

test('a clone has the changes of its source, and shares them until both are gone', async () => {
  await appliance('a', { 'etc/motd': 'mine\n', 'srv/data': 'x' });
  const changes = await paths('a');
  const cloned = await w.fleet.clone({ source: 'a', name: 'b' }, noProgress);
  assert.deepEqual(
    { ...cloned, mac: '', elapsed_ms: 0 },
    {
      name: 'b',
      mac: '',
      template: 't',
      source: 'a',
      layers: 1,
      elapsed_ms: 0,
    },
  );
  for (const name of ['a', 'b']) {
    assert.deepEqual(await paths(name), changes);
    assert.deepEqual(readdirSync(at('appliances', name, 'private')), []);
    const why = await w.fleet.why({ name, what: '/etc/motd' });
    assert.equal(why.private, true);
    assert.equal(why.unit, 'local/base 1');
  }
  await isClean();
  await assert.rejects(w.fleet.clone({ source: 'a', name: 'b' }, noProgress), { code: 'EXISTS' });
  // Nothing is written in between: nothing more is frozen.
  await w.fleet.clone({ source: 'b', name: 'c' }, noProgress);
  assert.equal(frozen().length, 1);
  // Of another opening, too.
  await w.reopen();
  assert.deepEqual(await paths('c'), changes);
  assert.equal((await w.fleet.gc({}, noProgress)).count, 0);
  await w.fleet.delete(['a']);
  assert.deepEqual(await paths('b'), changes);
  await w.fleet.delete(['b', 'c']);
  assert.deepEqual(frozen(), []);
  await spaceIsBack();
  await isClean();
});

test('clones of clones; a revert and a reset of one do not touch the others', async () => {
  await appliance('d', { 'etc/motd': 'd\n' });
  await w.fleet.clone({ source: 'd', name: 'e' }, noProgress);
  writeFileSync(at('appliances/e/private/e'), 'e');
  await w.fleet.clone({ source: 'e', name: 'f', mode: 'lazy' }, noProgress);
  assert.deepEqual(
    await paths('f'),
    ['added /e', 'changed /etc', 'changed /etc/motd'].filter((one) => one !== 'changed /etc'),
  );
  assert.equal((await w.fleet.show('f')).frozen_layers, 2);
  assert.deepEqual((await w.fleet.revert({ name: 'f', paths: ['/etc/motd'] })).reverted, ['/etc/motd']);
  assert.deepEqual(await paths('f'), ['added /e']);
  assert.deepEqual(await paths('e'), ['added /e', 'changed /etc/motd']);
  await w.fleet.reset({ name: 'e', keep: ['/e'] });
  assert.deepEqual(await paths('e'), ['added /e']);
  await w.fleet.reset({ name: 'e', keep: [] });
  assert.deepEqual(await paths('e'), []);
  assert.equal((await w.fleet.show('e')).frozen_layers, undefined);
  assert.deepEqual(await paths('d'), ['changed /etc/motd']);
  assert.deepEqual(await paths('f'), ['added /e']);
  await isClean();
  await w.fleet.delete(['d', 'e', 'f']);
});

test('an appliance that was unmounted since strata-fs was asked for it is cloned as any other', async () => {
  await appliance('k', { one: '1' });
  await w.fleet.mount({ name: 'k', dir: join(w.dir, 'k') });
  await w.fleet.clone({ source: 'k', name: 'l' }, noProgress);
  writeFileSync(at('appliances/k/private/two'), '2');
  w.plane.mounts = [];
  const { layers } = await w.fleet.clone({ source: 'k', name: 'm', mode: 'lazy' }, noProgress);
  assert.equal(layers, 2);
  assert.deepEqual(await paths('m'), ['added /one', 'added /two']);
  assert.deepEqual(await paths('k'), ['added /one', 'added /two']);
  await isClean();
  await w.fleet.delete(['k', 'l', 'm']);
});

test('layers of its own go along', async () => {
  await w.fleet.create({ name: 'g', template: 't', layers: ['other'] }, noProgress);
  await w.fleet.clone({ source: 'g', name: 'h' }, noProgress);
  await w.fleet.delete(['g']);
  const { layers, ldf } = await w.fleet.show('h');
  assert.equal(layers, 2);
  assert.match(ldf!, /other/);
  await w.reopen();
  assert.equal((await w.fleet.show('h')).layers, 2);
  await isClean();
  await w.fleet.delete(['h']);
});

test('what is left of a clone that never was goes with the next opening or gc', async () => {
  await spaceIsBack();
  mkdirSync(at('frozen/0123456789ab/private'), { recursive: true });
  const { removed } = await w.fleet.gc({}, noProgress);
  assert.equal(removed.find(({ kind }) => kind === 'frozen')?.count, 1);
  mkdirSync(at('frozen/0123456789ab/private'), { recursive: true });
  await w.reopen();
  assert.deepEqual(frozen(), []);
});

test('fsck tells of a frozen layer that is missing', async () => {
  await appliance('i', { x: 'x' });
  await w.fleet.clone({ source: 'i', name: 'j' }, noProgress);
  const state = JSON.parse(readFileSync(at('appliances/j/state.json'), 'utf8')) as {
    frozen: string[];
    parent: string;
  };
  assert.equal(state.parent, 'i');
  const layer = at('frozen', state.frozen[0]!, 'private');
  assert.ok(existsSync(layer));
  const { rmSync } = await import('node:fs');
  rmSync(layer, { recursive: true });
  const { problems, clean } = await w.fleet.fsck({}, noProgress);
  assert.equal(clean, false);
  assert.match(problems.map(({ problem }) => problem).join(), /frozen layer [0-9a-f]{12} is missing/);
  await w.fleet.delete(['i', 'j']);
});
