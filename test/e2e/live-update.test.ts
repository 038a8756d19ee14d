/**
 * The promise of the project, through the front door: a new unit of one layer reaches every appliance at once, mounted and busy ones
 * included; no access fails, nothing is half old and half new, files opened before keep the old content.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('live');
after(() => s.remove());

const TEMPLATES = ['t1', 't2', 't3', 't4', 't5'];
const MOUNTED = 10;
const dir = (i: number) => join(s.root, 'view', `${i}`);

/** A layer with two files that must always agree, a program, and a file that only version 1 has. */
async function publish(version: number): Promise<void> {
  const tree = join(s.root, `tree-${version}`);
  mkdirSync(join(tree, 'usr/bin'), { recursive: true });
  mkdirSync(join(tree, 'usr/share/tool'), { recursive: true });
  writeFileSync(join(tree, 'usr/share/tool/a'), `${version}\n`.repeat(5000));
  writeFileSync(join(tree, 'usr/share/tool/z'), `${version}\n`);
  writeFileSync(join(tree, `usr/share/tool/only-${version}`), '');
  writeFileSync(join(tree, 'usr/bin/tool'), `#!/bin/sh\necho ${version}\n`);
  chmodSync(join(tree, 'usr/bin/tool'), 0o755);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'tool', '--version', `${version}`);
}

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await publish(1);
  const base = join(s.root, 'tree-base');
  mkdirSync(join(base, 'etc'), { recursive: true });
  writeFileSync(join(base, 'etc/motd'), 'base\n');
  await s.json('layer', 'build', base, '--repo', 'local', '--name', 'base', '--version', '1');
  for (const t of TEMPLATES) {
    await s.json('template', 'create', t, 'tool', 'base');
    await s.json('create', t, '--template', t, '--count', '10');
  }
  for (let i = 0; i < MOUNTED; i++) {
    mkdirSync(dir(i), { recursive: true });
    await s.json('mount', `${TEMPLATES[i % 5]}-${1 + Math.floor(i / 5)}`, dir(i));
  }
});

/** Reads, stats, lists and executes in a loop in a thread of its own until told to stop; posts what went wrong. */
function busyLoop(mount: string): Worker {
  return new Worker(
    `
    const { parentPort, workerData } = require('node:worker_threads');
    const fs = require('node:fs');
    const { execFileSync } = require('node:child_process');
    const tool = workerData + '/usr/share/tool/';
    let stop = false, rounds = 0, last = 0;
    const problems = [];
    parentPort.on('message', () => { stop = true; });
    function round() {
      try {
        const a = fs.readFileSync(tool + 'a', 'utf8').split('\\n');
        const first = Number(a[0]);
        if (a.some((line) => line !== '' && Number(line) !== first)) problems.push('torn file');
        const z = Number(fs.readFileSync(tool + 'z', 'utf8'));
        if (first < last || z < first) problems.push('went back: ' + last + ' ' + first + ' ' + z);
        last = z;
        fs.statSync(tool + 'a');
        const names = fs.readdirSync(tool).filter((n) => n.startsWith('only-'));
        if (names.length !== 1) problems.push('mixed directory: ' + names);
        if (rounds % 20 === 0) {
          const run = Number(execFileSync(workerData + '/usr/bin/tool', { encoding: 'utf8' }));
          if (run < last) problems.push('old program after new file');
        }
      } catch (error) { problems.push(String(error)); }
      rounds++;
      if (stop) parentPort.postMessage({ rounds, problems: problems.slice(0, 5), last }), parentPort.close();
      else setImmediate(round);
    }
    round();
  `,
    { eval: true, workerData: mount },
  );
}

test('an update of one layer reaches 50 appliances of five templates, ten of them mounted and busy', async () => {
  const held = openSync(join(dir(0), 'usr/share/tool/z'), 'r');
  const loops = [0, 1, 2, 3].map((i) => busyLoop(dir(i)));
  try {
    await sleep(500);
    for (const version of [2, 3, 4]) {
      await publish(version);
      const update = await s.json('update');
      assert.equal(update.templates.length, 5, JSON.stringify(update));
      assert.equal(update.appliances.updated, 50, JSON.stringify(update));
      assert.deepEqual(update.appliances.held_back, []);
      for (let i = 0; i < MOUNTED; i++) {
        assert.equal(readFileSync(join(dir(i), 'usr/share/tool/z'), 'utf8'), `${version}\n`);
      }
      console.log(`update of 50 appliances, 10 mounted and 4 busy: ${update.elapsed_ms} ms`);
      await sleep(300);
    }
    for (const loop of loops) {
      const result = once(loop, 'message');
      loop.postMessage('stop');
      const [{ rounds, problems, last }] = (await result) as [
        { rounds: number; problems: string[]; last: number },
      ];
      assert.deepEqual(problems, []);
      assert.ok(rounds > 20, `only ${rounds} rounds`);
      assert.equal(last, 4);
    }
    const old = Buffer.alloc(8);
    assert.equal(readSync(held, old, 0, 8, 0), 2);
    assert.equal(old.toString('latin1', 0, 2), '1\n');
  } finally {
    for (const loop of loops) await loop.terminate();
    closeSync(held);
  }
});

test('deleting a shared file lasts until its layer is replaced; a private change stays and is reported', async () => {
  const mount = dir(5);
  const name = 't1-2';
  const before = Number(readFileSync(join(mount, 'usr/share/tool/z'), 'utf8'));
  await sh(`rm ${mount}/usr/share/tool/a && echo mine > ${mount}/usr/share/tool/z && rm -r ${mount}/etc`);
  assert.throws(() => statSync(join(mount, 'usr/share/tool/a')), { code: 'ENOENT' });
  const entries = (await s.json('diff', name)).entries as {
    path: string;
    change: string;
    layer: string;
    base_updated: boolean;
  }[];
  const find = (path: string) => entries.find((e) => e.path.replace(/^\//, '') === path);
  assert.equal(find('usr/share/tool/a')?.change, 'deleted');
  assert.equal(find('usr/share/tool/a')?.layer, `local/tool ${before}`);
  assert.equal(find('usr/share/tool/z')?.change, 'changed');
  assert.equal(find('usr/share/tool/z')?.base_updated, false);
  assert.ok(entries.some((e) => e.path.replace(/^\//, '').startsWith('etc') && e.change === 'deleted'));
  await publish(before + 1);
  await s.json('update');
  assert.equal(
    statSync(join(mount, 'usr/share/tool/a')).size > 0,
    true,
    'the new version brings the file back',
  );
  assert.equal(readFileSync(join(mount, 'usr/share/tool/z'), 'utf8'), 'mine\n');
  assert.throws(() => statSync(join(mount, 'etc')), { code: 'ENOENT' });
  const after = (await s.json('diff', name)).entries as { path: string; base_updated: boolean }[];
  assert.equal(after.find((e) => e.path.endsWith('tool/z'))?.base_updated, true);
  await s.json('revert', name, '/usr/share/tool/z');
  assert.equal(readFileSync(join(mount, 'usr/share/tool/z'), 'utf8'), `${before + 1}\n`);
  await s.json('reset', name);
  assert.equal(readFileSync(join(mount, 'etc/motd'), 'utf8'), 'base\n');
  assert.deepEqual((await s.json('diff', name)).entries, []);
});

test('rollback brings the former generation to every appliance; hold keeps a layer', async () => {
  const now = Number(readFileSync(join(dir(1), 'usr/share/tool/z'), 'utf8'));
  await s.json('rollback', 't2');
  assert.equal(Number(readFileSync(join(dir(1), 'usr/share/tool/z'), 'utf8')), now - 1);
  await s.json('template', 'hold', 't2', 'tool');
  await publish(now + 1);
  await s.json('update');
  assert.equal(Number(readFileSync(join(dir(1), 'usr/share/tool/z'), 'utf8')), now - 1);
  assert.equal(Number(readFileSync(join(dir(2), 'usr/share/tool/z'), 'utf8')), now + 1);
});

test('stratad and strata-fs can be killed; the next command finds everything as it was', async () => {
  const status = await s.json('status');
  writeFileSync(join(dir(3), 'kept'), 'private');
  process.kill(status.daemon.pid, 'SIGKILL');
  assert.equal(readFileSync(join(dir(3), 'kept'), 'utf8'), 'private', 'the mounts go on without stratad');
  const list = await s.json('list');
  assert.equal(list.appliances.length, 50);
  assert.equal((await s.json('status')).mounts, MOUNTED);
  await publish(50);
  await s.json('update');
  assert.equal(readFileSync(join(dir(3), 'usr/share/tool/z'), 'utf8'), '50\n');
});

test('after all this the files are sound', async () => {
  for (const args of [['fsck', '--deep'], ['gc', '--keep', '1'], ['fsck']]) {
    const { status, stdout, stderr } = await s.run(args);
    assert.equal(status, 0, stdout + stderr);
  }
});
