/**
 * The whole of Strata through its command line, with real processes (stratad, strata-fs) and hand-made layers from a directory:
 * no network. One story, in order; every step stands on the one before.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

const base = mkdtempSync(join(tmpdir(), 'strata-e2e-'));
const root = join(base, 'root');
const mnt = join(base, 'mnt');
const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
const children: ChildProcess[] = [];
process.env['NODE_COMPILE_CACHE'] = join(base, 'cache');

interface Ran {
  status: number | null;
  stdout: string;
  stderr: string;
}

function strata(...args: string[]): Ran {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', MAIN, ...args],
    { encoding: 'utf8', env: { ...process.env, STRATA_ROOT: root }, timeout: 300_000 },
  );
  return { status, stdout, stderr };
}

// biome-ignore lint/suspicious/noExplicitAny: what the command prints
function json(...args: string[]): any {
  const { status, stdout, stderr } = strata(...args, '--json');
  assert.equal(status, 0, `${args.join(' ')}: ${stdout}${stderr}`);
  return JSON.parse(stdout);
}

function writeTree(files: Record<string, string>): string {
  const dir = mkdtempSync(join(base, 'tree-'));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), content);
  }
  return dir;
}

function build(name: string, version: string, files: Record<string, string>, ...more: string[]): void {
  json('layer', 'build', writeTree(files), '--repo', 'local', '--name', name, '--version', version, ...more);
}

async function eventually<R>(what: string, look: () => R | null | false, timeoutMs = 120_000): Promise<R> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    let found: R | null | false = null;
    try {
      found = look();
    } catch {}
    if (found) return found;
    assert.ok(performance.now() < until, `${what} did not happen within ${timeoutMs} ms`);
    await sleep(25);
  }
}

after(() => {
  for (const child of children) child.kill('SIGKILL');
  strata('daemon', 'stop', '--force');
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const mountpoint = line.split(' ')[4];
    if (mountpoint?.startsWith(`${base}/`)) spawnSync('umount', ['-l', mountpoint]);
  }
  rmSync(base, { recursive: true, force: true });
});

test('a repository of own layers, a template, a thousand files shared by three appliances', () => {
  mkdirSync(join(base, 'layers'));
  json('repo', 'add', 'local', join(base, 'layers'));
  build('base', '1', { 'etc/motd': 'base 1\n', 'usr/share/base/readme': 'read me\n' });
  build('app', '1', { 'usr/share/app/data': 'app 1\n', 'usr/share/app/old': 'old\n' }, '--depends', 'base');
  const template = json('template', 'create', 't', 'local/app');
  assert.deepEqual(
    template.explicit.map((l: { layer: string }) => l.layer),
    ['app'],
  );
  assert.deepEqual(
    template.implicit.map((l: { layer: string }) => l.layer),
    ['base'],
  );
  assert.match(strata('template', 'show', 't').stdout, /^local\/app 1$/m);
  const made = json('create', 't', '--template', 't', '--count', '3');
  assert.equal(made.appliances.length, 3);
  assert.equal(new Set(made.appliances.map((a: { mac: string }) => a.mac)).size, 3);
});

test('what cannot be satisfied exits with 3 and changes nothing', () => {
  build('needy', '1', { 'usr/share/needy': 'x' }, '--depends', 'nothing-offers-this');
  const before = json('template', 'show', 't');
  const refused = strata('template', 'add', 't', 'local/needy', '--json');
  assert.equal(refused.status, 3, refused.stdout);
  assert.match(JSON.parse(refused.stdout).error.message, /nothing-offers-this/);
  build('rival', '1', { 'usr/share/app/data': 'mine' });
  const conflict = strata('template', 'add', 't', 'local/rival', '--json');
  assert.equal(conflict.status, 3, conflict.stdout);
  assert.match(JSON.parse(conflict.stdout).error.message, /app.*rival|rival.*app/);
  assert.deepEqual(json('template', 'show', 't'), before);
});

test('a mounted appliance: private changes, diff, why, revert', () => {
  json('mount', 't-1', mnt);
  assert.deepEqual(json('list').appliances[0].mounts, [mnt]);
  assert.equal(readFileSync(join(mnt, 'etc/motd'), 'utf8'), 'base 1\n');
  writeFileSync(join(mnt, 'etc/motd'), 'mine\n');
  writeFileSync(join(mnt, 'added'), 'new\n');
  rmSync(join(mnt, 'usr/share/base/readme'));
  const { entries } = json('diff', 't-1');
  const of = (path: string) => entries.find((e: { path: string }) => e.path === path);
  assert.deepEqual(of('/etc/motd'), {
    path: '/etc/motd',
    change: 'changed',
    layer: 'local/base 1',
    base_updated: false,
  });
  assert.equal(of('/added').change, 'added');
  assert.equal(of('/added').layer, null);
  assert.equal(of('/usr/share/base/readme').change, 'deleted');
  assert.equal(of('/usr/share/base/readme').layer, 'local/base 1');
  assert.equal(json('why', 't-1', '/usr/share/app/data').unit, 'local/app 1');
  assert.equal(json('why', 't-1', '/added').private, true);
  json('revert', 't-1', '/etc/motd', '/usr/share/base/readme');
  assert.equal(readFileSync(join(mnt, 'etc/motd'), 'utf8'), 'base 1\n');
  assert.equal(readFileSync(join(mnt, 'usr/share/base/readme'), 'utf8'), 'read me\n');
  assert.deepEqual(
    json('diff', 't-1').entries.map((e: { path: string }) => e.path),
    ['/added'],
  );
});

test('an update reaches the mounted one at once; a file opened before keeps its content', () => {
  const fd = openSync(join(mnt, 'usr/share/app/data'), 'r');
  build(
    'app',
    '2',
    { 'usr/share/app/data': 'app 2, longer\n', 'usr/share/app/new': 'new\n' },
    '--depends',
    'base',
  );
  const planned = json('update', '--dry-run');
  assert.deepEqual(planned.templates[0].changes, [{ layer: 'app', from: '1', to: '2' }]);
  assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'utf8'), 'app 1\n');
  const update = json('update');
  assert.equal(update.appliances.updated, 3);
  assert.deepEqual(update.appliances.held_back, []);
  assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'utf8'), 'app 2, longer\n');
  assert.deepEqual(readdirSync(join(mnt, 'usr/share/app')).sort(), ['data', 'new']);
  const old = Buffer.alloc(64);
  assert.equal(old.toString('utf8', 0, readSync(fd, old, 0, 64, 0)), 'app 1\n');
  closeSync(fd);
  json('rollback', 't');
  assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'utf8'), 'app 1\n');
  json('template', 'hold', 't', 'local/app');
  json('update');
  assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'utf8'), 'app 1\n');
  json('template', 'unhold', 't', 'local/app');
  json('update');
  assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'utf8'), 'app 2, longer\n');
});

test('kill -9 of stratad: mounts go on, the next command starts another', () => {
  const before = json('status');
  process.kill(before.daemon.pid, 'SIGKILL');
  assert.equal(readFileSync(join(mnt, 'etc/motd'), 'utf8'), 'base 1\n');
  const now = json('status');
  assert.notEqual(now.daemon.pid, before.daemon.pid);
  assert.equal(now.data_plane.pid, before.data_plane.pid);
  assert.equal(now.mounts, 1);
});

test('kill -9 of strata-fs: it is started again and the mount is back', async () => {
  const before = json('status');
  process.kill(before.data_plane.pid, 'SIGKILL');
  await eventually('the mount to be back', () => readFileSync(join(mnt, 'added'), 'utf8') === 'new\n');
  const now = json('status');
  assert.notEqual(now.data_plane.pid, before.data_plane.pid);
  assert.equal(now.mounts, 1);
});

test('daemon restart keeps mounts; stop leaves the busy ones served', async () => {
  const { data_plane: plane } = json('status');
  const open = openSync(join(mnt, 'kept-open'), 'w+');
  writeSync(open, 'before ');
  json('daemon', 'restart');
  assert.notEqual(json('status').data_plane.pid, plane.pid, 'strata-fs is a new one too');
  writeSync(open, 'after');
  assert.equal(readFileSync(join(mnt, 'kept-open'), 'utf8'), 'before after');
  closeSync(open);
  rmSync(join(mnt, 'kept-open'));
  const holder = spawn('sleep', ['600'], { cwd: mnt, stdio: 'ignore' });
  children.push(holder);
  await eventually('sleep to run', () => holder.pid && existsSync(`/proc/${holder.pid}/exe`));
  const stopped = json('daemon', 'stop');
  assert.deepEqual(stopped.busy, [mnt]);
  assert.equal(readFileSync(join(mnt, 'etc/motd'), 'utf8'), 'base 1\n');
  assert.equal(json('status').mounts, 1);
  const ended = new Promise((resolve) => holder.once('exit', resolve));
  holder.kill('SIGKILL');
  await ended;
  assert.equal(strata('delete', 't-1').status, 1, 'a mounted appliance is not deleted');
  json('umount', mnt);
  assert.equal(lstatSync(mnt).isDirectory(), true);
  assert.deepEqual(readdirSync(mnt), []);
});

test('stop without mounts ends the data plane too', async () => {
  json('mount', 't-2', mnt);
  const { data_plane: plane } = json('status');
  assert.deepEqual(json('daemon', 'stop').unmounted, [mnt]);
  await eventually('strata-fs to end', () => !existsSync(`/proc/${plane.pid}`));
});

test('reset and delete leave nothing', () => {
  assert.equal(json('diff', 't-1').entries.length, 1);
  json('reset', 't-1');
  assert.deepEqual(json('diff', 't-1').entries, []);
  json('delete', 't-1', 't-2', 't-3');
  assert.deepEqual(json('list').appliances, []);
  json('template', 'delete', 't');
  assert.equal(json('layer', 'verify').problems.length, 0);
  json('layer', 'remove', 'local/app', '1');
});
