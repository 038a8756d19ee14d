/**
 * A crash at every boundary between two changes on disk, for every command that changes state: after the next opening the state is the
 * one before the command or the one after it, and nothing is left over.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { noProgress } from '../base/index.ts';
import type { Fleet } from './contract.ts';
import { COMMANDS } from './crash-commands.test-support.ts';
import { fakePlane, makeWorld, type World } from './fleet.test-support.ts';
import { openFleetWith } from './fleet.ts';

const run = promisify(execFile);
const CHILD = join(import.meta.dirname, 'crash-child.test-support.ts');
let w: World;

before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n' });
  await w.build('tool', '1', { 'usr/bin/tool': '1' }, { depends: 'base' });
  await w.build('other', '1', { 'usr/bin/other': '1' });
  await w.fleet.templateCreate({ name: 't', layers: ['tool'], from: [] }, noProgress);
  await w.fleet.templateCreate({ name: 'two', layers: ['other'], from: [] }, noProgress);
  await w.fleet.templateAdd({ name: 'two', layers: ['base'] }, noProgress);
  await w.fleet.create({ name: 'a', template: 't' }, noProgress);
  await w.fleet.create({ name: 'own', template: 't', layers: ['other'] }, noProgress);
  await w.build('tool', '2', { 'usr/bin/tool': '2' }, { depends: 'base' });
  const dir = join(w.root, 'appliances/a');
  mkdirSync(join(dir, 'private/etc'), { recursive: true });
  writeFileSync(join(dir, 'private/etc/conf'), 'mine');
  mkdirSync(join(dir, 'whiteouts/local/tool_1/usr/bin'), { recursive: true });
  execFileSync('mknod', [join(dir, 'whiteouts/local/tool_1/usr/bin/tool'), 'c', '0', '0']);
  await makeFamily();
  await w.fleet.close();
});
after(async () => {
  w.fleet = await w.reopenClosed();
  await w.remove();
});

/** A clone with a snapshot, and changes since in it and in its parent. */
async function makeFamily(): Promise<void> {
  const write = (name: string, path: string, text: string): void => {
    mkdirSync(join(w.root, 'appliances', name, 'private/srv'), { recursive: true });
    writeFileSync(join(w.root, 'appliances', name, 'private/srv', path), text);
  };
  await w.fleet.templateCreate({ name: 'families', layers: ['other'], from: [] }, noProgress);
  await w.fleet.create({ name: 'parent', template: 'families' }, noProgress);
  write('parent', 'both', 'base');
  await w.fleet.clone({ source: 'parent', name: 'child' }, noProgress);
  write('parent', 'parent', 'parent');
  write('child', 'snapshot', 'snapshot');
  await w.fleet.snapshot({ name: 'child', snapshot: 'before' });
  write('child', 'both', 'child');
}

/** What a person can see of the state, without times and addresses. */
async function picture(fleet: Fleet, root: string): Promise<Record<string, unknown>> {
  const templates: Record<string, unknown> = {};
  for (const { name } of (await fleet.templateList()).templates) {
    const { ldf, generation } = await fleet.templateShow(name);
    const { units, configs } = JSON.parse(
      readFileSync(join(root, 'templates', name, 'current/stack.json'), 'utf8'),
    );
    const generations = readdirSync(join(root, 'templates', name, 'generations')).sort();
    templates[name] = { ldf, generation, units, configs, generations };
  }
  const appliances: Record<string, unknown> = {};
  for (const { name, mac, held_back, generation } of (await fleet.list()).appliances) {
    const dir = join(root, 'appliances', name);
    assert.equal(readFileSync(join(root, 'machines', mac, 'state.json'), 'utf8').includes(`"${name}"`), true);
    const { entries } = await fleet.diff({ name });
    // What was frozen for a clone that never came is the appliance's own as before.
    const { frozen = [] } = JSON.parse(readFileSync(join(dir, 'state.json'), 'utf8')) as {
      frozen?: string[];
    };
    const parts = (part: string): string[] =>
      [dir, ...frozen.map((id) => join(root, 'frozen', id))].map((one) => join(one, part)).filter(existsSync);
    const whiteouts = parts('whiteouts/local').flatMap((one) => readdirSync(one));
    const ldf = readFileSync(join(dir, 'ldf'), 'utf8');
    const own = parts('private').flatMap((one) => readdirSync(one));
    appliances[name] = { held_back, generation, ldf, private: own, whiteouts, entries };
  }
  const family = (await fleet.tree({})).appliances.map(({ name, parent, snapshots: all }) => [
    name,
    parent,
    all.map((one) => one.name),
  ]);
  assert.deepEqual(readdirSync(join(root, 'journal')), []);
  assert.deepEqual(readdirSync(join(root, 'appliances')).sort(), Object.keys(appliances).sort());
  assert.deepEqual(readdirSync(join(root, 'templates')).sort(), Object.keys(templates).sort());
  const frozen = readdirSync(join(root, 'frozen')).filter((name) => !name.startsWith('.'));
  assert.equal(frozen.length > 0, frozenOf(root).length > 0);
  assert.equal(readdirSync(join(root, 'machines')).length, Object.keys(appliances).length);
  return { templates, appliances, family };
}

/** Frozen layers that appliances list. */
function frozenOf(root: string): string[] {
  const states = readdirSync(join(root, 'appliances')).map((name) =>
    JSON.parse(readFileSync(join(root, 'appliances', name, 'state.json'), 'utf8')),
  ) as { frozen?: string[] }[];
  return states.flatMap(({ frozen = [] }) => frozen);
}

async function open(root: string): Promise<Fleet> {
  const plane = fakePlane();
  return openFleetWith({ root, dataPlane: async () => plane });
}

/** The state of `root` once it is opened again, as after a crash. The root is used up. */
async function recovered(root: string): Promise<Record<string, unknown>> {
  const fleet = await open(root);
  const state = await picture(fleet, root);
  await fleet.close();
  rmSync(root, { recursive: true, force: true });
  return state;
}

function copyOf(from: string, name: string): string {
  const to = join(w.dir, name);
  cpSync(from, to, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
  return to;
}

/**
 * Runs the command once in a copy of the state root and copies that at every step: each copy is what a kill at that instant leaves.
 * Gives the names of the steps and the copies.
 */
async function snapshots(command: string): Promise<{ step: string; root: string }[]> {
  const root = copyOf(w.root, `run-${command}`);
  const taken: { step: string; root: string }[] = [];
  let isArmed = false;
  const plane = fakePlane();
  const fleet = await openFleetWith(
    { root, dataPlane: async () => plane },
    {
      onStep(step) {
        if (isArmed) taken.push({ step, root: copyOf(root, `at-${command}-${taken.length}`) });
      },
    },
  );
  isArmed = true;
  await COMMANDS[command]!(fleet);
  isArmed = false;
  await fleet.close();
  taken.push({ step: 'end', root });
  return taken;
}

for (const command of Object.keys(COMMANDS)) {
  test(`${command}: before or after, at every step`, { timeout: 300_000 }, async () => {
    const old = await recovered(copyOf(w.root, `old-${command}`));
    const taken = await snapshots(command);
    const done = await recovered(taken.pop()!.root);
    assert.notDeepEqual(done, old);
    const seen = { old: 0, done: 0, between: 0 };
    for (const { step, root } of taken) {
      const state = await recovered(root);
      if (JSON.stringify(state) === JSON.stringify(old)) seen.old++;
      else if (JSON.stringify(state) === JSON.stringify(done)) seen.done++;
      else if (command === 'update') checkPartOfUpdate(state, old, done, seen);
      else assert.deepEqual(state, done, `step ${step}`);
    }
    assert.ok(seen.old > 0 && seen.done > 0, JSON.stringify(seen));
  });
}

test('a clone that was acknowledged is there after any kill', async () => {
  const root = copyOf(w.root, 'run-acknowledged');
  const taken: string[] = [];
  let isMade = false;
  const plane = fakePlane();
  const onStep = (): void => {
    if (isMade) taken.push(copyOf(root, `at-acknowledged-${taken.length}`));
  };
  const fleet = await openFleetWith({ root, dataPlane: async () => plane }, { onStep });
  await fleet.clone({ source: 'a', name: 'b', mode: 'lazy' }, noProgress).then(() => {
    isMade = true;
  });
  await fleet.close();
  assert.ok(taken.length > 0, 'something is left to do after the answer');
  for (const one of taken) assert.ok('b' in ((await recovered(one))['appliances'] as object));
});

test('a process that is really killed leaves the state before or after', async () => {
  const old = await recovered(copyOf(w.root, 'old'));
  for (const at of [4, 9]) {
    const root = copyOf(w.root, `kill-${at}`);
    const child = run(process.execPath, [CHILD, root, 'template-create', String(at)], { timeout: 60_000 });
    await assert.rejects(child, { signal: 'SIGKILL' });
    const state = await recovered(root);
    const isNew = 'new' in (state['templates'] as object);
    if (!isNew) assert.deepEqual(state, old);
  }
});

/** An update is one step for each template and each appliance with own layers, so each of them is before or after. */
function checkPartOfUpdate(
  state: Record<string, unknown>,
  old: Record<string, unknown>,
  done: Record<string, unknown>,
  seen: { between: number },
): void {
  for (const part of ['templates', 'appliances']) {
    const of = (from: Record<string, unknown>) => from[part] as Record<string, unknown>;
    for (const [name, value] of Object.entries(of(state))) {
      const text = JSON.stringify(value);
      const isWhole = text === JSON.stringify(of(old)[name]) || text === JSON.stringify(of(done)[name]);
      assert.ok(isWhole, `${name}: ${text}`);
    }
  }
  seen.between++;
}
