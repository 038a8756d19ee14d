/**
 * A hostile appliance with a tree that is deeper than any path is long and than descriptors may be open: what is done with whole appliances works all the same, or
 * says that it cannot, and the daemons go on.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { program } from '../helpers/kills.ts';
import { strataRoot } from '../helpers/strata.ts';

/** Of directories called `deep`: twice PATH_MAX. */
const DEPTH = 1500;

const s = strataRoot('deep');
const view = (name: string): string => join(s.root, 'views', name);
let daemons: string[];

/** Makes NAME/NAME/NAME/... so deep, with two names of a file at the bottom. */
const MAKE = `
import os, sys
name = sys.argv[2]
os.chdir(sys.argv[1])
for _ in range(int(sys.argv[3])):
    os.mkdir(name)
    os.chdir(name)
with open('bottom', 'w') as f: f.write(sys.argv[4])
os.link('bottom', 'again')
os.setxattr('bottom', 'user.a', b'b')
`;

/** Prints how deep it is and what is at the bottom; changes that when it is told to. */
const LOOK = `
import os, sys
os.chdir(sys.argv[1])
depth = 0
for name in ('deep', 'd'):
    while os.path.isdir(name):
        os.chdir(name)
        depth += 1
if len(sys.argv) > 2: open('bottom', 'w').write(sys.argv[2])
def told():
    if not os.path.exists('bottom'): return 'nothing'
    same = os.stat('bottom').st_ino == os.stat('again').st_ino and os.stat('bottom').st_nlink == 2
    return '%s %s %s' % (open('again').read(), os.getxattr('bottom', 'user.a').decode(), same)
print(depth, told())
`;

const make = (dir: string, name: string, text: string): Promise<string> =>
  program('python3', ['-c', MAKE, dir, name, String(DEPTH), text]);
const look = async (name: string, ...change: string[]): Promise<string> =>
  (await program('python3', ['-c', LOOK, view(name), ...change])).trim();
const pids = (): string[] =>
  ['stratad.pid', 'strata-fs.pid'].map((file) => readFileSync(join(s.root, 'run', file), 'utf8').trim());

async function mount(name: string): Promise<void> {
  mkdirSync(view(name), { recursive: true });
  await s.json('mount', name, view(name));
}

async function isClean(): Promise<void> {
  assert.deepEqual((await s.json('fsck')).problems, []);
  assert.deepEqual(pids(), daemons, 'nobody has died');
}

before(async () => {
  const tree = join(s.root, 'tree');
  mkdirSync(join(tree, 'etc'), { recursive: true });
  writeFileSync(join(tree, 'etc/motd'), 'base\n');
  mkdirSync(join(s.root, 'units'));
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  await s.json('create', 'a', '--template', 't');
  await mount('a');
  daemons = pids();
  await make(view('a'), 'deep', 'first');
});
after(() => s.remove());

test('it is cloned, merged in the background, changed and looked at', async () => {
  assert.equal(await look('a'), `${DEPTH} first b True`);
  await s.json('clone', 'a', 'b', '--mode', 'lazy');
  await mount('b');
  assert.equal(await look('b'), `${DEPTH} first b True`);
  assert.equal(await look('b', 'second'), `${DEPTH} second b True`);
  await s.json('clone', 'b', 'c', '--mode', 'sync');
  assert.equal((await s.json('show', 'c')).frozen_layers, 1, 'it is merged');
  await mount('c');
  assert.equal(await look('c'), `${DEPTH} second b True`);
  assert.equal(await look('a'), `${DEPTH} first b True`);
  // Paths that no program can name are left out.
  const { entries } = await s.json('diff', 'c');
  assert.ok(entries.length > 500 && entries.length < DEPTH, `${entries.length}`);
  await isClean();
});

test('snapshots, merges and resets', async () => {
  await s.json('snapshot', 'c', 'good');
  assert.equal(await look('c', 'third'), `${DEPTH} third b True`);
  await s.json('restore', 'c', 'good');
  assert.equal(await look('c'), `${DEPTH} second b True`);
  // What was changed has no path that could be told.
  assert.equal(await look('c', 'fourth'), `${DEPTH} fourth b True`);
  const refused = await s.run(['--json', 'merge', 'c', 'b']);
  assert.equal(JSON.parse(refused.stdout).error?.code, 'LIMIT', refused.stdout);
  assert.equal(await look('b'), `${DEPTH} second b True`);
  // That all of it is deleted can be told.
  await program('rm', ['-rf', join(view('c'), 'deep')]);
  await s.json('merge', 'c', 'b');
  assert.equal(await look('b'), '0 nothing');
  await s.json('restore', 'c', 'good');
  assert.equal(await look('c', 'mine'), `${DEPTH} mine b True`);
  writeFileSync(join(view('c'), 'more'), '');
  await s.json('reset', 'c', '--keep', '/deep');
  assert.equal(await look('c'), `${DEPTH} mine b True`);
  assert.deepEqual(readdirSync(view('c')).sort(), ['deep', 'etc']);
  await s.json('reset', 'c');
  assert.equal(await look('c'), '0 nothing');
  await isClean();
});

test('scans and collections go through it', async () => {
  const { status, stdout } = await s.run(['--json', 'scan', '--command', 'true']);
  assert.ok(status <= 4, stdout);
  assert.ok(JSON.parse(stdout).failed_count > 0, 'what is not walked is told');
  await s.json('gc');
  await isClean();
});

test('directories are imported as far as paths reach; deeper ones are refused', async () => {
  const [deep, deeper] = [join(s.root, 'deep'), join(s.root, 'deeper')];
  for (const dir of [deep, deeper]) mkdirSync(dir);
  await make(deep, 'd', 'brought');
  await make(deeper, 'deep', 'not brought');
  await s.json('import-dir', deep, 'imported');
  await mount('imported');
  assert.equal(await look('imported'), `${DEPTH} brought b True`);
  assert.equal(await look('imported', 'changed'), `${DEPTH} changed b True`);
  const refused = await s.run(['--json', 'import-dir', deeper, 'refused']);
  assert.equal(JSON.parse(refused.stdout).error?.code, 'LIMIT', refused.stdout);
  await isClean();
});

test('all of it goes again', async () => {
  await s.json('reset', 'a');
  assert.equal(await look('a'), '0 nothing');
  for (const name of ['a', 'b', 'c', 'imported']) await s.json('umount', view(name));
  await s.json('delete', 'a', 'b', 'c', 'imported');
  await until('space comes back', () =>
    ['appliances', 'frozen', 'imports'].every((dir) => readdirSync(join(s.root, dir)).length === 0),
  );
  await isClean();
});
