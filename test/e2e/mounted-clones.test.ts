/**
 * Clones of mounted appliances that programs write in, while the clones are written too: each clone is its source at one instant, nobody sees what the other
 * writes, and no program sees an error, also when strata-fs and stratad are killed meanwhile.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../src/base/until.test-support.ts';
import { createClient } from '../../src/client/index.ts';
import { mapShared } from '../../src/sys/index.ts';
import { killNow, pidIn, succeeded } from '../helpers/kills.ts';
import { project, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('mounted-clones');
const client = createClient({ root: s.root });
const KINDS = ['log', 'rename', 'map', 'files'];
const view = (name: string): string => join(s.root, 'views', name);

async function mount(name: string, cache: 'shared' | 'exact' = 'shared'): Promise<void> {
  mkdirSync(view(name), { recursive: true });
  await client.call('mount', { name, dir: view(name), cache });
}

const running = new Set<ChildProcess>();
after(() => {
  for (const child of running) child.kill('SIGKILL');
  return s.remove();
});

/** Programs at work in an appliance. The result ends them and waits for their checks. */
async function writersIn(name: string, kinds = KINDS): Promise<() => Promise<void>> {
  const children = kinds.map((kind) =>
    spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        join(project, 'test/helpers/clone-writer.ts'),
        kind,
        join(view(name), `work-${name}`, kind),
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    ),
  );
  for (const child of children) running.add(child);
  await Promise.all(children.map((child) => once(child.stdout!, 'data')));
  const ends = children.map((child: ChildProcess) => succeeded(child));
  for (const end of ends) end.catch(() => {});
  return async () => {
    for (const child of children) child.stdin!.end();
    await Promise.all(ends);
  };
}

/** What the rules of the writers say of any instant: of those in the appliance, and those that it inherited the work of. */
function check(name: string): void {
  for (const work of readdirSync(view(name)).filter((one) => one.startsWith('work-')))
    checkWork(`${name}: ${work}`, join(view(name), work));
}

function checkWork(name: string, dir: string): void {
  const at = (...parts: string[]): string => join(dir, ...parts);
  const lines = (file: string): number => {
    const text = readFileSync(at('log', file), 'utf8');
    const count = text.length / 10;
    assert.ok(Number.isInteger(count), `${name}: ${file} has whole lines`);
    for (let n = Math.max(0, count - 500); n < count; n++)
      assert.equal(text.slice(n * 10, n * 10 + 9), String(n).padStart(9, '0'), `${name}: ${file}`);
    return count;
  };
  const [one, two] = [lines('one'), lines('two')];
  assert.ok(one - two === 0 || one - two === 1, `${name}: logs of ${one} and ${two} lines`);
  const numbers = ['first', 'second'].map((file) => Number(readFileSync(at('rename', file), 'utf8')));
  assert.ok(numbers[0]! - numbers[1]! === 0 || numbers[0]! - numbers[1]! === 1, `${name}: ${numbers}`);
  for (const file of readdirSync(at('files'))) {
    const data = readFileSync(at('files', file));
    const [n] = data.toString('latin1').split('.');
    if (data.length > 8) assert.ok(data.equals(Buffer.alloc(data.length, `${n}.`)), `${name}: ${file}`);
  }
  if (!existsSync(at('map'))) return;
  const mapped = readFileSync(at('map', 'mapped'));
  const pages = [mapped.readUInt32LE(0), mapped.readUInt32LE(4096)];
  assert.ok(pages[0]! - pages[1]! === 0 || pages[0]! - pages[1]! === 1, `${name}: pages ${pages}`);
}

before(async () => {
  const tree = join(s.root, 'tree');
  mkdirSync(join(tree, 'etc'), { recursive: true });
  writeFileSync(join(tree, 'etc/motd'), 'layer\n');
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'local/base');
  await s.json('create', 'a', '--template', 't');
  await mount('a');
});

test("open files stay the source's, clones of clones begin with what was there", async () => {
  const at = join(view('a'), 'log');
  const writer = openSync(at, 'a');
  const tail = openSync(at, 'r');
  writeSync(writer, 'one\n');
  const { ino } = fstatSync(writer);
  await s.json('clone', 'a', 'b');
  await mount('b');
  writeSync(writer, 'two\n');
  const into = Buffer.alloc(100);
  assert.equal(into.latin1Slice(0, readSync(tail, into, 0, 100, 0)), 'one\ntwo\n');
  assert.equal(fstatSync(writer).ino, ino);
  assert.equal(readFileSync(join(view('b'), 'log'), 'utf8'), 'one\n');
  writeFileSync(join(view('b'), 'log'), 'b\n', { flag: 'a' });
  await s.json('clone', 'b', 'c');
  await mount('c');
  assert.equal(readFileSync(join(view('c'), 'log'), 'utf8'), 'one\nb\n');
  assert.equal(readFileSync(at, 'utf8'), 'one\ntwo\n');
  closeSync(writer);
  closeSync(tail);
  const { entries } = await s.json('diff', 'a');
  assert.deepEqual(
    entries.map((entry: { path: string }) => entry.path),
    ['/log'],
  );
  for (const name of ['b', 'c']) await s.json('umount', name);
  await s.json('delete', 'b', 'c');
});

test('a clone is its source at one instant, whatever is written meanwhile on all sides', async (t) => {
  const ends = [await writersIn('a')];
  const took: number[] = [];
  let source = 'a';
  for (let i = 0; i < 5; i++) {
    const name = `k${i}`;
    const { elapsed_ms } = await client.call('clone', { source, name });
    took.push(elapsed_ms);
    await mount(name);
    check(name);
    if (i !== 1) continue;
    // From here on the clone is written too, and cloned.
    ends.push(await writersIn(name));
    source = name;
  }
  t.diagnostic(`clones took ${took.join(', ')} ms`);
  for (const end of ends) await end();
  for (const name of ['k0', 'k2', 'k4']) check(name);
  const { problems } = await s.json('fsck');
  assert.deepEqual(problems, []);
});

test('mappings of files that the mount itself caches, as those of appliances with a quota', async () => {
  await s.json('create', 'q', '--template', 't', '--quota', '1G');
  await mount('q');
  await cloneWhileMapped('q');
});

test('mappings, and open files, of a mount with the exact cache mode', async () => {
  await s.json('create', 'x', '--template', 't');
  await mount('x', 'exact');
  await cloneWhileMapped('x');
});

async function cloneWhileMapped(source: string): Promise<void> {
  const end = await writersIn(source, ['log', 'rename', 'files']);
  const at = join(view(source), 'mapped');
  const fd = openSync(at, 'w+');
  ftruncateSync(fd, 8192);
  const memory = mapShared(fd, 8192);
  assert.ok(typeof memory !== 'number');
  const numbers = new Uint32Array(memory);
  for (const [i, name] of [`${source}0`, `${source}1`].entries()) {
    // In the mount's page cache only.
    for (const place of [0, 1024]) numbers[place] = 7 + i;
    await s.json('clone', source, name);
    numbers[0] = 99;
    await mount(name);
    const data = readFileSync(join(view(name), 'mapped'));
    assert.deepEqual([data.readUInt32LE(0), data.readUInt32LE(4096)], [7 + i, 7 + i]);
    check(name);
  }
  closeSync(fd);
  await end();
}

test('a clone that was acknowledged is whole, also when everything is killed before the copies followed', async () => {
  await s.json('create', 'w', '--template', 't');
  await mount('w');
  const text = Buffer.alloc(24 << 20, 'a line of a log\n');
  const log = openSync(join(view('w'), 'log'), 'a');
  writeSync(log, text);
  const killed = pidIn(s.root, 'strata-fs.pid');
  await client.call('clone', { source: 'w', name: 'w1' });
  for (const file of ['strata-fs.pid', 'stratad.pid'] as const) killNow(s.root, file);
  writeSync(log, 'later\n');
  await until('strata-fs is there again', () => pidIn(s.root, 'strata-fs.pid') !== killed);
  await mount('w1');
  assert.ok(readFileSync(join(view('w1'), 'log')).equals(text), 'what it held at the instant');
  assert.equal(readFileSync(join(view('w'), 'log')).length, text.length + 6);
  ftruncateSync(log, 0);
  closeSync(log);
  assert.ok(readFileSync(join(view('w1'), 'log')).equals(text));
  const { problems } = await s.json('fsck');
  assert.deepEqual(problems, []);
});

test('strata-fs and stratad are killed while clones are made: each clone is whole or not there', async (t) => {
  await s.json('create', 'v', '--template', 't');
  await mount('v');
  const end = await writersIn('v');
  let made = 0;
  for (let i = 0; i < 4; i++) {
    const killed = pidIn(s.root, 'strata-fs.pid');
    // The command may fail with the process that it talks to.
    const cloning = client.call('clone', { source: 'v', name: `v${i}` }).then(
      () => made++,
      () => {},
    );
    await sleep(Math.random() * 100);
    killNow(s.root, 'strata-fs.pid');
    if (i % 2 === 1) killNow(s.root, 'stratad.pid');
    await cloning;
    await until('strata-fs is there again', () => pidIn(s.root, 'strata-fs.pid') !== killed);
  }
  t.diagnostic(`${made} of 4 commands succeeded`);
  await s.json('clone', 'v', 'v9');
  const { appliances } = await s.json('list');
  const names: string[] = appliances.map(({ name }: { name: string }) => name);
  for (const name of names.filter((one) => /^v\d+$/.test(one))) {
    await mount(name);
    check(name);
  }
  await end();
  check('v');
  const { problems } = await s.json('fsck');
  assert.deepEqual(problems, []);
});
