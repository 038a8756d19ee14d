/** Policies as commands use them: texts, what is offered, and what an appliance keeps of them. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { noProgress } from '../../base/index.ts';
import { createMatcher, NO_RULE, shownAtPath } from '../../vlfs/index.ts';
import type { Fleet } from '../contract.ts';
import { makeWorld, type World } from '../fleet.test-support.ts';
import { lockedPasswords } from './apply.ts';
import { formatPolicy, parsePolicy } from './policy-text.ts';
import { SECRETS, secretsText } from './secrets.ts';

test('a policy says the same after it is written and read; what is no rule is refused with its line', () => {
  for (const name of SECRETS) {
    const rules = parsePolicy(secretsText(name)!, name);
    assert.ok(rules.length > 0);
    assert.deepEqual(
      rules.filter(({ protects }) => protects === ''),
      [],
      `${name} says what each rule protects`,
    );
    assert.deepEqual(parsePolicy(formatPolicy(rules), name), rules);
  }
  for (const line of [
    'excluded x',
    'exclude',
    'exclude !x',
    'substitute /a',
    'substitute a = empty',
    'substitute /a = other',
  ])
    assert.throws(() => parsePolicy(`# comment\n${line}\n`, 'p'), line);
  assert.throws(() => parsePolicy('\nnonsense', 'p'), /line 2/);
});

test('what is offered covers where the usual programs keep secrets, and leaves what a machine needs', () => {
  const patterns = SECRETS.flatMap((name) =>
    parsePolicy(secretsText(name)!, name).map(({ pattern }) => pattern),
  );
  const matcher = createMatcher(patterns);
  const secret = [
    '/etc/ssh/ssh_host_ed25519_key',
    '/root/.ssh/id_ed25519',
    '/home/ann/.ssh/id_rsa',
    '/etc/shadow',
    '/etc/gshadow-',
    '/etc/machine-id',
    '/home/ann/.aws/credentials',
    '/home/ann/.config/gcloud/credentials.db',
    '/root/.azure/msal_token_cache.json',
    '/home/ann/.git-credentials',
    '/root/.npmrc',
    '/home/ann/.docker/config.json',
    '/root/.kube/config',
    '/home/ann/.bash_history',
    '/root/.gnupg/private-keys-v1.d/x.key',
    '/srv/app/.env',
    '/srv/app/.env.production',
    '/etc/ssl/private/site.key',
    '/etc/letsencrypt/live/site/privkey.pem',
    '/home/ann/.netrc',
    '/home/ann/.pypirc',
  ];
  for (const path of secret) assert.notEqual(matcher.ruleOfPath(path, false), NO_RULE, path);
  const harmless = [
    '/etc/passwd',
    '/etc/ssh/sshd_config',
    '/root/.ssh/authorized_keys',
    '/root/.ssh/known_hosts',
    '/etc/ssl/certs/ca-certificates.crt',
    '/srv/app/.env.example',
    '/usr/bin/ssh',
    '/usr/share/doc/history',
    '/home/ann/.bashrc',
  ];
  for (const path of harmless) assert.equal(matcher.ruleOfPath(path, false), NO_RULE, path);
});

test('shadow with locked passwords keeps every account and no hash', () => {
  const shadow = 'root:$6$x$y:19000:0:99999:7:::\ndaemon:*:1::::::\nann:!$6$z:1::::::\nnone::1::::::\n';
  assert.equal(
    Buffer.from(lockedPasswords(Buffer.from(shadow))).toString(),
    'root:!*:19000:0:99999:7:::\ndaemon:*:1::::::\nann:!:1::::::\nnone:!*:1::::::\n',
  );
});

async function inWorld(body: (world: World, fleet: Fleet) => Promise<void>): Promise<void> {
  const world = await makeWorld();
  try {
    await world.build('base', '1', {
      'etc/shadow': 'root:$6$SECRET:1::::::\n',
      'etc/machine-id': 'SECRET\n',
      'etc/motd': 'hello\n',
      'root/.ssh/id_rsa': 'SECRET\n',
      'srv/data/a': 'a\n',
      'srv/data/.env': 'SECRET\n',
    });
    await world.fleet.templateCreate(
      { name: 't', layers: ['local/base'], from: [], configure: false },
      noProgress,
    );
    await world.fleet.create({ name: 'one', template: 't' }, noProgress);
    await world.fleet.create({ name: 'two', template: 't' }, noProgress);
    await body(world, world.fleet);
  } finally {
    await world.remove();
  }
}

/** What the appliance shows at a path, as the data plane would be told to serve it. */
async function shows(world: World, name: string, path: string): Promise<string | null> {
  const dir = join(world.dir, `mnt-${name}`);
  mkdirSync(dir, { recursive: true });
  await world.fleet.mount({ name, dir });
  const { vlfs } = world.plane.requests.at(-1)!;
  await world.fleet.umount({ target: name });
  const shown = shownAtPath(vlfs, path, 1000);
  return shown === null ? null : Buffer.from(shown.content ?? 'no file').toString();
}

test('an appliance gets the rules, keeps them when the policy goes, follows updates, and is never shown without', () =>
  inWorld(async (world, fleet) => {
    writeFileSync(join(world.dir, 'other-motd'), 'other\n');
    const made = await fleet.policyCreate({
      name: 'shop',
      exclude: ['/srv/data/a'],
      substitutes: [{ path: '/etc/motd', file: join(world.dir, 'other-motd') }],
    });
    assert.deepEqual([made.rules, made.substitutes, made.offered], [2, 1, false]);
    await assert.rejects(fleet.policyCreate({ name: 'shop', exclude: ['x'] }), { code: 'EXISTS' });
    await assert.rejects(fleet.policyDelete('secrets-ssh'), { code: 'DENIED' });
    await assert.rejects(fleet.policyApply({ name: 'one', policies: ['none'] }), { code: 'NOT_FOUND' });
    await assert.rejects(fleet.policyApply({ name: 'one', exclude: ['!x'] }), { code: 'USAGE' });
    await fleet.policyApply({ name: 'one', policies: ['shop'], secrets: true });
    writeFileSync(join(world.dir, 'other-motd'), 'later\n');
    await fleet.policyDelete('shop');
    const check = async (): Promise<void> => {
      assert.equal(await shows(world, 'one', '/srv/data/a'), null);
      assert.equal(await shows(world, 'one', '/srv/data/.env'), null);
      assert.equal(await shows(world, 'one', '/root/.ssh/id_rsa'), null);
      assert.equal(await shows(world, 'one', '/etc/motd'), 'other\n');
      assert.equal(await shows(world, 'one', '/etc/machine-id'), '');
      assert.equal(await shows(world, 'one', '/etc/shadow'), 'root:!*:1::::::\n');
    };
    await check();
    assert.equal(await shows(world, 'two', '/etc/machine-id'), 'SECRET\n');
    await world.reopen();
    await check();
    await world.build('base', '2', {
      'etc/machine-id': 'SECRET 2\n',
      'new/.env': 'SECRET\n',
      'etc/motd': 'x',
    });
    await world.fleet.update({}, noProgress);
    assert.equal(await shows(world, 'one', '/new/.env'), null);
    assert.equal(await shows(world, 'one', '/etc/machine-id'), '');
    assert.equal(await shows(world, 'one', '/etc/motd'), 'other\n');
    await assert.rejects(world.fleet.why({ name: 'one', what: '/new/.env' }), { code: 'NOT_FOUND' });
    await assert.rejects(world.fleet.templateFreeze({ name: 't', from: 'one' }, noProgress), {
      code: 'DENIED',
    });
    writeFileSync(join(world.root, 'appliances/one/policy.json'), '{"format":2}');
    await assert.rejects(world.fleet.diff({ name: 'one' }), { code: 'BAD_FORMAT' });
  }));

test('a mounted appliance is relayered to its stricter policy; what it mounts then is the same stack', () =>
  inWorld(async (world, fleet) => {
    const dir = join(world.dir, 'm');
    mkdirSync(dir);
    await fleet.mount({ name: 'one', dir });
    await fleet.policyApply({ name: 'one', exclude: ['/etc/motd'] });
    const last = world.plane.relayers.at(-1)!;
    assert.deepEqual([last[0]!.id, last[0]!.stack.policy], ['one', { rules: ['/etc/motd'] }]);
    assert.equal(world.plane.mounts[0]!.stackKey, last[0]!.stack.key);
  }));

test('a graft shows what the other appliance has now, without what either excludes or marks; grafts of grafts too', () =>
  inWorld(async (world, fleet) => {
    const own = join(world.root, 'appliances/two/private/srv/data');
    mkdirSync(join(own, 'deep'), { recursive: true });
    writeFileSync(join(own, 'deep/b'), 'b\n');
    writeFileSync(join(own, 'deep/marked'), 'SECRET\n');
    writeFileSync(join(own, 'deep/hidden'), 'SECRET\n');
    await fleet.policyMark({ name: 'two', paths: ['/srv/data/deep/marked'], marked: true });
    await fleet.policyApply({ name: 'two', exclude: ['**/hidden'] });
    const graft = { path: '/srv/data', appliance: 'two', from: '/srv/data' };
    await assert.rejects(
      fleet.policyApply({
        name: 'one',
        grafts: [graft],
        substitutes: [{ path: '/srv/data/x', file: '/etc/hostname' }],
      }),
      { code: 'USAGE' },
    );
    await fleet.policyApply({ name: 'one', exclude: ['**/.env'], grafts: [graft] });
    writeFileSync(join(own, 'deep/b'), 'later\n');
    const state = async (name: string, at: string) => [
      await shows(world, name, `${at}/a`),
      await shows(world, name, `${at}/deep/b`),
      await shows(world, name, `${at}/.env`),
      await shows(world, name, `${at}/deep/marked`),
      await shows(world, name, `${at}/deep/hidden`),
    ];
    assert.deepEqual(await state('one', '/srv/data'), ['a\n', 'b\n', null, null, null]);
    await fleet.create({ name: 'three', template: 't' }, noProgress);
    await fleet.policyApply({
      name: 'three',
      grafts: [{ path: '/opt/again', appliance: 'one', from: '/srv/data' }],
    });
    assert.deepEqual(await state('three', '/opt/again'), ['a\n', 'b\n', null, null, null]);
    assert.equal(await shows(world, 'three', '/srv/data/.env'), 'SECRET\n');
    assert.equal(await shows(world, 'two', '/srv/data/deep/marked'), 'SECRET\n');
    assert.deepEqual(
      readdirSync(join(world.root, 'policies')).filter((name) => name.startsWith('.tmp')),
      [],
    );
    const used = readdirSync(join(world.root, 'policies/.layers')).length;
    await fleet.delete(['three']);
    await fleet.gc({}, noProgress);
    assert.equal(readdirSync(join(world.root, 'policies/.layers')).length, used - 1);
    assert.deepEqual(await state('one', '/srv/data'), ['a\n', 'b\n', null, null, null]);
  }));

test('a path that leads through a link is no place for a substitute', () =>
  inWorld(async (world, fleet) => {
    const priv = join(world.root, 'appliances/one/private');
    mkdirSync(priv, { recursive: true });
    symlinkSync('/etc', join(priv, 'way'));
    await assert.rejects(
      fleet.policyApply({ name: 'one', substitutes: [{ path: '/way/motd', file: '/etc/hostname' }] }),
      { code: 'USAGE' },
    );
  }));

test('clones: the source keeps its secrets, the clone and its clones do not get them, and everybody keeps what is his own', () =>
  inWorld(async (world, fleet) => {
    const priv = (name: string) => join(world.root, 'appliances', name, 'private');
    mkdirSync(join(priv('one'), 'srv/own'), { recursive: true });
    writeFileSync(join(priv('one'), 'srv/own/.env'), 'SECRET\n');
    writeFileSync(join(priv('one'), 'srv/own/marked'), 'SECRET\n');
    writeFileSync(join(priv('one'), 'srv/own/plain'), 'plain\n');
    await fleet.policyMark({ name: 'one', paths: ['/srv/own/marked'], marked: true });
    await fleet.clone({ source: 'one', name: 'child', exclude: ['.env'], secrets: true }, noProgress);
    await fleet.clone({ source: 'one', name: 'plain' }, noProgress);
    assert.equal(await shows(world, 'one', '/srv/own/.env'), 'SECRET\n');
    assert.equal(await shows(world, 'one', '/srv/own/marked'), 'SECRET\n');
    assert.equal(await shows(world, 'plain', '/srv/own/.env'), 'SECRET\n');
    assert.equal(await shows(world, 'plain', '/srv/own/marked'), null);
    const check = async (name: string): Promise<void> => {
      for (const path of ['/srv/own/.env', '/srv/own/marked', '/srv/data/.env', '/root/.ssh/id_rsa'])
        assert.equal(await shows(world, name, path), null, `${name} ${path}`);
      assert.equal(await shows(world, name, '/srv/own/plain'), 'plain\n');
      assert.equal(await shows(world, name, '/etc/machine-id'), '');
      assert.equal(await shows(world, name, '/etc/shadow'), 'root:!*:1::::::\n');
    };
    await check('child');
    // Its own keys at the same places: it keeps them when it is cloned, its clones do not get them.
    mkdirSync(join(priv('child'), 'root/.ssh'), { recursive: true });
    writeFileSync(join(priv('child'), 'root/.ssh/id_rsa'), 'own\n');
    await fleet.clone({ source: 'child', name: 'grandchild', exclude: ['/etc/motd'] }, noProgress);
    assert.equal(await shows(world, 'child', '/root/.ssh/id_rsa'), 'own\n');
    assert.equal(await shows(world, 'child', '/srv/own/.env'), null);
    assert.equal(await shows(world, 'child', '/etc/motd'), 'hello\n');
    await check('grandchild');
    assert.equal(await shows(world, 'grandchild', '/etc/motd'), null);
    await world.fleet.delete(['one']);
    await world.reopen();
    await check('grandchild');
    await assert.rejects(world.fleet.revert({ name: 'grandchild', paths: ['/srv/own/.env'] }), {
      code: 'NOT_FOUND',
    });
    await world.fleet.revert({ name: 'grandchild', paths: ['/'] });
    assert.equal(await shows(world, 'grandchild', '/srv/data/.env'), null);
    assert.equal(await shows(world, 'grandchild', '/root/.ssh/id_rsa'), null);
  }));
