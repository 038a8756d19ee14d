/** gc: what must stay stays, what nothing uses goes, beside running commands and after kill -9 at any step. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { tinyArchive } from '../../../test/contract/repository/packages.ts';
import { noProgress } from '../../base/index.ts';
import type { Fleet, GcResult } from '../contract.ts';
import { fakePlane, makeWorld, type World } from '../fleet.test-support.ts';
import { openFleetWith } from '../fleet.ts';
import { inPinScope, pinUnits } from './pins.ts';

const run = promisify(execFile);
const CHILD = join(import.meta.dirname, 'child.test-support.ts');

async function inWorld(body: (w: World) => Promise<void>): Promise<void> {
  const w = await makeWorld();
  try {
    await body(w);
  } finally {
    await w.remove();
  }
}

function counts(result: GcResult): Record<string, number> {
  const some = result.removed.filter(({ count }) => count > 0);
  return Object.fromEntries(some.map(({ kind, count }) => [kind, count]));
}

const generations = (w: World, owner: string) =>
  readdirSync(join(w.root, owner, 'generations'))
    .map(Number)
    .sort((a, b) => a - b);

async function publish(w: World, layer: string, version: number): Promise<void> {
  await w.build(layer, `${version}`, { [`usr/share/${layer}`]: `${version}` });
}

/** Nothing is wrong with any file. */
async function assertClean(fleet: Fleet): Promise<void> {
  const { problems } = await fleet.fsck({}, noProgress);
  assert.deepEqual(problems, []);
}

test('the newest generations stay, and older ones whose config layer others still show', () =>
  inWorld(async (w) => {
    await publish(w, 'base', 1);
    await publish(w, 'tool', 1);
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    await w.fleet.create({ name: 'a', template: 't' }, noProgress);
    const mine = join(w.root, 'appliances/a/private/etc');
    mkdirSync(mine, { recursive: true });
    writeFileSync(join(mine, 'motd'), 'mine');
    // Generation 2 has a config layer of its own; those after it show that one.
    await w.fleet.templateFreeze({ name: 't', from: 'a' }, noProgress);
    await w.fleet.templateCreate({ name: 'child', layers: ['tool'], from: ['t'] }, noProgress);
    for (let version = 2; version <= 8; version++) {
      await publish(w, 'base', version);
      await w.fleet.update({ templates: ['t'] }, noProgress);
    }
    const current = generations(w, 'templates/t').at(-1)!;
    const dry = await w.fleet.gc({ dryRun: true }, noProgress);
    assert.equal(generations(w, 'templates/t').length, current);
    const done = await w.fleet.gc({}, noProgress);
    assert.deepEqual(counts(done), counts(dry));
    assert.equal(done.bytes, dry.bytes);
    assert.ok(done.bytes > 0);
    assert.deepEqual(generations(w, 'templates/t'), [2, ...[4, 3, 2, 1, 0].map((back) => current - back)]);
    assert.deepEqual(counts(await w.fleet.gc({}, noProgress)), {});
    await w.fleet.rollback({ template: 't', generation: current - 4 }, noProgress);
    await w.fleet.gc({ keep: 1 }, noProgress);
    assert.deepEqual(generations(w, 'templates/t'), [2, current + 1]);
    assert.equal(readdirSync(join(w.dir, 'units')).filter((name) => name.startsWith('base_')).length, 8);
    await assertClean(w.fleet);
    await w.reopen();
    await assertClean(w.fleet);
  }));

test('what a mount, a sealed door or a held-back appliance shows stays', () =>
  inWorld(async (w) => {
    await publish(w, 'base', 1);
    await publish(w, 'tool', 1);
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    await w.fleet.create({ name: 'a', template: 't' }, noProgress);
    await w.fleet.create({ name: 'own', template: 't', layers: ['tool'] }, noProgress);
    for (let version = 2; version <= 5; version++) {
      await publish(w, 'base', version);
      await w.fleet.update({ templates: ['t'] }, noProgress);
    }
    // As a sealed mount of generation 2 leaves it.
    const sealed = join(w.root, 'appliances/a/sealed.json');
    writeFileSync(sealed, JSON.stringify({ format: 1, owner: 't', generation: 2, readOnly: false }));
    // As strata-fs records a mount; generation 3.
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    mkdirSync(join(w.root, 'run/mounts'), { recursive: true });
    mkdirSync(join(w.root, 'run/stacks'), { recursive: true });
    const record = { boot, since: 1, id: 'a', mountpoint: '/x', readOnly: false, vlfs: { stack: 'ab.json' } };
    writeFileSync(join(w.root, 'run/mounts/m.json'), JSON.stringify(record));
    const levels = [{ treeDir: join(w.root, 'templates/t/generations/3/config') }];
    writeFileSync(join(w.root, 'run/stacks/ab.json'), JSON.stringify({ key: 'k', levels }));
    await w.fleet.gc({ keep: 1 }, noProgress);
    assert.deepEqual(generations(w, 'templates/t'), [2, 3, 5]);
    rmSync(sealed);
    rmSync(join(w.root, 'run/mounts/m.json'));
    await w.fleet.gc({ keep: 1 }, noProgress);
    assert.deepEqual(generations(w, 'templates/t'), [5]);
    const last = generations(w, 'appliances/own').at(-1);
    assert.deepEqual(generations(w, 'appliances/own'), [last]);
    await assertClean(w.fleet);
  }));

test('mirrored units that nothing uses go, and come back for a rollback; those of a running command stay', () =>
  inWorld(async (w) => {
    const archive = tinyArchive();
    try {
      const offer = async (version: string) => {
        archive.add([
          { name: 'alpha', version, depends: 'beta', bulkBytes: 100_000 },
          { name: 'beta', version },
        ]);
        archive.publish();
        archive.update();
      };
      await offer('1');
      await w.fleet.repoAdd({ name: 'main', source: 'apt:tiny' }, noProgress);
      const options = { layers: ['main/alpha'], from: [], configure: false };
      await w.fleet.templateCreate({ name: 't', ...options }, noProgress);
      for (const version of ['2', '3']) {
        await offer(version);
        await w.fleet.repoSync('main', noProgress);
        await w.fleet.update({}, noProgress);
      }
      const units = () =>
        readdirSync(join(w.root, 'repos/main'))
          .filter((name) => name.includes('_'))
          .sort();
      assert.equal(units().length, 6);
      assert.deepEqual(counts(await w.fleet.gc({}, noProgress)), {});
      await inPinScope(async () => {
        pinUnits(['main/beta 1' as never]);
        const result = await w.fleet.gc({ keep: 2 }, noProgress);
        assert.deepEqual(counts(result), { generations: 1, units: 1 });
        assert.ok(result.bytes > 100_000);
      });
      assert.deepEqual(units(), ['alpha_2', 'alpha_3', 'beta_1', 'beta_2', 'beta_3']);
      await w.fleet.rollback({ template: 't' }, noProgress);
      await w.fleet.gc({ keep: 1 }, noProgress);
      assert.deepEqual(units(), ['alpha_2', 'beta_2']);
      await assertClean(w.fleet);
      await w.fleet.update({}, noProgress);
      assert.deepEqual(units(), ['alpha_2', 'alpha_3', 'beta_2', 'beta_3']);
      await assertClean(w.fleet);
    } finally {
      archive.close();
    }
  }));

test('leftovers of dead processes go, work of the living stays', () =>
  inWorld(async (w) => {
    await publish(w, 'base', 1);
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    await w.fleet.create({ name: 'a', template: 't' }, noProgress);
    const dead = [
      'templates/.tmp-00aa',
      'appliances/.trash-11bb',
      'repos/.trash-x-4194300-5',
      'appliances/a/.tmp-state.json-9',
      'sealed/0a.erofs',
    ];
    for (const path of dead) {
      mkdirSync(join(w.root, path, '..'), { recursive: true });
      if (path.endsWith('.erofs') || path.endsWith('-9')) writeFileSync(join(w.root, path), 'x');
      else mkdirSync(join(w.root, path, 'deep/er'), { recursive: true });
    }
    utimesSync(join(w.root, 'sealed/0a.erofs'), 1000, 1000);
    const source = join(w.dir, 'units');
    mkdirSync(join(source, '.tmp-4194301-0123456789ab'));
    const living = join(source, '.tmp-4194302-0123456789ab');
    mkdirSync(living);
    mkdirSync(join(source, '.tmp-somebodys'));
    // A whiteout set of a unit that is not in the stack.
    const set = join(w.root, 'appliances/a/whiteouts/local/base_0/usr');
    mkdirSync(set, { recursive: true });
    execFileSync('mknod', [join(set, 'gone'), 'c', '0', '0']);
    mkdirSync(join(w.root, 'appliances/a/whiteouts/local/base_1'));
    const holder = execFile('flock', [living, 'sleep', '30']);
    try {
      while (!isLocked(living)) await sleep(20);
      const result = await w.fleet.gc({}, noProgress);
      assert.deepEqual(counts(result), { leftovers: 5, whiteouts: 1, images: 1 });
      for (const path of dead) assert.ok(!existsSync(join(w.root, path)), path);
      assert.deepEqual(readdirSync(join(w.root, 'appliances/a/whiteouts/local')), ['base_1']);
      const left = readdirSync(source).filter((name) => name.startsWith('.'));
      assert.deepEqual(left.sort(), ['.tmp-4194302-0123456789ab', '.tmp-somebodys']);
      await assertClean(w.fleet);
    } finally {
      holder.kill();
    }
  }));

function isLocked(dir: string): boolean {
  try {
    execFileSync('flock', ['-n', dir, 'true']);
    return false;
  } catch {
    return true;
  }
}

test('every life cycle with gc in between keeps everything true', { timeout: 300_000 }, () =>
  inWorld(async (w) => {
    await publish(w, 'base', 1);
    await publish(w, 'other', 1);
    const { fleet } = w;
    let version = 1;
    const steps: (() => Promise<unknown>)[] = [
      () => fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress),
      () => fleet.templateCreate({ name: 'child', layers: ['other'], from: ['t'] }, noProgress),
      () => fleet.create({ name: 'a', template: 't', count: 3 }, noProgress),
      () => fleet.create({ name: 'c', template: 'child' }, noProgress),
      () => fleet.create({ name: 'own', template: 't', layers: ['other'] }, noProgress),
      () => publish(w, 'base', ++version).then(() => fleet.update({}, noProgress)),
      () => fleet.mount({ name: 'a-1', dir: join(w.dir, 'm') }),
      () => publish(w, 'other', ++version).then(() => fleet.update({}, noProgress)),
      () => fleet.templateHold({ name: 't', layer: 'base', held: true }),
      () => fleet.rollback({ template: 't' }, noProgress).catch(() => {}),
      () => publish(w, 'base', ++version).then(() => fleet.update({}, noProgress)),
      () => fleet.umount({ target: 'a-1' }),
      () => fleet.templateFreeze({ name: 't', from: 'a-2' }, noProgress),
      () => fleet.reset({ name: 'a-3', keep: [] }),
      () => fleet.templateAdd({ name: 't', layers: ['other'] }, noProgress).catch(() => {}),
      () => fleet.delete(['own', 'c']),
      () => fleet.templateDelete('child'),
      () => fleet.delete(['a-1', 'a-2', 'a-3']),
    ];
    for (const step of steps) {
      await step();
      await assertClean(fleet);
      await fleet.gc({ keep: 1 }, noProgress);
      await assertClean(fleet);
      const names = [...readdirSync(join(w.root, 'templates')), ...readdirSync(join(w.root, 'appliances'))];
      assert.deepEqual(
        names.filter((name) => name.startsWith('.')),
        [],
      );
      for (const { name } of (await fleet.list()).appliances) await fleet.diff({ name });
    }
  }),
);

test('creates and updates do not wait for gc', { timeout: 300_000 }, () =>
  inWorld(async (w) => {
    // What is moved aside in one turn of the event loop is so under one hold of the lock.
    let inOneTurn = 0;
    let most = 0;
    await w.reopen({
      onStep(step) {
        if (step !== 'gc-aside') return;
        most = Math.max(most, ++inOneTurn);
        setImmediate(() => {
          inOneTurn = 0;
        });
      },
    });
    await publish(w, 'base', 1);
    await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
    // Much to delete: 40 directories of trash with 100 files each, old generations, frozen layers that nobody lists.
    for (let i = 0; i < 40; i++) {
      const dir = join(w.root, `templates/.trash-${i}`);
      mkdirSync(dir);
      for (let k = 0; k < 100; k++) closeSync(openSync(join(dir, `${k}`), 'w'));
    }
    for (let version = 2; version <= 8; version++) {
      await publish(w, 'base', version);
      const { templates } = await w.fleet.update({}, noProgress);
      assert.equal(templates[0]?.to, version, JSON.stringify(templates));
    }
    for (let i = 0; i < 100; i++) mkdirSync(join(w.root, 'frozen', i.toString(16).padStart(12, '0')));
    const creates = async (prefix: string, until: () => boolean): Promise<number[]> => {
      const times: number[] = [];
      for (let i = 0; i < 40 || (i < 2000 && !until()); i++) {
        // As requests come: each in a turn of its own.
        await turn();
        const began = performance.now();
        await w.fleet.create({ name: `${prefix}${i}`, template: 't' }, noProgress);
        times.push(performance.now() - began);
      }
      return times.sort((a, b) => a - b);
    };
    const alone = await creates('alone', () => true);
    let isDone = false;
    const collecting = w.fleet.gc({ keep: 1 }, noProgress).finally(() => {
      isDone = true;
    });
    const beside = await creates('beside', () => isDone);
    const result = await collecting;
    const say = (times: number[]) =>
      `${times.length} creates, median ${times[times.length >> 1]!.toFixed(1)} ms, longest ${times.at(-1)!.toFixed(1)} ms`;
    console.log(`alone:  ${say(alone)}`);
    console.log(`beside: ${say(beside)}; longest hold of a lock by gc ${result.longest_hold_ms} ms`);
    const { generations, frozen } = counts(result);
    assert.deepEqual({ generations, frozen }, { generations: 7, frozen: 100 }, JSON.stringify(result));
    assert.ok(most > 1 && most <= 16, `${most} renames under one lock`);
    await assertClean(w.fleet);
  }),
);

let killed: World;
before(async () => {
  killed = await makeWorld();
  await publish(killed, 'base', 1);
  await publish(killed, 'other', 1);
  await killed.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
  await killed.fleet.create({ name: 'a', template: 't', count: 2 }, noProgress);
  await killed.fleet.create({ name: 'own', template: 't', layers: ['other'] }, noProgress);
  for (const version of [2, 3, 4]) {
    await publish(killed, 'base', version);
    await killed.fleet.update({}, noProgress);
  }
  const set = join(killed.root, 'appliances/a-1/whiteouts/local/gone_1/usr');
  mkdirSync(set, { recursive: true });
  await killed.fleet.close();
});
after(async () => {
  killed.fleet = await killed.reopenClosed();
  await killed.remove();
});

test('gc that is killed at any step leaves a sound state, and the next one finishes', {
  // Some twenty processes one after the other: on a machine with much else to do each takes many seconds.
  timeout: 1_500_000,
}, async () => {
  let wasKilled = 0;
  for (let at = 1; ; at++) {
    const root = join(killed.dir, `killed-${at}`);
    cpSync(killed.root, root, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
    const died = await run(process.execPath, [CHILD, root, String(at)], { timeout: 600_000 }).then(
      () => false,
      (error: { signal?: string }) => {
        assert.equal(error.signal, 'SIGKILL', String(error));
        return true;
      },
    );
    const plane = fakePlane();
    const fleet = await openFleetWith({ root, dataPlane: async () => plane });
    await assertClean(fleet);
    assert.equal((await fleet.list()).appliances.length, 3);
    await fleet.gc({ keep: 1 }, noProgress);
    await assertClean(fleet);
    const world = { ...killed, root };
    assert.deepEqual(generations(world, 'templates/t'), [4]);
    assert.equal(generations(world, 'appliances/own').length, 1);
    assert.deepEqual(readdirSync(join(root, 'appliances')).sort(), ['a-1', 'a-2', 'own']);
    assert.ok(!existsSync(join(root, 'appliances/a-1/whiteouts/local/gone_1')));
    await fleet.close();
    rmSync(root, { recursive: true, force: true });
    if (!died) break;
    wasKilled++;
  }
  assert.ok(wasKilled >= 8, `${wasKilled}`);
});
