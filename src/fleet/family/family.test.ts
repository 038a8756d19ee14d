/** Families as the fleet keeps them: snapshots, merges, promotion, trees, ends. What diff and merge show and do inside is proven in src/vlfs. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { nameFromText, noProgress, type StrataError } from '../../base/index.ts';
import { AT_FDCWD, close, mkdirat, O_DIRECTORY, O_RDONLY, openat } from '../../sys/index.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';

let w: World;

const at = (...parts: string[]): string => join(w.root, ...parts);

before(async () => {
  w = await makeWorld();
  await w.build('base', '1', { 'etc/motd': 'base\n', 'etc/hosts': 'hosts\n', 'usr/bin/tool': '1' });
  await w.fleet.templateCreate({ name: 't', layers: ['base'], from: [] }, noProgress);
});

after(() => w.remove());

async function create(name: string, files: Record<string, string> = {}): Promise<void> {
  await w.fleet.create({ name, template: 't' }, noProgress);
  write(name, files);
}

function write(name: string, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(at('appliances', name, 'private'), path, '..'), { recursive: true });
    writeFileSync(at('appliances', name, 'private', path), text);
  }
}

async function diff(name: string, other?: string): Promise<string[]> {
  const { entries } = await w.fleet.diff({ name, ...(other === undefined ? {} : { other }) });
  return entries.map(({ path, change }) => `${change} ${path}`);
}

async function isClean(): Promise<void> {
  const { problems } = await w.fleet.fsck({}, noProgress);
  assert.deepEqual(problems, []);
}

const frozen = (): string[] => readdirSync(at('frozen')).filter((name) => !name.startsWith('.'));

test('a snapshot is kept, compared, gone back to, and deleted', async () => {
  await create('a', { 'etc/motd': 'one\n' });
  const first = await w.fleet.snapshot({ name: 'a', snapshot: 'first' });
  assert.equal(first.layers, 1);
  assert.deepEqual(await diff('a'), ['changed /etc/motd'], 'a snapshot changes nothing');
  await assert.rejects(w.fleet.snapshot({ name: 'a', snapshot: 'first' }), { code: 'EXISTS' });
  const unnamed = await w.fleet.snapshot({ name: 'a' });
  assert.match(unnamed.snapshot, /^\d{8}-\d{6}$/);
  assert.equal(unnamed.layers, 1, 'nothing new to freeze');
  write('a', { 'etc/motd': 'two\n', 'srv/new': 'new' });
  assert.deepEqual(await diff('a@first', 'a'), ['changed /etc/motd', 'added /srv', 'added /srv/new']);
  assert.deepEqual(await diff('a@first'), await diff('a@first', 'a'));
  assert.deepEqual(await diff('a', 'a@first'), ['changed /etc/motd', 'deleted /srv']);
  await w.fleet.snapshot({ name: 'a', snapshot: 'second' });
  const { createdAt: _, ...rest } = { ...(await w.fleet.show('a')), createdAt: '' };
  assert.equal(rest.snapshots, 3);
  const old = await w.fleet.clone({ source: 'a@first', name: 'old' }, noProgress);
  assert.equal(old.source, 'a');
  assert.deepEqual(await diff('a@first', 'old'), []);
  assert.deepEqual(await diff('old', 'a'), await diff('a@first', 'a'));
  await assert.rejects(w.fleet.clone({ source: 'a@no', name: 'x' }, noProgress), { code: 'NOT_FOUND' });
  await w.fleet.delete(['old']);
  const restored = await w.fleet.restore({ name: 'a', snapshot: 'first' });
  assert.equal(restored.created_at, first.created_at);
  assert.deepEqual(await diff('a@first', 'a'), []);
  assert.deepEqual(await diff('a'), ['changed /etc/motd']);
  await isClean();
  await w.reopen();
  await w.fleet.restore({ name: 'a', snapshot: 'second' });
  assert.deepEqual(await diff('a'), ['changed /etc/motd', 'added /srv', 'added /srv/new']);
  await assert.rejects(w.fleet.restore({ name: 'a', snapshot: 'third' }), { code: 'NOT_FOUND' });
  await assert.rejects(w.fleet.delete(['a@third']), { code: 'NOT_FOUND' });
  await w.fleet.restore({ name: 'a', snapshot: 'first' });
  assert.deepEqual(await w.fleet.delete(['a@second', `a@${unnamed.snapshot}`]), {
    deleted: ['a@second', `a@${unnamed.snapshot}`],
  });
  assert.deepEqual(
    (await w.fleet.snapshots('a')).snapshots.map(({ name }) => name),
    ['first'],
  );
  assert.equal(frozen().length, 1, 'what the others had is gone');
  await isClean();
  await w.fleet.delete(['a']);
  assert.deepEqual(frozen(), []);
});

test('a clone is merged into its parent, again and again', async () => {
  await create('p', { 'srv/base': 'base' });
  await w.fleet.clone({ source: 'p', name: 'c' }, noProgress);
  write('c', { 'srv/child': 'c', 'etc/motd': 'child\n' });
  write('p', { 'srv/parent': 'p' });
  const plan = await w.fleet.merge({ name: 'c', into: 'p', dryRun: true }, noProgress);
  assert.equal(plan.merged, false);
  assert.deepEqual(plan.changes, [
    { path: '/etc/motd', change: 'changed' },
    { path: '/srv/child', change: 'added' },
  ]);
  assert.deepEqual(await diff('p'), ['added /srv', 'added /srv/base', 'added /srv/parent']);
  const done = await w.fleet.merge({ name: 'c', into: 'p' }, noProgress);
  assert.deepEqual({ ...done, elapsed_ms: 0 }, { ...plan, merged: true, elapsed_ms: 0 });
  assert.deepEqual(await diff('c', 'p'), ['added /srv/parent']);
  await isClean();
  // What came over once is no conflict when the parent goes on with it.
  write('p', { 'srv/child': 'p and c' });
  write('c', { 'srv/more': 'more' });
  assert.deepEqual((await w.fleet.merge({ name: 'c', into: 'p' }, noProgress)).changes, [
    { path: '/srv/more', change: 'added' },
  ]);
  // The other way: the clone takes what is new in the parent.
  await w.fleet.merge({ name: 'p', into: 'c' }, noProgress);
  assert.deepEqual(await diff('c', 'p'), []);
  write('p', { 'etc/hosts': 'p' });
  write('c', { 'etc/hosts': 'c' });
  await assert.rejects(w.fleet.merge({ name: 'c', into: 'p' }, noProgress), (error: StrataError) => {
    assert.equal(error.code, 'CONFLICT');
    assert.match(error.message, /\/etc\/hosts \(changed\)/);
    assert.deepEqual(error.data, { conflicts: [{ path: '/etc/hosts', kind: 'changed', taken: null }] });
    return true;
  });
  assert.deepEqual(await diff('c', 'p'), ['changed /etc/hosts']);
  const { conflicts } = await w.fleet.merge({ name: 'c', into: 'p', theirs: ['/etc'] }, noProgress);
  assert.deepEqual(conflicts, [{ path: '/etc/hosts', kind: 'changed', taken: 'theirs' }]);
  assert.deepEqual(await diff('c', 'p'), []);
  assert.deepEqual(
    readdirSync(at('appliances')).filter((name) => name.startsWith('.')),
    [],
  );
  await isClean();
  await w.fleet.delete(['p']);
  assert.deepEqual((await diff('c')).includes('added /srv/more'), true);
  await w.fleet.delete(['c']);
  assert.deepEqual(frozen(), []);
});

test('who goes back to before a merge can make it again; forth again, it is known as merged', async () => {
  await create('p', { 'srv/base': 'base' });
  await w.fleet.clone({ source: 'p', name: 'c' }, noProgress);
  write('c', { 'srv/child': '1' });
  await w.fleet.snapshot({ name: 'p', snapshot: 'before' });
  await w.fleet.snapshot({ name: 'c', snapshot: 'first' });
  const merge = async (name: string, into: string): Promise<string[]> =>
    (await w.fleet.merge({ name, into }, noProgress)).changes.map(({ path, change }) => `${change} ${path}`);
  assert.deepEqual(await merge('c', 'p'), ['added /srv/child']);
  await w.fleet.snapshot({ name: 'p', snapshot: 'merged' });
  assert.deepEqual(await merge('c', 'p'), []);
  await w.fleet.restore({ name: 'p', snapshot: 'before' });
  assert.deepEqual(await merge('c', 'p'), ['added /srv/child']);
  assert.deepEqual(await diff('c', 'p'), []);
  write('c', { 'srv/child': '2' });
  assert.deepEqual(await merge('c', 'p'), ['changed /srv/child']);
  await w.reopen();
  await w.fleet.restore({ name: 'p', snapshot: 'merged' });
  assert.deepEqual(await diff('p', 'c'), ['changed /srv/child']);
  assert.deepEqual(await merge('c', 'p'), ['changed /srv/child']);
  // Back with the child: the parent has all that the child has now, and takes nothing back.
  await w.fleet.restore({ name: 'c', snapshot: 'first' });
  assert.deepEqual(await merge('c', 'p'), []);
  assert.deepEqual(await merge('p', 'c'), ['changed /srv/child']);
  // Layers that were merged in the background count as those that they were made of.
  await w.fleet.clone({ source: 'p', name: 'e', mode: 'sync' }, noProgress);
  await w.fleet.restore({ name: 'p', snapshot: 'before' });
  assert.deepEqual(await merge('c', 'p'), ['added /srv/child']);
  await isClean();
  await w.fleet.delete(['p', 'c', 'e']);
  assert.deepEqual(frozen(), []);
});

test('what is marked in the parent does not come to its clone; what the clone marks may come back', async () => {
  await create('p', { 'srv/key': 'secret', 'srv/keys/one': '1', 'srv/code': '1' });
  const mark = (path: string): string =>
    execFileSync('setfattr', ['-n', 'user.strata.nonclonable', '-v', 'y', path]).toString();
  for (const path of ['srv/key', 'srv/keys']) mark(at('appliances/p/private', path));
  await w.fleet.clone({ source: 'p', name: 'c' }, noProgress);
  write('p', { 'srv/key': 'other', 'srv/keys/two': '2', 'srv/code': '2' });
  for (const path of ['srv/key', 'srv/keys']) mark(at('appliances/p/private', path));
  const merge = async (name: string, into: string): Promise<string[]> =>
    (await w.fleet.merge({ name, into }, noProgress)).changes.map(({ path, change }) => `${change} ${path}`);
  assert.deepEqual(await merge('p', 'c'), ['changed /srv/code']);
  write('c', { 'srv/own': 'own' });
  mark(at('appliances/c/private/srv/own'));
  assert.deepEqual(await merge('c', 'p'), ['added /srv/own']);
  await w.fleet.delete(['p', 'c']);
});

test('owner, mode and attributes of the root are a part of snapshots, differences and merges', async () => {
  await create('p');
  await w.fleet.clone({ source: 'p', name: 'c' }, noProgress);
  const root = (name: string): string => at('appliances', name, 'private');
  const modeOf = (name: string): number => statSync(root(name)).mode & 0o777;
  chmodSync(root('c'), 0o700);
  execFileSync('setfattr', ['-n', 'user.note', '-v', 'x', root('c')]);
  assert.deepEqual(await diff('p', 'c'), ['metadata /']);
  await w.fleet.snapshot({ name: 'c', snapshot: 's' });
  chmodSync(root('c'), 0o711);
  assert.deepEqual(await diff('c@s', 'c'), ['metadata /']);
  await w.fleet.restore({ name: 'c', snapshot: 's' });
  assert.equal(modeOf('c'), 0o700);
  await w.fleet.merge({ name: 'c', into: 'p' }, noProgress);
  assert.equal(modeOf('p'), 0o700);
  assert.match(execFileSync('getfattr', ['-d', '--absolute-names', root('p')]).toString(), /user.note="x"/);
  assert.deepEqual(await diff('p', 'c'), []);
  await w.fleet.clone({ source: 'p', name: 'd' }, noProgress);
  assert.equal(modeOf('d'), 0o700);
  chmodSync(root('p'), 0o750);
  chmodSync(root('c'), 0o755);
  await assert.rejects(
    w.fleet.merge({ name: 'c', into: 'p' }, noProgress),
    /in conflict are \/ \(metadata\)/,
  );
  await isClean();
  await w.fleet.delete(['p', 'c', 'd']);
});

test('what no program can name is told by diff, and refused by merge', async () => {
  await create('p', { 'srv/a': '1' });
  await w.fleet.clone({ source: 'p', name: 'c' }, noProgress);
  write('c', { 'srv/b': '1' });
  let fd = openat(AT_FDCWD, nameFromText(at('appliances/c/private/srv')), O_RDONLY | O_DIRECTORY);
  for (let depth = 0; depth < 20; depth++) {
    mkdirat(fd, 'd'.repeat(250), 0o755);
    const below = openat(fd, 'd'.repeat(250), O_RDONLY | O_DIRECTORY);
    close(fd);
    fd = below;
  }
  close(fd);
  const { entries, beyond } = await w.fleet.diff({ name: 'p', other: 'c' });
  assert.equal(entries.length, 1 + 16);
  assert.deepEqual([beyond!.count, beyond!.first.startsWith('/srv/ddd')], [1, true]);
  assert.equal((await w.fleet.diff({ name: 'c' })).beyond!.count, 1);
  assert.equal((await w.fleet.diff({ name: 'p' })).beyond, undefined);
  await assert.rejects(w.fleet.merge({ name: 'c', into: 'p' }, noProgress), {
    code: 'LIMIT',
    message: /^\/srv\/ddd.*\.\.\.d*\/?d* is longer than 4,095 bytes, so it cannot be merged$/,
  });
  await w.fleet.delete(['p', 'c']);
});

test('layers that were merged in the background change nothing for diff, snapshot and merge', async () => {
  await create('k', { 'srv/a': '1', 'srv/b': '1', 'srv/c': '1' });
  await w.fleet.clone({ source: 'k', name: 'l' }, noProgress);
  write('l', { 'srv/a': '2', 'srv/l': 'l' });
  await w.fleet.snapshot({ name: 'l', snapshot: 's' });
  write('l', { 'srv/b': '2' });
  write('k', { 'srv/k': 'k' });
  await w.fleet.clone({ source: 'l', name: 'm', mode: 'sync' }, noProgress);
  assert.equal((await w.fleet.show('m')).frozen_layers, 1, 'all in one');
  assert.deepEqual(await diff('l', 'm'), []);
  assert.deepEqual(await diff('l@s', 'l'), ['changed /srv/b']);
  const changes = ['changed /srv/a', 'changed /srv/b', 'deleted /srv/k', 'added /srv/l'];
  assert.deepEqual(await diff('k', 'm'), changes);
  write('m', { 'srv/c': '3' });
  assert.equal((await w.fleet.merge({ name: 'm', into: 'l' }, noProgress)).changes.length, 1);
  const { changes: merged } = await w.fleet.merge({ name: 'l', into: 'k' }, noProgress);
  assert.deepEqual(
    merged.map(({ path }) => path),
    ['/srv/a', '/srv/b', '/srv/c', '/srv/l'],
  );
  await w.fleet.restore({ name: 'l', snapshot: 's' });
  assert.deepEqual(await diff('l@s', 'l'), []);
  await isClean();
  await w.fleet.delete(['k', 'l', 'm']);
});

test('what a policy hides from the child stays in the parent', async () => {
  await create('q', { 'srv/app/key': 'secret', 'srv/app/code': '1' });
  await w.fleet.clone({ source: 'q', name: 'r', exclude: ['**/key'] }, noProgress);
  assert.deepEqual(await diff('q', 'r'), []);
  assert.deepEqual(await diff('r', 'q'), []);
  // What the parent writes later at such a place is not shown either.
  write('q', { 'srv/other/key': 'secret' });
  assert.deepEqual(await diff('r', 'q'), ['added /srv/other']);
  await assert.rejects(w.fleet.merge({ name: 'q', into: 'r' }, noProgress), { code: 'DENIED' });
  write('r', { 'srv/app/key': 'own' });
  const { conflicts } = await w.fleet.merge({ name: 'r', into: 'q', prefer: 'ours' }, noProgress);
  assert.deepEqual(conflicts, [{ path: '/srv/app/key', kind: 'hidden', taken: 'ours' }]);
  await w.fleet.clone({ source: 'q', name: 's', exclude: ['**/key'] }, noProgress);
  const whiteouts = at('appliances/s/whiteouts/frozen');
  assert.equal(existsSync(whiteouts), false);
  // The clone deletes the directory, as far as it sees it.
  const [top] = JSON.parse(readFileSync(at('appliances/s/state.json'), 'utf8')).frozen as string[];
  assert.ok(top);
  mkdirSync(at('appliances/s/private/srv'), { recursive: true });
  execFileSync('mknod', [at('appliances/s/private/srv/app'), 'c', '0', '0']);
  assert.deepEqual(await diff('q', 's'), ['deleted /srv/app']);
  await w.fleet.merge({ name: 's', into: 'q' }, noProgress);
  assert.deepEqual(await diff('q'), [
    'added /srv',
    'added /srv/app',
    'added /srv/app/key',
    'added /srv/other',
    'added /srv/other/key',
  ]);
  await w.fleet.delete(['q', 'r', 's']);
});

test('a tree of clones; promotion; what is left when a parent is deleted', async () => {
  await create('g', { x: '1' });
  await w.fleet.clone({ source: 'g', name: 'h' }, noProgress);
  await w.fleet.clone({ source: 'h', name: 'i' }, noProgress);
  await w.fleet.clone({ source: 'g', name: 'j', ttlSeconds: 3600 }, noProgress);
  await w.fleet.snapshot({ name: 'h', snapshot: 'before' });
  const tree = async (name?: string) =>
    (await w.fleet.tree(name === undefined ? {} : { name })).appliances.map(
      (one) => `${'  '.repeat(one.depth)}${one.name}${one.snapshots.map((s) => `@${s.name}`).join('')}`,
    );
  assert.deepEqual(await tree(), ['g', '  h@before', '    i', '  j']);
  assert.deepEqual(await tree('i'), ['g', '  h@before', '    i', '  j']);
  const { appliances } = await w.fleet.tree({});
  assert.ok(appliances.find(({ name }) => name === 'j')!.expires !== null);
  await assert.rejects(w.fleet.promote('g'), { code: 'UNSUPPORTED' });
  assert.deepEqual(await w.fleet.promote('h'), { name: 'h', former_parent: 'g', parent: null });
  assert.deepEqual(await tree(), ['h@before', '  g', '    j', '  i']);
  write('h', { x: '2' });
  assert.deepEqual((await w.fleet.merge({ name: 'h', into: 'g' }, noProgress)).changes, [
    { path: '/x', change: 'changed' },
  ]);
  await w.reopen();
  assert.deepEqual(await tree(), ['h@before', '  g', '    j', '  i']);
  await w.fleet.delete(['g']);
  assert.deepEqual(await tree(), ['h@before', '  i', 'j']);
  assert.equal((await w.fleet.tree({})).appliances.at(-1)!.deleted_parent, 'g');
  // Another one of that name is not its parent.
  await create('g');
  assert.deepEqual(await tree(), ['g', 'h@before', '  i', 'j']);
  await isClean();
  await w.fleet.delete(['g', 'h', 'i', 'j']);
  assert.deepEqual(frozen(), []);
});

test('a promoted clone takes nothing back that its parent was merged with meanwhile', async () => {
  await create('g', { 'srv/a': '1' });
  await w.fleet.clone({ source: 'g', name: 'h' }, noProgress);
  await w.fleet.clone({ source: 'h', name: 'i' }, noProgress);
  write('h', { 'srv/h': 'h' });
  await w.fleet.merge({ name: 'h', into: 'g' }, noProgress);
  write('i', { 'srv/i': 'i' });
  await w.fleet.promote('i');
  assert.deepEqual((await w.fleet.merge({ name: 'i', into: 'g' }, noProgress)).changes, [
    { path: '/srv/i', change: 'added' },
  ]);
  assert.deepEqual(await diff('g'), ['added /srv', 'added /srv/a', 'added /srv/h', 'added /srv/i']);
  await w.fleet.delete(['g', 'h', 'i']);
});

test('an end: set, shown, changed, and come', async () => {
  await w.fleet.create({ name: 'u', template: 't', count: 2, ttlSeconds: 1 }, noProgress);
  await w.fleet.clone({ source: 'u-1', name: 'v', ttlSeconds: 1 }, noProgress);
  const { expires } = await w.fleet.ttl({ name: 'u-2', ttlSeconds: 3600 });
  assert.equal((await w.fleet.show('u-2')).expires, expires);
  assert.equal((await w.fleet.list()).appliances.find(({ name }) => name === 'u-2')!.expires, expires);
  await assert.rejects(w.fleet.ttl({ name: 'u-2', ttlSeconds: 0 }), { code: 'USAGE' });
  const dir = join(w.dir, 'mnt-v');
  await w.fleet.mount({ name: 'v', dir });
  w.plane.busy.add(dir);
  await w.reopen();
  await delay(1100);
  assert.deepEqual((await w.fleet.expire({ dryRun: true })).expired.sort(), ['u-1', 'v']);
  const first = await w.fleet.expire({});
  assert.deepEqual(first.expired, ['u-1']);
  assert.equal(first.next, expires);
  assert.match(first.kept[0]!.reason, /appliance v is in use at /);
  w.plane.busy.clear();
  assert.deepEqual((await w.fleet.expire({})).expired, ['v']);
  assert.equal((await w.fleet.ttl({ name: 'u-2', ttlSeconds: null })).expires, null);
  assert.deepEqual(await w.fleet.expire({}), { expired: [], kept: [], next: null });
  await isClean();
  await w.fleet.delete(['u-2']);
});

test('what a power cut takes of the catalog alone is not forgotten', async () => {
  await create('w');
  await w.fleet.snapshot({ name: 'w', snapshot: 'old' });
  const changes = {
    ttl: () => w.fleet.ttl({ name: 'w', ttlSeconds: 3600 }),
    snapshot: () => w.fleet.snapshot({ name: 'w', snapshot: 'new' }),
    delete: () => w.fleet.delete(['w@old']),
  };
  for (const [what, change] of Object.entries(changes)) {
    await w.fleet.close();
    const older = readFileSync(at('catalog.sqlite'));
    w.fleet = await w.reopenClosed();
    await change();
    const { expires, snapshots } = await w.fleet.show('w');
    await w.fleet.close();
    writeFileSync(at('catalog.sqlite'), older);
    w.fleet = await w.reopenClosed();
    const now = await w.fleet.show('w');
    assert.deepEqual([now.expires, now.snapshots], [expires, snapshots], what);
  }
  await w.fleet.delete(['w']);
});

test('fsck tells of a snapshot that lacks a layer', async () => {
  await create('x', { y: 'y' });
  await w.fleet.snapshot({ name: 'x', snapshot: 's' });
  await w.fleet.reset({ name: 'x', keep: [] });
  rmSync(at('frozen', frozen()[0]!, 'private'), { recursive: true });
  const { problems } = await w.fleet.fsck({}, noProgress);
  assert.match(problems.map(({ problem }) => problem).join(), /its snapshot s lacks the frozen layer/);
  await w.fleet.delete(['x']);
});
