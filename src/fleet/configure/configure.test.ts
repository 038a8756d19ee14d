/** Configuration with the host's real dpkg: what ran, in which order and with which arguments, and what dpkg says afterwards. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { until } from '../../base/until.test-support.ts';
import {
  cleanupConfigure,
  configureTemplate,
  databaseFiles,
  needsContainer,
  type UnitChange,
} from './index.ts';
import { canConfigure, type MiniDebian, makeMiniDebian, type UnitRecipe } from './test-support.ts';

const skip = canConfigure() ? false : 'needs root on a Debian host';

// dpkg-query's own placeholders.
const LISTING = ['binary:Package', 'Version', 'db:Status-Status']
  .map((f) => `\${${f}}`)
  .join(' ')
  .concat('\n');

/** A script that writes down that it ran. */
function tell(more = ''): string {
  return `#!/bin/sh\nset -e\necho "$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $*" >>/var/log/told\n${more}\n`;
}

const ALL_SCRIPTS = {
  'pre-install': tell(),
  'post-install': tell(),
  'pre-remove': tell(),
  'post-remove': tell(),
};

describe('configuration', { skip }, () => {
  let m: MiniDebian;
  before(() => {
    m = makeMiniDebian();
  });
  after(() => m.remove());

  const configure = (changes: UnitChange[], previousStatus: string | null) =>
    configureTemplate({ root: m.root, rootfs: m.rootfs, name: 'web', changes, previousStatus });
  const told = () => {
    const file = join(m.rootfs, 'var/log/told');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').split(/ *\n/).slice(0, -1) : [];
    writeFileSync(file, '');
    return lines;
  };
  const status = () => m.read('var/lib/dpkg/status');
  const listed = () => m.run('dpkg-query', '-W', '-f', LISTING).trimEnd();

  const interested: UnitRecipe = {
    name: 'watcher',
    version: '1',
    scripts: { 'post-install': tell() },
    triggers: 'interest-noawait /usr/share/watched\ninterest-noawait refresh\n',
  };
  const lib: UnitRecipe = {
    ...{ name: 'lib', version: '1.0', fields: { Architecture: 'amd64', 'Multi-Arch': 'same' } },
    ...{ scripts: ALL_SCRIPTS, files: { 'usr/lib/lib.txt': 'one' } },
  };
  const app: UnitRecipe = {
    ...{ name: 'app', version: '1.0', fields: { 'Pre-Depends': 'lib', Depends: 'watcher' } },
    ...{
      scripts: ALL_SCRIPTS,
      files: { 'etc/app.conf': 'a=1\n', 'usr/bin/app': '' },
      conffiles: ['/etc/app.conf'],
      sums: false,
    },
  };
  const dirs: Record<string, string> = {};

  test('a fresh template: scripts in order, dpkg content, nothing left behind', async () => {
    for (const recipe of [interested, lib, app]) dirs[recipe.name] = m.unit(recipe);
    const changes = ['app', 'lib', 'watcher'].map(
      (name): UnitChange => ({ kind: 'new', dir: dirs[name]!, auto: name !== 'app' }),
    );
    assert.equal(needsContainer(changes, null), true);
    const result = await configure(changes, null);
    assert.equal(result.ok, true, JSON.stringify(result));
    const lines = told();
    const at = (line: string) => lines.indexOf(line);
    assert.ok(at('lib preinst install') >= 0 && at('lib preinst install') < at('lib postinst configure'));
    assert.ok(
      at('lib postinst configure') < at('app preinst install'),
      'pre-dependencies are configured first',
    );
    assert.ok(at('app preinst install') < at('app postinst configure'), lines.join('\n'));
    assert.equal(listed(), 'app 1.0 installed\nlib:amd64 1.0 installed\nwatcher 1 installed');
    assert.equal(m.run('dpkg', '--audit'), '');
    assert.match(status(), /Conffiles:\n \/etc\/app\.conf [0-9a-f]{32}\n/);
    assert.match(
      m.read('var/lib/apt/extended_states'),
      /Package: lib\nArchitecture: amd64\nAuto-Installed: 1\n/,
    );
    assert.doesNotMatch(m.read('var/lib/apt/extended_states'), /Package: app/);
    assert.equal(m.read('var/lib/dpkg/triggers/File'), '/usr/share/watched watcher/noawait\n');
    assert.equal(m.read('var/lib/dpkg/triggers/refresh'), 'watcher/noawait\n');
    assert.equal(existsSync(join(m.rootfs, 'usr/sbin/policy-rc.d')), false);
    assert.deepEqual(readdirSync(join(m.root, 'run')), ['containers']);
    assert.deepEqual(readdirSync(join(m.rootfs, 'dev')), []);
  });

  test('an upgrade: arguments of policy, triggers of files and by name', async () => {
    const previousStatus = status();
    m.withdraw(dirs['app']!);
    const next = m.unit({
      ...app,
      version: '2.0',
      files: { 'etc/app.conf': 'a=2\n', 'usr/share/watched/new/file': '' },
      triggers: 'activate-noawait refresh\n',
    });
    const changes: UnitChange[] = [
      { kind: 'upgraded', dir: next, previousDir: dirs['app']! },
      { kind: 'unchanged', dir: dirs['lib']!, auto: true },
      { kind: 'unchanged', dir: dirs['watcher']!, auto: true },
    ];
    const result = await configure(changes, previousStatus);
    assert.equal(result.ok, true, JSON.stringify(result));
    const lines = told();
    assert.deepEqual(
      lines.filter((line) => line.startsWith('app')),
      [
        'app prerm upgrade 2.0',
        'app preinst upgrade 1.0 2.0',
        'app postrm upgrade 2.0',
        'app postinst configure 1.0',
      ],
    );
    const triggered = lines.filter((line) => line.startsWith('watcher'));
    assert.equal(triggered.length, 1, 'once for both');
    assert.match(
      triggered[0]!,
      /^watcher postinst triggered (\/usr\/share\/watched refresh|refresh \/usr\/share\/watched)$/,
    );
    assert.equal(listed(), 'app 2.0 installed\nlib:amd64 1.0 installed\nwatcher 1 installed');
    assert.equal(m.read('etc/app.conf'), 'a=2\n');
    dirs['app'] = next;
  });

  test('a removal runs the old scripts and forgets the package', async () => {
    const previousStatus = status();
    m.withdraw(dirs['app']!);
    const changes: UnitChange[] = [
      { kind: 'removed', dir: dirs['app']! },
      { kind: 'unchanged', dir: dirs['lib']! },
      { kind: 'unchanged', dir: dirs['watcher']! },
    ];
    const result = await configure(changes, previousStatus);
    assert.equal(result.ok, true, JSON.stringify(result));
    const lines = told();
    assert.deepEqual(
      lines.filter((l) => l.startsWith('app')),
      ['app prerm remove', 'app postrm remove'],
    );
    assert.equal(lines.filter((l) => l.startsWith('watcher postinst triggered')).length, 1);
    assert.equal(listed(), 'lib:amd64 1.0 installed\nwatcher 1 installed');
    assert.equal(existsSync(join(m.rootfs, 'var/lib/dpkg/info/app.list')), false);
  });

  const keep = (): UnitChange[] => [
    { kind: 'unchanged', dir: dirs['lib']! },
    { kind: 'unchanged', dir: dirs['watcher']! },
  ];

  test('a plain package needs no container; dpkg reads the database that is written instead', () => {
    const plain = m.unit({ name: 'plain', version: '3', files: { 'usr/share/plain': 'x' } });
    const changes: UnitChange[] = [...keep(), { kind: 'new', dir: plain, auto: true }];
    assert.equal(needsContainer(changes, status()), false);
    for (const file of databaseFiles(changes, status()))
      writeFileSync(join(m.rootfs, file.path), file.content);
    assert.equal(listed(), 'lib:amd64 1.0 installed\nplain 3 installed\nwatcher 1 installed');
    assert.equal(m.run('dpkg', '--audit'), '');
    assert.match(m.run('dpkg', '-s', 'plain'), /of two paragraphs/);
    const watched = m.unit({ name: 'watched', version: '1', files: { 'usr/share/watched/w': '' } }, false);
    assert.equal(
      needsContainer([...keep(), { kind: 'new', dir: watched }], status()),
      true,
      'a file trigger',
    );
  });

  test('scripts of a layer that was built by hand run with the same arguments', async () => {
    const own = (name: string) => `#!/bin/sh\necho "own ${name} $*" >>/var/log/told\n`;
    const scripts = {
      'pre-install': own('pre-install'),
      'post-install': own('post-install'),
      'pre-remove': own('pre-remove'),
    };
    const first = m.unit({ name: 'site', version: '1', debian: false, scripts });
    const second = m.unit({ name: 'site', version: '2', debian: false, scripts });
    assert.equal((await configure([...keep(), { kind: 'new', dir: first }], status())).ok, true);
    assert.deepEqual(told(), ['own pre-install install', 'own post-install configure']);
    const upgrade: UnitChange = { kind: 'upgraded', dir: second, previousDir: first };
    assert.equal((await configure([...keep(), upgrade], status())).ok, true);
    assert.deepEqual(told(), [
      'own pre-remove upgrade 2',
      'own pre-install upgrade 1 2',
      'own post-install configure 1',
    ]);
    assert.doesNotMatch(status(), /site/, 'dpkg does not know it');
  });

  test('a diversion of a file that the package ships keeps the file', async () => {
    const divert = 'dpkg-divert --package diverter --add --rename --divert /usr/bin/tool.orig /usr/bin/tool';
    const dir = m.unit({
      ...{ name: 'diverter', version: '1', files: { 'usr/bin/tool': 'mine' } },
      scripts: { 'pre-install': tell(divert) },
    });
    const result = await configure([...keep(), { kind: 'new', dir }], status());
    assert.equal(result.ok, true, JSON.stringify(result));
    assert.equal(m.read('usr/bin/tool'), 'mine');
    assert.match(
      m.run('dpkg-divert', '--list'),
      /diversion of \/usr\/bin\/tool to \/usr\/bin\/tool\.orig by diverter/,
    );
    m.run('dpkg-divert', '--package', 'diverter', '--no-rename', '--remove', '/usr/bin/tool');
  });

  for (const script of ['pre-install', 'post-install'] as const) {
    test(`a failing ${script} is named, with its output`, async () => {
      const bad = m.unit({
        ...{ name: `bad-${script}`, version: '1' },
        scripts: { [script]: '#!/bin/sh\necho it is broken >&2\nexit 3\n' },
      });
      const result = await configure([...keep(), { kind: 'new', dir: bad }], status());
      assert.ok(!result.ok);
      assert.equal(result.unit, `bad-${script}`);
      assert.equal(result.script, script === 'pre-install' ? 'preinst' : 'postinst');
      assert.match(result.output, /it is broken/);
    });
  }

  test('a script that hangs meets the time limit and is named', async () => {
    const dir = m.unit({
      name: 'slow',
      version: '1',
      debian: false,
      scripts: { 'post-install': '#!/bin/sh\nread x </dev/zero\nwhile :; do :; done\n' },
    });
    const changes: UnitChange[] = [{ kind: 'new', dir }];
    const result = await configureTemplate({
      ...{ root: m.root, rootfs: m.rootfs, name: 'web', changes, previousStatus: null, timeoutMs: 700 },
    });
    assert.ok(!result.ok);
    assert.equal(result.status, 124);
    assert.equal(result.unit, 'slow');
    assert.deepEqual(readdirSync(join(m.root, 'run')), ['containers']);
  });

  test('what a killed stratad leaves behind is ended and removed', async () => {
    const dir = m.unit({
      ...{ name: 'endless', version: '1', debian: false },
      scripts: { 'post-install': '#!/bin/sh\n: >/tmp/begun\nwhile :; do :; done\n' },
    });
    const face = join(import.meta.dirname, 'index.ts');
    const input = {
      root: m.root,
      rootfs: m.rootfs,
      name: 'web',
      changes: [{ kind: 'new', dir }],
      previousStatus: null,
    };
    const program = `import { configureTemplate } from ${JSON.stringify(face)}; await configureTemplate(${JSON.stringify(input)});`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.on('close', resolve));
    await until('the script has begun', () => existsSync(join(m.rootfs, 'tmp/begun')));
    child.kill('SIGKILL');
    await ended;
    assert.equal(await cleanupConfigure(m.root), 1);
    assert.deepEqual(readdirSync(join(m.root, 'run')), ['containers']);
    assert.deepEqual(readdirSync(join(m.root, 'run/containers')), ['.state']);
    assert.equal(await cleanupConfigure(m.root), 0);
  });

  test('links in the root file system lead nowhere else', async () => {
    const evil = makeMiniDebian();
    try {
      const victim = join(evil.root, 'victim');
      evil.run('mkdir', '-p', '/var/lib/apt');
      const dir = evil.unit({ name: 'p', version: '1', scripts: { 'post-install': tell() } });
      evil.run('rm', '-rf', '/var/lib/apt');
      const { symlinkSync } = await import('node:fs');
      symlinkSync(victim, join(evil.rootfs, 'var/lib/apt'));
      await configureTemplate({
        ...{ root: evil.root, rootfs: evil.rootfs, name: 'x', previousStatus: null },
        changes: [{ kind: 'new', dir, auto: true }],
      });
      assert.equal(existsSync(victim), false);
    } finally {
      evil.remove();
    }
  });
});
