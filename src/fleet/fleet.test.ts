/** Life cycles of templates and appliances over layers made by hand, without any distribution and without real mounts. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { noProgress, StrataError } from '../base/index.ts';
import { fremovexattr, fsetxattr } from '../sys/index.ts';
import { makeWorld, type World } from './fleet.test-support.ts';

let w: World;
before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n' });
  await w.build('lib', '1', { 'usr/lib/lib.so': '1' }, { depends: 'base' });
  await w.build('tool', '1', { 'usr/bin/tool': '1' }, { depends: 'lib' });
  await w.build('other', '1', { 'usr/bin/other': '1' }, { depends: 'base' });
});
after(() => w.remove());

async function refused(code: string, work: Promise<unknown>): Promise<StrataError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof StrataError, String(error));
    assert.equal(error.code, code, error.message);
    return error;
  }
  return assert.fail(`expected ${code}`);
}

const template = (name: string, layers: string[], from: string[] = []) =>
  w.fleet.templateCreate({ name, layers, from }, noProgress);
const versions = async (name: string) => {
  const { explicit, implicit } = await w.fleet.templateShow(name);
  return Object.fromEntries([...explicit, ...implicit].map((l) => [l.layer, l.version]));
};

test('a template is an LDF, with generations that any tool can read', async () => {
  const info = await template('t', ['tool']);
  assert.equal(info.generation, 1);
  assert.equal(info.ldf, 'local/tool 1\n\nlocal/base 1\nlocal/lib 1\n');
  const dir = join(w.root, 'templates/t');
  assert.equal(readlinkSync(join(dir, 'current')), 'generations/1');
  assert.equal(readFileSync(join(dir, 'ldf'), 'utf8'), info.ldf);
  assert.deepEqual(JSON.parse(readFileSync(join(dir, 'generations/1/stack.json'), 'utf8')).units, [
    'local/tool 1',
    'local/base 1',
    'local/lib 1',
  ]);
  assert.deepEqual(
    readdirSync(join(w.root, 'templates')).filter((n) => n.startsWith('.')),
    [],
  );
  await refused('EXISTS', template('t', ['tool']));
  await refused('USAGE', template('empty', []));
  await refused('BAD_NAME', template('../x', ['tool']));
  await refused('NOT_FOUND', template('x', ['tool'], ['absent']));
});

test('layers are added and removed, what is needed stays, what is not goes', async () => {
  await template('edit', ['tool']);
  assert.deepEqual(
    await w.fleet
      .templateAdd({ name: 'edit', layers: ['local/other'] }, noProgress)
      .then((t) => t.explicit.map((l) => l.layer)),
    ['tool', 'other'],
  );
  await refused('EXISTS', w.fleet.templateAdd({ name: 'edit', layers: ['other'] }, noProgress));
  const message = await refused(
    'NOT_FOUND',
    w.fleet.templateRemove({ name: 'edit', layers: ['lib'] }, noProgress),
  );
  assert.match(message.message, /only because other layers need it/);
  await w.fleet.templateRemove({ name: 'edit', layers: ['tool'] }, noProgress);
  assert.deepEqual(await versions('edit'), { other: '1', base: '1' });
  await refused('USAGE', w.fleet.templateRemove({ name: 'edit', layers: ['other'] }, noProgress));
  await w.fleet.templateDelete('edit');
  await refused('NOT_FOUND', w.fleet.templateShow('edit'));
  assert.equal(existsSync(join(w.root, 'templates/edit')), false);
});

test('an appliance: LDF, state, machine link; deletion leaves nothing', async () => {
  const { appliances } = await w.fleet.create(
    { name: 'a', template: 't', mac: '02-AA-00-00-00-01' },
    noProgress,
  );
  assert.deepEqual(appliances, [{ name: 'a', mac: '02:aa:00:00:00:01', template: 't' }]);
  assert.equal(readFileSync(join(w.root, 'machines/02:aa:00:00:00:01/ldf'), 'utf8'), '@t\n');
  assert.deepEqual(readdirSync(join(w.root, 'appliances/a/private')), []);
  await refused('EXISTS', w.fleet.create({ name: 'a', template: 't' }, noProgress));
  await refused('EXISTS', w.fleet.create({ name: 'b', template: 't', mac: '02:aa:00:00:00:01' }, noProgress));
  await refused(
    'BAD_NAME',
    w.fleet.create({ name: 'b', template: 't', mac: '01:aa:00:00:00:01' }, noProgress),
  );
  await refused('BUSY', w.fleet.templateDelete('t'));
  await w.fleet.mount({ name: 'a', dir: join(w.dir, 'm') });
  assert.deepEqual((await w.fleet.show('a')).mounts, [join(w.dir, 'm')]);
  await refused('BUSY', w.fleet.delete(['a']));
  await refused('NOT_FOUND', w.fleet.delete(['a', 'absent']));
  w.plane.busy.add(join(w.dir, 'm'));
  await refused('BUSY', w.fleet.umount({ target: 'a' }));
  await w.fleet.umount({ target: join(w.dir, 'm'), force: true });
  assert.deepEqual(await w.fleet.delete(['a']), { deleted: ['a'] });
  assert.equal(existsSync(join(w.root, 'appliances/a')), false);
  assert.deepEqual(readdirSync(join(w.root, 'machines')), []);
});

test('a thousand appliances in one step, a few kilobytes each, unique addresses', async () => {
  const { appliances, elapsed_ms } = await w.fleet.create(
    { name: 'n', template: 't', count: 1000 },
    noProgress,
  );
  console.log(`1000 appliances: ${elapsed_ms} ms`);
  assert.equal(new Set(appliances.map((a) => a.mac)).size, 1000);
  assert.ok(appliances.every((a) => /^02(:[0-9a-f]{2}){5}$/.test(a.mac)));
  assert.deepEqual([appliances[0]!.name, appliances[999]!.name], ['n-1', 'n-1000']);
  const kib = Number(
    execFileSync('du', ['-sk', join(w.root, 'appliances')], { encoding: 'utf8' }).split('\t')[0],
  );
  assert.ok(kib / 1000 <= 64, `${kib} KiB`);
  assert.equal(readdirSync(join(w.root, 'machines')).length, 1000);
  const started = performance.now();
  assert.equal((await w.fleet.list()).appliances.length, 1000);
  console.log(`list: ${(performance.now() - started).toFixed(1)} ms`);
  await w.fleet.delete(appliances.slice(3).map((a) => a.name));
  assert.equal((await w.fleet.list()).appliances.length, 3);
});

test('the catalog is only an index: it comes back when it is gone, damaged or older than the files', async () => {
  const expected = (await w.fleet.list()).appliances;
  const spoil = [
    () => rmSync(join(w.root, 'catalog.sqlite')),
    () => writeFileSync(join(w.root, 'catalog.sqlite'), 'this is no database'.repeat(500)),
    () => utimesSync(join(w.root, 'appliances'), new Date(), new Date()),
  ];
  for (const damage of spoil) {
    await w.fleet.close();
    damage();
    w.fleet = await w.reopenClosed();
    assert.deepEqual((await w.fleet.list()).appliances, expected);
  }
  await w.fleet.rebuildCatalog();
  assert.deepEqual((await w.fleet.list()).appliances, expected);
});

test('update: mounted appliances are relayered in one call, holds hold, nothing new costs no generation', async () => {
  await template('held', ['tool']);
  await w.fleet.templateHold({ name: 'held', layer: 'tool', held: true });
  assert.match((await w.fleet.templateShow('held')).ldf, /^=local\/tool 1$/m);
  await w.fleet.mount({ name: 'n-1', dir: join(w.dir, 'n1') });
  await w.fleet.mount({ name: 'n-2', dir: join(w.dir, 'n2') });
  await w.build('tool', '2', { 'usr/bin/tool': '2' }, { depends: 'lib' });
  w.plane.relayers.length = 0;
  const dry = await w.fleet.update({ dryRun: true }, noProgress);
  assert.deepEqual(dry.templates, [
    { name: 't', from: 1, to: 2, changes: [{ layer: 'tool', from: '1', to: '2' }] },
  ]);
  assert.equal((await w.fleet.templateShow('t')).generation, 1);
  const result = await w.fleet.update({}, noProgress);
  assert.deepEqual(result.templates, dry.templates);
  assert.equal(result.appliances.updated, 3);
  assert.equal(w.plane.relayers.length, 1);
  assert.deepEqual(w.plane.relayers[0]!.map((r) => r.id).sort(), ['n-1', 'n-2']);
  assert.ok(w.plane.relayers[0]![0]!.stack.levels.some((l) => l.id === 'local/tool 2'));
  assert.deepEqual((await w.fleet.update({}, noProgress)).templates, []);
  assert.deepEqual(await versions('held'), { tool: '1', lib: '1', base: '1' });
  await w.fleet.templateHold({ name: 'held', layer: 'tool', held: false });
  assert.equal((await w.fleet.update({ templates: ['held'] }, noProgress)).templates[0]!.to, 2);
});

test('an unmounted appliance loses its whiteouts of a replaced unit, and only those', async () => {
  const sets = join(w.root, 'appliances/n-3/whiteouts/local');
  mkdirSync(join(sets, 'tool_2/usr/bin'), { recursive: true });
  mkdirSync(join(sets, 'base_1/etc'), { recursive: true });
  execFileSync('mknod', [join(sets, 'tool_2/usr/bin/tool'), 'c', '0', '0']);
  execFileSync('mknod', [join(sets, 'base_1/etc/motd'), 'c', '0', '0']);
  assert.deepEqual(
    (await w.fleet.diff({ name: 'n-3' })).entries.map((e) => `${e.change} ${e.path} ${e.layer}`).sort(),
    ['deleted /etc/motd local/base 1', 'deleted /usr/bin/tool local/tool 2'],
  );
  await w.build('tool', '3', { 'usr/bin/tool': '3' }, { depends: 'lib' });
  await w.fleet.update({ templates: ['t'] }, noProgress);
  assert.deepEqual(readdirSync(sets), ['base_1']);
  assert.deepEqual(await w.fleet.revert({ name: 'n-3', paths: ['/etc/motd'] }).then((r) => r.reverted), [
    '/etc/motd',
  ]);
});

test('rollback is a new generation with the old content; another rollback undoes it', async () => {
  const back = await w.fleet.rollback({ template: 't' }, noProgress);
  assert.deepEqual(back.templates[0]!.changes, [{ layer: 'tool', from: '3', to: '2' }]);
  assert.equal(back.templates[0]!.to, 4);
  assert.equal((await versions('t'))['tool'], '2');
  assert.ok(w.plane.relayers.at(-1)!.every((r) => r.stack.levels.some((l) => l.id === 'local/tool 2')));
  await w.fleet.rollback({ template: 't', generation: 1 }, noProgress);
  assert.equal((await versions('t'))['tool'], '1');
  await refused('NOT_FOUND', w.fleet.rollback({ template: 't', generation: 77 }, noProgress));
  await w.reopen();
  assert.equal((await versions('t'))['tool'], '1');
  assert.equal((await w.fleet.templateShow('t')).generation, 5);
});

test('templates compose, and follow the templates they refer to', async () => {
  await w.build('left', '1', { 'usr/share/left': '1' });
  await w.build('right', '1', { 'usr/share/right': '1' });
  await template('l', ['left']);
  await template('r', ['right']);
  const both = await template('both', ['other'], ['l', 'r']);
  assert.equal(both.ldf, '@l\n@r\nlocal/other 1\n\nlocal/base 1\n');
  assert.deepEqual(both.refs, ['l', 'r']);
  await refused('BUSY', w.fleet.templateDelete('l'));
  await w.build('left', '2', { 'usr/share/left': '2' });
  const result = await w.fleet.update({ templates: ['l'] }, noProgress);
  assert.deepEqual(
    result.templates.map((t) => [t.name, t.changes]),
    [
      ['both', [{ layer: 'left', from: '1', to: '2' }]],
      ['l', [{ layer: 'left', from: '1', to: '2' }]],
    ],
  );
  await w.fleet.rollback({ template: 'l' }, noProgress);
  const stack = join(w.root, 'templates/both/current/stack.json');
  const units = () => JSON.parse(readFileSync(stack, 'utf8')).units as string[];
  assert.ok(units().includes('local/left 1'));
  await w.fleet.templateHold({ name: 'both', layer: 'left', held: true });
  await w.fleet.update({ templates: ['l'] }, noProgress);
  assert.equal((await versions('l'))['left'], '2');
  assert.ok(units().includes('local/left 1'), 'a hold of its own counts more than the template');
});

test('an LDF that a person edited is what the next update resolves; a mistake is named by its line', async () => {
  await template('hand', ['other']);
  const file = join(w.root, 'templates/hand/ldf');
  writeFileSync(file, '# by hand\nlocal/other 1\nlocal/lib 1 # for the plugin\n\nlocal/base 1\n');
  await w.fleet.update({ templates: ['hand'] }, noProgress);
  const { ldf, generation } = await w.fleet.templateShow('hand');
  assert.equal(generation, 2);
  assert.equal(ldf, '# by hand\nlocal/other 1\nlocal/lib 1 # for the plugin\n\nlocal/base 1\n');
  writeFileSync(file, 'local/other\n');
  const result = await w.fleet.update({ templates: ['hand'] }, noProgress);
  assert.match(result.templates[0]!.held_back!, /hand\/ldf, line 1/);
  await refused('BAD_FORMAT', w.fleet.templateShow('hand'));
  writeFileSync(file, ldf);
  await w.fleet.update({ templates: ['hand'] }, noProgress);
});

test('an appliance with layers of its own: held back with the reason when its template leaves it behind', async () => {
  await w.build('core', '1', { 'usr/share/core': '1' });
  await w.build('plugin', '1', { 'usr/share/plugin': '1' }, { depends: 'core (<< 2)' });
  await template('p', ['core']);
  await w.fleet.create({ name: 'own', template: 'p', layers: ['plugin'], count: 2 }, noProgress);
  await w.fleet.create({ name: 'plain', template: 'p' }, noProgress);
  assert.equal((await w.fleet.show('own-1')).ldf, '@p\nlocal/plugin 1\n');
  await w.build('core', '2', { 'usr/share/core': '2' });
  const result = await w.fleet.update({ templates: ['p'] }, noProgress);
  assert.equal(result.appliances.updated, 1);
  assert.deepEqual(
    result.appliances.held_back.map((h) => h.name),
    ['own-1', 'own-2'],
  );
  assert.match(result.appliances.held_back[0]!.reason, /plugin.*core/);
  await w.reopen();
  const list = (await w.fleet.list()).appliances;
  const of = (name: string) => list.find((a) => a.name === name)!;
  assert.match(of('own-1').held_back!, /plugin/);
  assert.deepEqual([of('own-1').generation, of('plain').generation, of('plain').held_back], [1, 2, null]);
  await refused('BUSY', w.fleet.layerRemove({ repo: 'local', layer: 'core', version: '1' }));
  await w.build('plugin', '2', { 'usr/share/plugin': '2' }, { depends: 'core (>= 2)' });
  const next = await w.fleet.update({ templates: ['p'] }, noProgress);
  assert.equal(next.appliances.updated, 2);
  assert.deepEqual(next.appliances.held_back, []);
  const now = await w.fleet.show('own-1');
  assert.deepEqual([now.held_back, now.generation, now.ldf], [null, 2, '@p\nlocal/plugin 2\n']);
});

test('a template that cannot follow is held back with the reason, the others proceed', async () => {
  await w.build('clash', '1', { 'usr/share/clash': '1' });
  await w.build('near', '1', { 'usr/share/near': '1' });
  await template('bad', ['clash', 'near']);
  await template('good', ['near']);
  await w.fleet.create({ name: 'bad', template: 'bad' }, noProgress);
  await w.build('near', '2', { 'usr/share/clash': 'near' });
  const result = await w.fleet.update({ templates: ['bad', 'good'] }, noProgress);
  const of = (name: string) => result.templates.find((t) => t.name === name)!;
  assert.match(of('bad').held_back!, /local\/near 2.*local\/clash 1|local\/clash 1.*local\/near 2/);
  assert.equal(of('good').to, 2);
  assert.match((await w.fleet.show('bad')).held_back!, /usr\/share\/clash/);
  await w.build('near', '3', { 'usr/share/near': '3' });
  await w.fleet.update({}, noProgress);
  assert.equal((await w.fleet.show('bad')).held_back, null);
});

test('a slip in the relations of a new unit is refused, and what a killed configuration left is gone after a start', async () => {
  const own = await makeWorld();
  try {
    await refused('USAGE', own.build('page', '1', { 'srv/index': 'one' }, { depends: 'a (>= ' }));
    await own.build('page', '1', { 'srv/index': 'one' }, { depends: '' });
    const left = join(own.root, 'run/configure-abcdef');
    mkdirSync(left);
    await own.reopen();
    assert.equal(existsSync(left), false);
  } finally {
    await own.remove();
  }
});

test('layers and repositories in use are not removed', async () => {
  const error = await refused('BUSY', w.fleet.layerRemove({ repo: 'local', layer: 'base', version: '1' }));
  assert.match(error.message, /template t/);
  await refused('BUSY', w.fleet.repoRemove('local'));
  // A large file of that version was changed in part, and the version left the stack since.
  const fd = openSync(join(w.root, 'appliances/bad/private'), 'r');
  fsetxattr(fd, 'trusted.strata.bases', Buffer.from('local/near 1\0../../../units/near_1/filesystem\0'));
  const shown = await refused('BUSY', w.fleet.layerRemove({ repo: 'local', layer: 'near', version: '1' }));
  assert.match(shown.message, /changed files of appliance bad/);
  fremovexattr(fd, 'trusted.strata.bases');
  closeSync(fd);
  await w.fleet.layerRemove({ repo: 'local', layer: 'near', version: '1' });
  await refused('NOT_FOUND', w.fleet.layerShow({ repo: 'local', layer: 'near', version: '1' }));
  await refused('NOT_FOUND', w.fleet.rollback({ template: 'good', generation: 1 }, noProgress));
});

test('why: a path and a layer', async () => {
  assert.equal((await w.fleet.why({ name: 'n-1', what: '/etc/motd' })).unit, 'local/base 1');
  const layer = await w.fleet.why({ name: 'n-1', what: 'base' });
  assert.equal(layer.unit, 'local/base 1');
  assert.match(layer.chain.join('\n'), /tool[\s\S]*lib[\s\S]*base/);
  await refused('NOT_FOUND', w.fleet.why({ name: 'n-1', what: '/absent' }));
});

test('freeze: private changes become the config layer, the appliance starts afresh, all follow', async () => {
  await w.fleet.umount({ target: 'n-1' });
  const dir = join(w.root, 'appliances/n-1/private');
  mkdirSync(join(dir, 'etc/site'), { recursive: true });
  writeFileSync(join(dir, 'etc/site/conf'), 'shared', { mode: 0o640 });
  execFileSync('mknod', [join(dir, 'usr'), 'c', '0', '0']);
  await refused('UNSUPPORTED', w.fleet.templateFreeze({ name: 'held', from: 'n-1' }, noProgress));
  const info = await w.fleet.templateFreeze({ name: 't', from: 'n-1' }, noProgress);
  const config = join(w.root, `templates/t/generations/${info.generation}/config`);
  assert.equal(readFileSync(join(config, 'etc/site/conf'), 'utf8'), 'shared');
  assert.equal(lstatSync(join(config, 'etc/site/conf')).mode & 0o777, 0o640);
  assert.ok(lstatSync(join(config, 'usr')).isCharacterDevice());
  assert.deepEqual(readdirSync(dir), []);
  assert.equal((await w.fleet.why({ name: 'n-3', what: '/etc/site/conf' })).unit, null);
  assert.equal(w.plane.relayers.at(-1)![0]!.stack.levels[0]!.id, 'config/t');
  await w.fleet.update({ templates: ['t'] }, noProgress);
  assert.deepEqual(JSON.parse(readFileSync(join(w.root, 'templates/t/current/stack.json'), 'utf8')).configs, [
    { owner: 't', generation: info.generation },
  ]);
});

test('an appliance that cannot be deleted at once, or is damaged, does not keep the fleet from being opened', async () => {
  const own = await makeWorld();
  try {
    await own.build('page', '1', { 'srv/index': 'one' });
    await own.fleet.templateCreate({ name: 't', layers: ['page'], from: [], configure: false }, noProgress);
    await own.fleet.create({ name: 'n', template: 't', count: 3 }, noProgress);
    const script = `
import os
os.chdir(${JSON.stringify(join(own.root, 'appliances/n-1/private'))})
for i in range(40):
    os.mkdir('d' * 200); os.chdir('d' * 200)`;
    execFileSync('python3', ['-c', script]);
    assert.deepEqual(await own.fleet.delete(['n-1']), { deleted: ['n-1'] });
    assert.deepEqual(readdirSync(join(own.root, 'appliances')).sort(), ['n-2', 'n-3']);
    await own.fleet.close();
    writeFileSync(join(own.root, 'appliances/n-2/state.json'), '{');
    rmSync(join(own.root, 'catalog.sqlite'));
    own.fleet = await own.reopenClosed();
    const { appliances } = await own.fleet.list();
    assert.deepEqual(
      appliances.map(({ name }) => name),
      ['n-3'],
    );
    const { notes } = await own.fleet.status();
    assert.ok(
      notes.some((note) => note.includes('n-2/state.json')),
      notes.join('\n'),
    );
  } finally {
    await own.remove();
  }
});

test('a mount hides neither the state root nor a repository', async () => {
  const own = await makeWorld();
  try {
    await own.build('page', '1', { 'srv/index': 'one' });
    await own.fleet.templateCreate({ name: 't', layers: ['page'], from: [], configure: false }, noProgress);
    await own.fleet.create({ name: 'n', template: 't' }, noProgress);
    symlinkSync(own.root, join(own.dir, 'link'));
    const places = [
      '/',
      own.dir,
      own.root,
      join(own.root, 'templates'),
      join(own.dir, 'link'),
      join(own.dir, 'units'),
    ];
    for (const dir of places) await refused('USAGE', own.fleet.mount({ name: 'n', dir }));
    assert.deepEqual(own.plane.requests, []);
    await own.fleet.mount({ name: 'n', dir: join(own.dir, 'there') });
  } finally {
    await own.remove();
  }
});

test('users of the host reach no program and no directory of a layer, an import or an appliance', async () => {
  const own = await makeWorld();
  const reached = (): string => {
    const nobody = { uid: 65534, gid: 65534, cwd: '/', encoding: 'utf8' } as const;
    return spawnSync('find', [own.dir, '-name', 'found-*'], nobody).stdout;
  };
  try {
    for (const dir of [own.dir, own.root]) chmodSync(dir, 0o755);
    const source = join(own.dir, 'rootfs');
    mkdirSync(source);
    writeFileSync(join(source, 'found-if-import'), '');
    assert.notEqual(reached(), '');
    await own.fleet.repoAdd({ name: 'inside', source: join(own.root, 'repos/inside/units') }, noProgress);
    await own.build('tool', '1', { 'usr/bin/found-if-layer': 'set-user-id' });
    rmSync(join(own.dir, 'trees'), { recursive: true });
    cpSync(join(own.dir, 'units/tool_1'), join(own.root, 'repos/inside/units/tool_1'), { recursive: true });
    await own.fleet.importDir({ source, name: 'i', how: 'move' }, noProgress);
    writeFileSync(join(own.root, 'appliances/i/private/found-if-private'), '');
    assert.equal(reached(), '');
    // Of a root that an older version made.
    chmodSync(join(own.root, 'repos'), 0o755);
    chmodSync(join(own.root, 'repos/inside/units/tool_1'), 0o755);
    await own.reopen();
    assert.equal(reached(), '');
  } finally {
    await own.remove();
  }
});

test('a rollback to a unit that is not to be had any more says which, and what is whole', async () => {
  await w.build('fading', '1', { 'usr/share/fading': '1' });
  await w.fleet.templateCreate({ name: 'fade', layers: ['fading'], from: [] }, noProgress);
  for (const version of ['2', '3']) {
    await w.build('fading', version, { 'usr/share/fading': version });
    await w.fleet.update({ templates: ['fade'] }, noProgress);
  }
  await w.fleet.layerRemove({ repo: 'local', layer: 'fading', version: '1' });
  const rollback = w.fleet.rollback({ template: 'fade', generation: 1 }, noProgress);
  const error = await refused('NOT_FOUND', rollback);
  assert.match(
    error.message,
    /fade cannot go back to generation 1: its unit local\/fading 1 is not on this host/,
  );
  assert.equal(error.hint, 'generations that are whole: 2');
  assert.equal((await w.fleet.templateShow('fade')).generation, 3);
});

test('diff and reset refuse a path that is nowhere; names are taken as diff prints them', async () => {
  await w.build('odd', '1', { 'etc/a\nb': 'shared' });
  await w.fleet.templateCreate({ name: 'odd', layers: ['odd'], from: [] }, noProgress);
  await w.fleet.create({ name: 'odd', template: 'odd' }, noProgress);
  const dir = join(w.root, 'appliances/odd/private');
  mkdirSync(join(dir, 'etc'));
  writeFileSync(join(dir, 'etc/a\nb'), 'mine');
  writeFileSync(join(dir, 'etc/kept'), 'mine');
  await refused('NOT_FOUND', w.fleet.diff({ name: 'odd', path: '/missing' }));
  await refused('NOT_FOUND', w.fleet.reset({ name: 'odd', keep: ['/etc/kept', '/etc/ketp'] }));
  assert.ok(existsSync(join(dir, 'etc/kept')));
  const { entries } = await w.fleet.diff({ name: 'odd' });
  assert.deepEqual(
    entries.map(({ path }) => path),
    ['/etc/a\\x0ab', '/etc/kept'],
  );
  const { reverted } = await w.fleet.revert({ name: 'odd', paths: ['/etc/a\\x0ab'] });
  assert.deepEqual(reverted, ['/etc/a\\x0ab']);
  assert.deepEqual(readdirSync(join(dir, 'etc')), ['kept']);
  assert.deepEqual((await w.fleet.diff({ name: 'odd', path: '/etc/a\\x0ab' })).entries, []);
});

test('an appliance that programs still use after a forced unmount is neither deleted nor changed beneath them', async () => {
  await w.fleet.create({ name: 'used', template: 'odd' }, noProgress);
  w.plane.lingering = ['used'];
  const refusals = await Promise.all([
    refused('BUSY', w.fleet.delete(['used'])),
    refused('BUSY', w.fleet.revert({ name: 'used', paths: ['/etc'] })),
    refused('BUSY', w.fleet.mount({ name: 'used', dir: join(w.dir, 'used') })),
  ]);
  for (const { message } of refusals) assert.match(message, /used was unmounted, but is still in use/);
  setTimeout(() => {
    w.plane.lingering = [];
  }, 100);
  assert.deepEqual(await w.fleet.delete(['used']), { deleted: ['used'] });
});
