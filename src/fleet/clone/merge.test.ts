/** Merges of frozen layers as the fleet does them: modes, one merge for all with the same line, mounts, what a kill leaves, space. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { noProgress, StrataError } from '../../base/index.ts';
import { until } from '../../base/until.test-support.ts';
import type { Fleet } from '../contract.ts';
import { fakePlane, makeWorld, type World } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';

let w: World;
const at = (...parts: string[]): string => join(w.root, ...parts);

before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n', 'usr/bin/tool': '1', 'usr/bin/other': '1' });
  await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
});
after(() => w.remove());

function write(name: string, files: Record<string, string>, root = w.root): void {
  for (const [path, text] of Object.entries(files)) {
    const file = join(root, 'appliances', name, 'private', path);
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, text);
  }
}

/** A line of clones: PREFIX-0, PREFIX-1, ... each with a file of its own and a changed one. */
async function line(prefix: string, length: number): Promise<void> {
  await w.fleet.create({ name: `${prefix}-0`, template: 't' }, noProgress);
  for (let i = 0; ; i++) {
    write(`${prefix}-${i}`, { [`srv/${i}`]: `${i}`, 'etc/motd': `${i}\n` });
    if (i === length) return;
    await w.fleet.clone({ source: `${prefix}-${i}`, name: `${prefix}-${i + 1}`, mode: 'lazy' }, noProgress);
  }
}

const listed = (name: string, root = w.root): string[] =>
  (JSON.parse(readFileSync(join(root, 'appliances', name, 'state.json'), 'utf8')) as { frozen?: string[] })
    .frozen ?? [];
const onDisk = (root = w.root): string[] =>
  readdirSync(join(root, 'frozen')).filter((name) => !name.startsWith('.'));

async function paths(name: string, fleet = w.fleet): Promise<string[]> {
  return (await fleet.diff({ name })).entries.map(({ path, change }) => `${change} ${path}`);
}

async function isClean(): Promise<void> {
  assert.deepEqual((await w.fleet.fsck({}, noProgress)).problems, []);
}

test('lazy leaves the layers, sync merges them, async does it in the background; all show the same', async () => {
  await line('a', 3);
  const changes = await paths('a-3');
  assert.equal(listed('a-3').length, 3);
  const { elapsed_ms: _, ...cloned } = await w.fleet.clone(
    { source: 'a-3', name: 'lazy', mode: 'lazy' },
    noProgress,
  );
  assert.equal(cloned.layers, 4);
  assert.equal(listed('lazy').length, 4);
  const seen: string[] = [];
  await w.fleet.clone({ source: 'lazy', name: 'sync', mode: 'sync' }, ({ phase, done, total }) => {
    seen.push(`${phase} ${done} of ${total}`);
  });
  assert.ok(seen.includes('merge frozen layers 4 of 4'), seen.join());
  assert.equal(listed('sync').length, 1);
  assert.deepEqual(listed('lazy'), listed('sync'), 'all with the same line have the same layer');
  assert.equal(listed('a-3').length, 4, 'what it wrote itself is never merged with what it inherited');
  for (const name of ['a-3', 'lazy', 'sync']) assert.deepEqual(await paths(name), changes);
  assert.equal(listed('a-2').length, 3, 'another line');
  write('sync', { 'srv/more': 'm' });
  await w.fleet.clone({ source: 'sync', name: 'async' }, noProgress);
  await until('the background merges', () => listed('async').length === 1);
  assert.deepEqual(await paths('async'), [...changes, 'added /srv/more'].sort(byPath));
  await isClean();
  await w.fleet.delete(['lazy', 'sync', 'async', 'a-0', 'a-1', 'a-2', 'a-3']);
  await until('space comes back', () => readdirSync(at('frozen')).length === 0);
});

const byPath = (a: string, b: string): number => (a.split(' ')[1]! < b.split(' ')[1]! ? -1 : 1);

test('a hundred clones merge once; who removed something meanwhile keeps its layers', async () => {
  await line('b', 2);
  for (let i = 0; i < 8; i++)
    await w.fleet.clone({ source: 'b-2', name: `many-${i}`, mode: 'lazy' }, noProgress);
  // What the appliance itself has hidden means something only beside the layers themselves.
  const id = listed('many-3')[0]!;
  mkdirSync(at('appliances/many-3/whiteouts/frozen', id, 'srv'), { recursive: true });
  execFileSync('mknod', [at('appliances/many-3/whiteouts/frozen', id, 'srv/2'), 'c', '0', '0']);
  const without = await paths('many-3');
  assert.equal(without.includes('added /srv/2'), false);
  let layers = 0;
  await w.fleet.clone({ source: 'many-0', name: 'many', mode: 'sync' }, ({ phase }) => {
    if (phase === 'merge frozen layers') layers++;
  });
  assert.equal(layers, 3, 'begun, and two layers');
  const lists = [0, 1, 2, 4, 5, 6, 7].map((i) => listed(`many-${i}`).join());
  assert.equal(new Set(lists).size, 1);
  assert.equal(listed('many-7').length, 1);
  assert.equal(listed('many-3').length, 3);
  assert.deepEqual(await paths('many-3'), without);
  // Its next clone freezes the mark, and then it takes part.
  await w.fleet.clone({ source: 'many-3', name: 'many-3a', mode: 'sync' }, noProgress);
  assert.equal(listed('many-3a').length, 1);
  assert.deepEqual(await paths('many-3a'), without);
  assert.deepEqual(await paths('many-3'), without);
  await isClean();
  assert.equal((await w.fleet.gc({}, noProgress)).count, 0);
});

test('a mount follows by a relayer; when it refuses, it keeps what it had', async () => {
  await line('c', 2);
  await w.fleet.clone({ source: 'c-2', name: 'c-3', mode: 'lazy' }, noProgress);
  await w.fleet.clone({ source: 'c-3', name: 'c-4', mode: 'lazy' }, noProgress);
  const { relayer } = w.plane;
  for (const name of ['c-3', 'c-4'])
    await w.plane.mount({
      id: name,
      mountpoint: `/${name}`,
      vlfs: { stack: { key: name, levels: [] } },
    } as never);
  w.plane.relayer = async (changes) => {
    if (changes.some(({ id }) => id === 'c-4')) throw new StrataError('BUSY', 'it has removed something');
    await relayer(changes);
  };
  const before = listed('c-4');
  await mergeNow('c-3');
  assert.deepEqual(listed('c-4'), before);
  assert.equal(listed('c-3').length, 1);
  const levels = w.plane.relayers.at(-1)!.find(({ id }) => id === 'c-3')!.stack.levels;
  assert.deepEqual(
    levels[0]!.mergedFrom,
    before.map((id) => `frozen/${id}`),
  );
  w.plane.relayer = relayer;
  w.plane.mounts = [];
  await isClean();
});

/** Merges what an appliance has without a further clone: as after an opening. */
async function mergeNow(name: string): Promise<void> {
  writeFileSync(at('frozen/.merging'), JSON.stringify({ names: [name] }));
  await w.reopen();
  await until(`${name} is merged`, () => listed(name).length === 1);
  await until('nothing waits', () => !existsSync(at('frozen/.merging')));
}

function open(root: string, onStep: (step: string) => void = () => {}): Promise<Fleet> {
  const plane = fakePlane();
  return openFleetWith({ root, dataPlane: async () => plane }, { onStep });
}

test('killed at every step: each appliance has the layers or the merged one, and shows the same', async () => {
  await line('d', 2);
  await w.fleet.clone({ source: 'd-2', name: 'd-3', mode: 'lazy' }, noProgress);
  const changes = await paths('d-3');
  const before = listed('d-3');
  await w.fleet.delete(['d-0', 'd-1', 'd-2']);
  await w.fleet.close();
  try {
    await killedAtEveryStep(changes, before);
  } finally {
    w.fleet = await w.reopenClosed();
  }
});

async function killedAtEveryStep(changes: string[], before: string[]): Promise<void> {
  const run = join(w.dir, 'run');
  const taken: string[] = [];
  const steps: string[] = [];
  // With the very times: a clone compares those of root directories.
  spawnSync('cp', ['-a', w.root, run]);
  const fleet = await open(run, (step) => {
    // A clone is killed at every step elsewhere.
    if (taken.length === 0 && step !== 'merge-layer') return;
    // Of two exchanges the first is looked at.
    if (steps.includes(step)) return;
    const copy = join(w.dir, `at-${taken.length}`);
    // Hard links are what a merge makes; its thread goes on meanwhile, in a directory that nobody has seen yet.
    spawnSync('cp', ['-a', run, copy]);
    taken.push(copy);
    steps.push(step);
  });
  await fleet.clone({ source: 'd-3', name: 'd-4', mode: 'sync' }, noProgress);
  await fleet.close();
  for (const step of ['merge-layer', 'merge-built', 'merge-exchange', 'record', 'merge-exchanged'])
    assert.ok(steps.includes(step), `${step} is a step: ${steps.join()}`);
  let merged = 0;
  for (const [i, root] of taken.entries()) {
    const again = await open(root);
    const at = `killed at ${steps[i]}`;
    const names = (await again.list()).appliances
      .map(({ name }) => name)
      .filter((name) => /^d-[34]$/.test(name));
    for (const name of names) {
      assert.deepEqual(await paths(name, again), changes, at);
      if (listed(name, root).length === 1) merged++;
      else assert.deepEqual(listed(name, root), before, at);
    }
    if (i % 5 === 0) assert.deepEqual((await again.fsck({}, noProgress)).problems, [], at);
    await again.close();
    assert.equal(
      readdirSync(join(root, 'frozen')).some((name) => name.startsWith('.tmp-')),
      false,
      at,
    );
    rmSync(root, { recursive: true });
  }
  assert.ok(merged > 0);
  rmSync(run, { recursive: true });
}

test('a template freeze takes frozen layers along', async () => {
  await w.fleet.templateCreate({ name: 'u', layers: ['base'], from: [] }, noProgress);
  await w.fleet.create({ name: 'e', template: 'u' }, noProgress);
  write('e', { 'etc/motd': 'e\n', 'etc/conf': 'first', 'etc/secret': 's', 'usr/bin/tool': 'secret' });
  for (const path of ['etc/secret', 'usr/bin/tool'])
    execFileSync('setfattr', [
      '-n',
      'trusted.strata.nonclonable',
      '-v',
      'y',
      at('appliances/e/private', path),
    ]);
  await w.fleet.clone({ source: 'e', name: 'f', mode: 'lazy' }, noProgress);
  write('f', { 'etc/conf': 'second', 'srv/f': 'f' });
  const [id] = listed('f');
  mkdirSync(at('appliances/f/whiteouts/frozen', id!, 'etc'), { recursive: true });
  mkdirSync(at('appliances/f/whiteouts/local/base_1/etc'), { recursive: true });
  for (const set of [`frozen/${id}`, 'local/base_1'])
    execFileSync('mknod', [at('appliances/f/whiteouts', set, 'etc/motd'), 'c', '0', '0']);
  const changes = await paths('f');
  assert.ok(changes.includes('deleted /etc/motd') && changes.includes('added /srv/f'), changes.join());
  await w.fleet.templateFreeze({ name: 'u', from: 'f' }, noProgress);
  assert.deepEqual(await paths('f'), []);
  assert.deepEqual(listed('f'), []);
  assert.equal(listed('e').length, 1, 'its source still has its layer');
  const config = at('templates/u/current/config');
  assert.equal(readFileSync(join(config, 'etc/conf'), 'utf8'), 'second');
  assert.equal(existsSync(join(config, 'etc/motd')), false);
  const secret = statSync(join(config, 'etc/secret'));
  assert.ok(secret.isCharacterDevice(), 'what the clone did not get is not in the template');
  assert.ok(statSync(join(config, 'usr/bin/tool')).isCharacterDevice());
  const marks = at('templates/u/current/whiteouts/local/base_1/etc/motd');
  assert.ok(existsSync(marks), 'what was deleted is deleted for all');
  const its = ['changed /etc/conf', 'added /etc/motd', 'added /etc/secret', 'added /usr/bin/tool'];
  assert.deepEqual(await paths('e'), its, 'its source has what it had');
  await isClean();
  await w.fleet.delete(['e']);
  await until('the source’s layer goes', () => !onDisk().includes(id!));
});
