/** Bad input through the front door: a clear error, the right exit status, and the state as before. */
import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('refuse');
after(() => s.remove());

async function layer(
  name: string,
  version: string,
  files: Record<string, string>,
  ...options: string[]
): Promise<void> {
  const tree = join(s.root, 'trees', `${name}-${version}`);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(tree, path, '..'), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', name, '--version', version, ...options);
}

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await layer('apache', '2', { 'usr/sbin/apache': 'a' });
  await layer('mail', '1', { 'usr/bin/mail': 'm' }, '--depends', 'transport (>= 4) | relay');
  await layer('left', '1', { 'usr/share/both': 'l' });
  await layer('right', '1', { 'usr/share/both': 'r' });
});

async function refused(
  status: number,
  code: string,
  args: string[],
): Promise<{ message: string; hint?: string }> {
  const outcome = await s.run(['--json', ...args]);
  assert.equal(outcome.status, status, outcome.stdout + outcome.stderr);
  const { error } = JSON.parse(outcome.stdout);
  assert.equal(error.code, code, error.message);
  return error;
}

const templates = async () =>
  (await s.json('template', 'list')).templates.map((t: { name: string }) => t.name);

test('an unsatisfiable request exits 3 and names what is missing', async () => {
  const error = await refused(3, 'UNSATISFIABLE', ['template', 'create', 't', 'mail']);
  assert.match(error.message, /mail/);
  assert.match(error.message, /transport|relay/);
  assert.deepEqual(await templates(), []);
});

test('an unknown layer exits 3 or names similar ones', async () => {
  const outcome = await s.run(['--json', 'template', 'create', 't', 'apach']);
  assert.equal(outcome.status, 3);
  assert.match(outcome.stdout, /apache/);
});

test('two software layers with the same file are refused with both owners', async () => {
  const error = await refused(3, 'CONFLICT', ['template', 'create', 't', 'left', 'right']);
  assert.match(error.message, /left/);
  assert.match(error.message, /right/);
  assert.match(error.message, /usr\/share\/both/);
  assert.deepEqual(await templates(), []);
});

test('wrong usage exits 2', async () => {
  assert.equal((await s.run(['create'])).status, 2);
  assert.equal((await s.run(['frobnicate'])).status, 2);
  assert.equal((await s.run(['--json', 'create', '../x', '--template', 't'])).status, 2);
});

test('a corrupted .deb is refused at every kind of damage and leaves no unit', async () => {
  const build = join(s.root, 'debs');
  await sh(`mkdir -p ${build}/p/DEBIAN ${build}/p/usr/share/p && head -c 300000 /dev/urandom > ${build}/p/usr/share/p/data &&
    printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@example.org>\\nDescription: test\\n' > ${build}/p/DEBIAN/control &&
    cd ${build} && dpkg-deb -Zxz -b p good.deb && dpkg-deb -Zgzip -b p gz.deb`);
  const before = readdirSync(join(s.root, 'units'));
  const good = readFileSync(join(build, 'good.deb'));
  const damage: [string, (file: string) => void][] = [
    ['truncated', (file) => truncateSync(file, 5000)],
    [
      'flipped',
      (file) => {
        const b = Buffer.from(good);
        b[good.length - 3000]! ^= 0xff;
        b[good.length - 90000]! ^= 0xff;
        writeFileSync(file, b);
      },
    ],
    ['not a package', (file) => writeFileSync(file, 'hello')],
    ['empty', (file) => writeFileSync(file, '')],
  ];
  for (const [what, spoil] of damage) {
    const file = join(build, 'bad.deb');
    writeFileSync(file, good);
    spoil(file);
    const outcome = await s.run(['--json', 'layer', 'import', file, '--repo', 'local']);
    assert.equal(outcome.status, 1, `${what}: ${outcome.stdout}`);
    assert.ok(JSON.parse(outcome.stdout).error.message.length > 10, what);
    assert.deepEqual(
      readdirSync(join(s.root, 'units')).filter((n) => !before.includes(n) && !n.startsWith('Layers')),
      [],
      what,
    );
  }
  const file = join(build, 'gz.deb');
  const result = await s.json('layer', 'import', file, '--repo', 'local');
  assert.deepEqual(result.units, [{ repo: 'local', layer: 'p', version: '1' }]);
  assert.deepEqual((await s.json('layer', 'verify', 'local/p')).problems, []);
});

test('tampering with a shared layer on disk is found by verify', async () => {
  appendFileSync(join(s.root, 'units/apache_2/filesystem/usr/sbin/apache'), 'x');
  const outcome = await s.run(['--json', 'layer', 'verify', 'local/apache']);
  assert.equal(outcome.status, 1);
  const { problems } = JSON.parse(outcome.stdout);
  assert.equal(problems.length > 0, true);
  assert.match(problems[0].path, /usr\/sbin\/apache/);
});

test('a failing maintainer script fails the template with its output and leaves nothing', async () => {
  const scripts = join(s.root, 'scripts');
  mkdirSync(scripts, { recursive: true });
  writeFileSync(join(scripts, 'post-install'), '#!/bin/sh\necho the-reason >&2\nexit 7\n', { mode: 0o755 });
  // A root file system with a shell, so that the script can run.
  const tree = join(s.root, 'trees/shell');
  await sh(
    `mkdir -p ${tree}/usr/bin ${tree}/etc && ln -s usr/bin ${tree}/bin && cp /bin/busybox ${tree}/usr/bin/busybox && for c in sh ls cat mkdir rm mv cp chmod true ln dirname; do ln -s busybox ${tree}/usr/bin/$c; done`,
  );
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'shell', '--version', '1');
  await layer('broken', '1', { 'usr/share/broken': 'b' }, '--scripts', scripts, '--depends', 'shell');
  const outcome = await s.run(['--json', 'template', 'create', 'bad', 'broken']);
  assert.equal(outcome.status, 1, outcome.stdout);
  assert.match(outcome.stdout, /SCRIPT_FAILED/);
  assert.match(outcome.stdout, /the-reason/);
  assert.deepEqual(await templates(), []);
});

test('a full disk: a clear error, the state as before', async () => {
  const image = join(s.root, 'small');
  await sh(
    `truncate -s 24M ${image} && mkfs.ext4 -q ${image} && mkdir -p ${s.root}/full && mount -o loop ${image} ${s.root}/full`,
  );
  try {
    const big = join(s.root, 'trees/big');
    await sh(`mkdir -p ${big} && head -c 30000000 /dev/urandom > ${big}/blob`);
    await s.json('repo', 'add', 'full', join(s.root, 'full/units'));
    const outcome = await s.run([
      '--json',
      'layer',
      'build',
      big,
      '--repo',
      'full',
      '--name',
      'big',
      '--version',
      '1',
    ]);
    assert.equal(outcome.status, 1);
    assert.match(outcome.stdout, /NO_SPACE/);
    assert.deepEqual(
      readdirSync(join(s.root, 'full/units')).filter((n) => n.startsWith('big')),
      [],
    );
  } finally {
    await s.run(['repo', 'remove', 'full']);
    await sh(`umount -l ${s.root}/full`);
  }
});
