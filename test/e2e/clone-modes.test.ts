/**
 * Merges of frozen layers below mounted clones: programs see nothing of it (open files, numbers, times, watched directories), who removed something meanwhile
 * keeps its layers, both doors show the same, jobs tell of the work, and the space of parents that are deleted comes back.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { createClient } from '../../src/client/index.ts';
import { strataRoot } from '../helpers/strata.ts';

const s = strataRoot('clone-modes');
const client = createClient({ root: s.root });
const view = (name: string): string => join(s.root, 'views', name);
const listed = (name: string): string[] =>
  (JSON.parse(readFileSync(join(s.root, 'appliances', name, 'state.json'), 'utf8')) as { frozen?: string[] })
    .frozen ?? [];

async function mount(name: string, door?: 'sealed'): Promise<void> {
  mkdirSync(view(name), { recursive: true });
  await client.call('mount', { name, dir: view(name), ...(door === undefined ? {} : { door }) });
}

/** Everything that a program can ask of a tree, but times of reading. */
function everything(name: string): string {
  const find = ['.', '-mindepth', '1', '-printf', '%P %y %m %n %i %s %T@ %C@ %l\n'];
  const lines = execFileSync('find', find, { cwd: view(name), encoding: 'utf8' });
  return lines.split('\n').sort().join('\n');
}

before(async () => {
  const tree = join(s.root, 'tree');
  mkdirSync(join(tree, 'etc'), { recursive: true });
  for (const [path, text] of [
    ['etc/motd', 'base\n'],
    ['etc/old', 'old\n'],
    ['large', 'x'.repeat(300_000)],
  ] as const)
    writeFileSync(join(tree, path), text);
  mkdirSync(join(s.root, 'units'));
  await client.call('repoAdd', { name: 'local', source: join(s.root, 'units') });
  await client.call('layerBuild', { dir: tree, repo: 'local', name: 'base', version: '1' });
  await client.call('templateCreate', { name: 't', layers: ['base'], from: [] });
  await client.call('create', { name: 'c-0', template: 't' });
});
after(() => s.remove());

/** c-0, c-1, ...: each a clone of the one before, with changes of its own. */
async function line(to: number): Promise<void> {
  for (let i = 0; i < to; i++) {
    await mount(`c-${i}`);
    const at = (path: string) => join(view(`c-${i}`), path);
    writeFileSync(at('etc/motd'), `${i}\n`);
    mkdirSync(at(`srv-${i}`));
    writeFileSync(at(`srv-${i}/file`), `${i}\n`);
    writeFileSync(at('shared'), `${i}\n`);
    if (i === 0) execFileSync('ln', [at('srv-0/file'), at('alias')]);
    if (i === 1)
      execFileSync('sh', ['-c', 'rm etc/old; mv srv-0 moved; chmod 600 large; rm alias'], { cwd: at('') });
    await client.call('clone', { source: `c-${i}`, name: `c-${i + 1}`, mode: 'lazy' });
    await client.call('umount', { target: `c-${i}` });
  }
}

test('merged below a mount: nobody notices', { timeout: 120_000 }, async () => {
  await line(4);
  await client.call('clone', { source: 'c-4', name: 'other', mode: 'lazy' });
  await mount('c-4');
  await mount('other');
  const before = everything('c-4');
  const file = openSync(join(view('c-4'), 'moved/file'), 'r');
  const { ino } = fstatSync(file);
  // Who has removed something of the layers keeps them.
  rmSync(join(view('other'), 'srv-2/file'));
  const others = everything('other');
  assert.equal(listed('c-4').length, 4);
  const seen: string[] = [];
  await client.call(
    'clone',
    { source: 'c-4', name: 'sync', mode: 'sync' },
    {
      onProgress: ({ phase }) => void seen.push(phase),
    },
  );
  assert.ok(seen.includes('merge frozen layers'), seen.join());
  assert.equal(listed('sync').length, 1);
  assert.deepEqual(listed('c-4'), listed('sync'), 'the mount follows');
  assert.equal(listed('other').length, 4);
  assert.equal(everything('c-4'), before);
  assert.equal(everything('other'), others);
  assert.equal(existsSync(join(view('other'), 'srv-2/file')), false);
  const text = Buffer.alloc(10);
  assert.equal(text.toString('latin1', 0, readSync(file, text, 0, 10, 0)), '0\n');
  assert.equal(fstatSync(file).ino, ino);
  closeSync(file);
  // Written and removed after the merge.
  writeFileSync(join(view('c-4'), 'moved/file'), 'new\n');
  rmSync(join(view('c-4'), 'srv-2'), { recursive: true });
  await mount('sync');
  assert.equal(everything('sync'), before, 'the clone has what was there');
  for (const name of ['c-4', 'other', 'sync']) await client.call('umount', { target: name });
  const { entries } = await client.call('diff', { name: 'c-4' });
  assert.ok(entries.some(({ path, change }) => path === '/moved/file' && change === 'added'));
});

test('the sealed door shows what the other shows, and what is written there comes back', {
  timeout: 60_000,
}, async () => {
  await mount('other');
  const names = (name: string): string[] =>
    execFileSync('find', ['.', '-printf', '%P %y %m %s %l\n'], { cwd: view(name), encoding: 'utf8' })
      .split('\n')
      .filter((one) => !/ d /.test(one))
      .sort();
  const before = names('other');
  await client.call('umount', { target: 'other' });
  await mount('other', 'sealed');
  assert.deepEqual(names('other'), before);
  assert.equal(readFileSync(join(view('other'), 'large'), 'latin1').length, 300_000);
  assert.equal(readFileSync(join(view('other'), 'moved/file'), 'latin1'), '0\n');
  writeFileSync(join(view('other'), 'etc/motd'), 'sealed\n');
  rmSync(join(view('other'), 'shared'));
  const after = names('other');
  await client.call('umount', { target: 'other' });
  await mount('other');
  assert.deepEqual(names('other'), after);
  await client.call('umount', { target: 'other' });
});

test('in the background, seen as a job; parents go, and their space comes back', {
  timeout: 120_000,
}, async () => {
  await client.call('clone', { source: 'other', name: 'async' });
  await until('it is merged', () => listed('async').length === 1);
  const { jobs } = await client.call('jobs', {});
  assert.ok(
    jobs.some(({ target, progress }) => target === 'async' && progress?.phase === 'merge frozen layers'),
  );
  await client.call('delete', { names: ['c-0', 'c-1', 'c-2', 'c-3', 'c-4', 'other', 'sync'] });
  await until('one layer is left', () => readdirSync(join(s.root, 'frozen')).length === 1);
  await mount('async');
  assert.equal(readFileSync(join(view('async'), 'etc/motd'), 'utf8'), 'sealed\n');
  assert.equal(existsSync(join(view('async'), 'shared')), false);
  await client.call('umount', { target: 'async' });
  const { problems } = await client.call('fsck', {});
  assert.deepEqual(problems, []);
  await client.call('delete', { names: ['async'] });
  await until('nothing is left', () => readdirSync(join(s.root, 'frozen')).length === 0);
});
