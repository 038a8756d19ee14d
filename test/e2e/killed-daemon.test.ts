/**
 * kill -9 of stratad at any moment, through the front door: whatever command was under way, the next one finds the state before or after,
 * never between, and the mounted appliance shows the same.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { strataRoot } from '../helpers/strata.ts';

const s = strataRoot('killed');
after(() => s.remove());
const view = join(s.root, 'view');

async function publish(version: number): Promise<void> {
  const tree = join(s.root, 'trees', `${version}`);
  mkdirSync(join(tree, 'usr/share/v'), { recursive: true });
  for (const name of ['a', 'b', 'c']) writeFileSync(join(tree, 'usr/share/v', name), `${version}`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'v', '--version', `${version}`);
}

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await publish(1);
  await s.json('template', 'create', 't', 'v');
  await s.json('create', 'm', '--template', 't');
  await s.json('mount', 'm', view);
});

/** Starts a command, kills stratad after the delay, and waits for the command's end. */
async function interrupted(args: string[], delayMs: number): Promise<void> {
  const { daemon } = await s.json('status');
  const running = s.run(['--json', ...args]);
  await sleep(delayMs);
  process.kill(daemon.pid, 'SIGKILL');
  const { status, stdout } = await running;
  assert.ok(status === 0 || status === 1, `exit ${status}: ${stdout}`);
  if (status === 1) assert.equal(typeof JSON.parse(stdout).error.message, 'string');
}

function seen(): number {
  const versions = ['a', 'b', 'c'].map((name) =>
    Number(readFileSync(join(view, 'usr/share/v', name), 'utf8')),
  );
  assert.equal(new Set(versions).size, 1, `mixed: ${versions}`);
  return versions[0]!;
}

/** The command itself takes about 100 ms to start: the kills spread over what the daemon does after that. */
const delays = Array.from({ length: 6 }, (_, i) => 80 + i * 40);

test('update', async () => {
  let version = 1;
  for (const delay of delays) {
    await publish(version + 1);
    const before = seen();
    await interrupted(['update'], delay);
    const { generation, explicit } = await s.json('template', 'show', 't');
    const now = seen();
    assert.ok(now === before || now === version + 1, `${before} -> ${now}`);
    assert.equal(Number(explicit[0].version), now, 'the template and the mounted appliance agree');
    assert.equal((await s.json('list')).appliances[0].generation, generation);
    await s.json('update');
    assert.equal(seen(), version + 1);
    version++;
  }
});

test('create --count 200: all or none', async () => {
  for (const [i, delay] of delays.entries()) {
    await interrupted(['create', `n${i}`, '--template', 't', '--count', '200'], delay);
    const { appliances } = await s.json('list');
    const made = appliances.filter((a: { name: string }) => a.name.startsWith(`n${i}-`)).length;
    assert.ok(made === 0 || made === 200, `${made} of 200`);
    const onDisk = readdirSync(join(s.root, 'appliances')).filter((name) => name.startsWith(`n${i}-`)).length;
    assert.equal(onDisk, made, 'the catalog agrees with the files');
  }
  const { appliances } = await s.json('list');
  assert.equal(new Set(appliances.map((a: { mac: string }) => a.mac)).size, appliances.length);
  assert.equal(readdirSync(join(s.root, 'machines')).length, appliances.length);
});

test('template create and delete', async () => {
  for (const [i, delay] of delays.entries()) {
    await interrupted(['template', 'create', `x${i}`, 'v'], delay);
    const names = async () =>
      (await s.json('template', 'list')).templates.map((t: { name: string }) => t.name);
    if ((await names()).includes(`x${i}`)) {
      await s.json('create', `x${i}-test`, '--template', `x${i}`);
      await s.json('delete', `x${i}-test`);
      await interrupted(['template', 'delete', `x${i}`], delay);
    }
    if (!(await names()).includes(`x${i}`))
      assert.equal(existsSync(join(s.root, 'templates', `x${i}`)), false);
  }
});

test('layer build: the unit is whole or absent', async () => {
  const tree = join(s.root, 'trees/large');
  mkdirSync(tree, { recursive: true });
  for (let i = 0; i < 300; i++) writeFileSync(join(tree, `f${i}`), `${i}`.repeat(500));
  for (const [i, delay] of delays.entries()) {
    await interrupted(
      ['layer', 'build', tree, '--repo', 'local', '--name', 'large', '--version', `${i}`],
      delay,
    );
    const { layers } = await s.json('layer', 'list', 'local');
    if (layers.some((l: { layer: string; version: string }) => l.layer === 'large' && l.version === `${i}`)) {
      assert.deepEqual((await s.json('layer', 'verify', 'local/large')).problems, []);
      await s.json('layer', 'remove', 'local/large', `${i}`);
    }
  }
});

test('after all this the files are sound', async () => {
  for (const args of [['fsck', '--deep'], ['gc', '--keep', '1'], ['fsck']]) {
    const { status, stdout, stderr } = await s.run(args);
    assert.equal(status, 0, stdout + stderr);
  }
});
