/**
 * kill -9 of strata-fs and stratad while programs hold what a takeover must not lose: a file under fsx in each cache mode, locks, mappings, files without
 * names, directories that are being read, watches, signals; a container; programs that are killed themselves. STRATA_TAKEOVER_SECONDS makes fsx longer.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../src/base/until.test-support.ts';
import { createClient } from '../../src/client/index.ts';
import { killDuring, killNow, pidIn, program, succeeded } from '../helpers/kills.ts';
import { project, sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('killed-programs');
after(() => s.remove());
const seconds = Number(process.env['STRATA_TAKEOVER_SECONDS'] ?? 5);
const view = (name: string): string => join(s.root, 'views', name);

before(async () => {
  const tree = join(s.root, 'tree');
  await sh(`mkdir -p ${tree}/usr/bin ${tree}/tmp && ln -s usr/bin ${tree}/bin && cp /bin/busybox ${tree}/usr/bin/ &&
    for c in sh sleep touch cat mv rm expr; do ln -s busybox ${tree}/usr/bin/$c; done; head -c 200000 /dev/urandom > ${tree}/usr/large`);
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'work', '--version', '1');
  await s.json('template', 'create', 't', 'local/work');
  const client = createClient({ root: s.root });
  for (const [name, cache] of [
    ['shared', 'shared'],
    ['exact', 'exact'],
  ] as const) {
    await s.json('create', name, '--template', 't');
    mkdirSync(view(name), { recursive: true });
    await client.call('mount', { name, dir: view(name), cache });
  }
  await s.json('create', 'container', '--template', 't');
});

test('fsx, on new files and over shared ones, in both cache modes', async (t) => {
  const runs = ['shared', 'exact'].flatMap((name) =>
    ['tmp/new', 'usr/large'].map((file) => `${view(name)}/${file}`),
  );
  const work = runs.map((file, i) =>
    program(process.execPath, [
      '--disable-warning=ExperimentalWarning',
      join(project, 'test/helpers/fsx.ts'),
      file,
      `${Date.now() + i}`,
      `${seconds * 1000}`,
    ]),
  );
  const kills = await killDuring(s.root, Promise.all(work));
  const counts = await Promise.all(work);
  t.diagnostic(`${counts.map((count) => count.trim()).join(', ')} operations, ${kills} kills`);
  assert.ok(kills > 0);
});

test('locks, mappings, unlinked files, listings, watches and timers outlive each kill, in both cache modes', async () => {
  const held = ['shared', 'exact'].map((name) => {
    const dir = join(view(name), 'tmp/held');
    mkdirSync(dir);
    const child = spawn('python3', [join(project, 'test/helpers/held-state.py'), dir]);
    let lines = '';
    child.stdout.on('data', (chunk) => {
      lines += chunk;
    });
    return {
      child,
      ended: succeeded(child),
      said: (line: string) => lines.includes(line) || child.exitCode !== null,
    };
  });
  await until('they have begun', () => held.every(({ said }) => said('up')));
  for (let i = 1; i <= 3; i++) {
    const pid = pidIn(s.root, 'strata-fs.pid');
    if (i === 2) killNow(s.root, 'stratad.pid');
    killNow(s.root, 'strata-fs.pid');
    for (const { child } of held) child.stdin.write(`${i}\n`);
    await until(`the checks after kill ${i}`, () => held.every(({ said }) => said(`${i}\n`)));
    await until('the next strata-fs', () => pidIn(s.root, 'strata-fs.pid') !== pid);
  }
  for (const { child, ended } of held) {
    child.stdin.end();
    await ended;
  }
});

test('a container goes on, and is told to end', async () => {
  const container = s.start([
    'run',
    'container',
    '--',
    'sh',
    '-c',
    `trap 'echo bye > /tmp/end; exit 7' TERM; i=0; while :; do i=$(expr $i + 1) || exit 9; echo $i > /tmp/new && mv /tmp/new /tmp/count || exit 8; sleep 0.02; done`,
  ]);
  const inside = join(s.root, 'appliances/container/private/tmp');
  const count = (): number => {
    try {
      return Number(readFileSync(join(inside, 'count'), 'utf8'));
    } catch {
      return 0;
    }
  };
  await until('the container runs', () => count() > 0);
  for (let i = 0; i < 3; i++) {
    if (i === 1) killNow(s.root, 'stratad.pid');
    killNow(s.root, 'strata-fs.pid');
    const before = count();
    await until(
      `the container goes on after kill ${i + 1}`,
      () => count() > before + 5 || container.exitCode !== null,
    );
    assert.equal(container.exitCode, null);
  }
  container.kill('SIGTERM');
  if (container.exitCode === null) await once(container, 'exit');
  assert.equal(existsSync(join(inside, 'end')), true);
});

test('programs that are killed while they wait for a dead strata-fs leave nothing open', async () => {
  const dir = join(view('shared'), 'tmp');
  for (let i = 0; i < 3; i++) {
    const victims = Array.from({ length: 6 }, (_, n) =>
      spawn(
        'sh',
        ['-c', `while :; do echo x > ${dir}/v${n}; cat ${dir}/v${n} >/dev/null; rm ${dir}/v${n}; done`],
        {
          stdio: 'ignore',
        },
      ),
    );
    await sleep(100);
    killNow(s.root, 'strata-fs.pid');
    for (const victim of victims) victim.kill('SIGKILL');
    await Promise.all(
      victims.map((victim) => victim.exitCode === null && victim.signalCode === null && once(victim, 'exit')),
    );
  }
  writeFileSync(join(dir, 'still'), 'x');
  // Nobody has anything open: it is unmounted without force.
  await s.json('umount', view('shared'));
  assert.equal((await s.run(['fsck'])).status, 0);
});
