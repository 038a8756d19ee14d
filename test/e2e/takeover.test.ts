/**
 * kill -9 of strata-fs, of stratad and of both at random moments while programs work in mounted appliances: none of them sees an error, nothing is
 * lost or done twice, and all is served again within a second. STRATA_TAKEOVER_SECONDS makes each of the long parts longer than in CI.
 */
import assert from 'node:assert/strict';
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
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { createClient } from '../../src/client/index.ts';
import { markOf } from '../../src/fuse/process/process-life.ts';
import { killDuring, killNow, pidIn, program } from '../helpers/kills.ts';
import { project, sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('takeover');
after(() => s.remove());
const seconds = Number(process.env.STRATA_TAKEOVER_SECONDS ?? 4);
const MOUNTS = 100;
const SHARED = 'usr/share/work';
/** Bytes of files that are changed in place, block by block. */
const LARGE = 3 << 20;
const view = (i: number): string => join(s.root, 'views', `m-${i}`);

async function mountedNow(): Promise<number> {
  const { appliances } = await s.json('list');
  return appliances.filter((a: { mounts: string[] }) => a.mounts.length > 0).length;
}

before(async () => {
  const tree = join(s.root, 'tree');
  await sh(`mkdir -p ${tree}/usr/bin ${tree}/tmp && ln -s usr/bin ${tree}/bin && cp /bin/busybox ${tree}/usr/bin/ &&
    for c in sh sleep touch cat; do ln -s busybox ${tree}/usr/bin/$c; done`);
  mkdirSync(join(tree, SHARED, 'sub'), { recursive: true });
  for (const name of ['a', 'shared', 'sub/b']) writeFileSync(join(tree, SHARED, name), name.repeat(3000));
  for (const name of ['large', 'large2']) writeFileSync(join(tree, SHARED, name), Buffer.alloc(LARGE, name));
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'work', '--version', '1');
  await s.json('template', 'create', 't', 'local/work');
  await s.json('create', 'm', '--template', 't', '--count', `${MOUNTS}`);
  const client = createClient({ root: s.root });
  for (let i = 1; i <= MOUNTS; i++) {
    mkdirSync(view(i), { recursive: true });
    // Both cache modes, which differ in what the kernel tells of opens.
    await client.call('mount', { name: `m-${i}`, dir: view(i), cache: i % 2 === 0 ? 'exact' : 'shared' });
  }
});

test(`${MOUNTS} mounts are served again, open files and containers included`, async (t) => {
  const container = s.start([
    'run',
    'm-1',
    '--',
    'sh',
    '-c',
    'touch /tmp/up; while :; do cat /usr/share/work/a >/dev/null || exit 9; touch /tmp/beat || exit 8; sleep 0.05; done',
  ]);
  await until('the container runs', () => existsSync(join(view(1), 'tmp/up')));

  const unnamed = openSync(join(view(2), 'tmp/open'), 'w+');
  writeSync(unnamed, 'before');
  unlinkSync(join(view(2), 'tmp/open'));
  const reader = openSync(join(view(2), SHARED, 'shared'), 'r');
  for (const file of ['strata-fs.pid', 'stratad.pid', 'both']) {
    const pid = pidIn(s.root, 'strata-fs.pid');
    const begun = performance.now();
    if (file !== 'strata-fs.pid') killNow(s.root, 'stratad.pid');
    if (file !== 'stratad.pid') killNow(s.root, 'strata-fs.pid');
    writeFileSync(join(view(1), 'tmp', file), 'first');
    const first = performance.now() - begun;
    for (let i = 2; i <= MOUNTS; i++) writeFileSync(join(view(i), 'tmp', file), 'all');
    const all = performance.now() - begun;
    t.diagnostic(
      `killed ${file}: the first operation took ${first.toFixed(0)} ms, ${MOUNTS} mounts ${all.toFixed(0)} ms`,
    );
    // Nobody waits for a time limit of the kernel or of a program; the figure for an idle machine stands in the documentation.
    assert.ok(all < 60_000, `${all} ms`);
    writeSync(unnamed, '+after', 6);
    assert.equal(fstatSync(unnamed).size, 12);
    assert.equal(fstatSync(unnamed).nlink, 0);
    ftruncateSync(unnamed, 6);
    const content = Buffer.alloc(10);
    assert.equal(readSync(reader, content, 0, 10, 5), 10);
    assert.equal(content.toString(), 'dsharedsha');
    if (file !== 'stratad.pid')
      await until('another strata-fs serves', () => pidIn(s.root, 'strata-fs.pid') !== pid);
    assert.equal(await mountedNow(), MOUNTS);
  }
  closeSync(unnamed);
  closeSync(reader);
  assert.equal(container.exitCode, null, 'the container goes on');
  container.kill('SIGTERM');
});

test('operations that may not be done twice', async (t) => {
  const work = [3, 4].map((i) =>
    program(process.execPath, [
      join(project, 'test/helpers/checked-operations.ts'),
      join(view(i), SHARED),
      `${Date.now() + i}`,
      `${seconds * 1000}`,
    ]),
  );
  const kills = await killDuring(s.root, Promise.all(work));
  const counts = await Promise.all(work);
  t.diagnostic(`${counts.map((count) => count.trim()).join(' and ')} operations, ${kills} kills`);
  assert.ok(kills > 0);
});

/** Changes a large shared file at random, the same way for one seed, until its time is over, and compares it with memory all the while. */
const CHANGES_IN_PLACE = `
const fs = require('node:fs');
const [file, milliseconds, seed] = process.argv.slice(1);
let model = fs.readFileSync(file);
const end = Date.now() + Number(milliseconds);
let fd = fs.openSync(file, 'r+');
let done = 0;
let state = Number(seed) >>> 0;
const below = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const same = (what) => {
  if (!fs.readFileSync(file).equals(model)) throw new Error(what + ' after ' + done + ', STRATA_RANDOM_SEED=' + seed);
};
for (; Date.now() < end; done++) {
  const what = below(20);
  if (what < 12) {
    const data = Buffer.alloc(1 + below(9000), 97 + (done % 26));
    const at = below(model.length);
    if (at + data.length > model.length) model = Buffer.concat([model, Buffer.alloc(at + data.length - model.length)]);
    data.copy(model, at);
    for (let put = 0; put < data.length; ) put += fs.writeSync(fd, data, put, data.length - put, at + put);
  } else if (what < 17) {
    const at = below(model.length);
    const got = Buffer.alloc(Math.min(20000, model.length - at));
    for (let n = 0; n < got.length; ) n += fs.readSync(fd, got, n, got.length - n, at + n);
    if (!got.equals(model.subarray(at, at + got.length))) throw new Error('other bytes at ' + at + ' after ' + done + ', STRATA_RANDOM_SEED=' + seed);
  } else if (what === 17) fs.fsyncSync(fd);
  else if (what === 18) {
    fs.closeSync(fd);
    fs.chmodSync(file, 0o600 + below(64));
    fd = fs.openSync(file, 'r+');
  } else if (below(20) === 0) {
    const size = Math.max(0, model.length - below(100000));
    fs.ftruncateSync(fd, size);
    model = model.subarray(0, size);
  }
  if (done % 200 === 199) same('another file');
}
fs.closeSync(fd);
same('another file at the end');
console.log(done);
`;

test('large shared files that are changed in place', async (t) => {
  const seed = Number(process.env.STRATA_RANDOM_SEED ?? Date.now() % 2 ** 31);
  const work = ['large', 'large2'].map((name, i) =>
    program(process.execPath, [
      '-e',
      CHANGES_IN_PLACE,
      join(view(7 + i), SHARED, name),
      `${seconds * 1000}`,
      `${seed + i}`,
    ]),
  );
  const kills = await killDuring(s.root, Promise.all(work));
  const counts = await Promise.all(work);
  t.diagnostic(
    `${counts.map((count) => count.trim()).join(' and ')} changes from seed ${seed}, ${kills} kills`,
  );
  assert.ok(kills > 0);
});

test('git clone, and a compilation', async (t) => {
  const source = join(s.root, 'source');
  const target = join(view(5), 'tmp');
  await sh(`mkdir -p ${source} && cd ${source} && git init -q . && for i in $(seq 1 150); do
    printf 'int f%d(int x) { return x + %d; }\\n' $i $i > f$i.c; done && git add . && git -c user.name=t -c user.email=t@t commit -qm one`);
  const objects = 'SRC := $(wildcard *.c)\nall: $(SRC:.c=.o)\n\t$(AR) rcs all.a $^\n';
  const kills = await killDuring(
    s.root,
    (async () => {
      await program('git', ['clone', '-q', '--no-hardlinks', source, join(target, 'clone')]);
      await program('git', ['-C', join(target, 'clone'), 'fsck', '--full', '--strict']);
      writeFileSync(join(target, 'clone/Makefile'), objects);
      await program('sh', [
        '-c',
        `cd ${join(target, 'clone')} && rm -f f[4-9]* f1[0-2]* && make -s -j2 CC=cc`,
      ]);
    })(),
  );
  const listed = (await sh(`ar t ${target}/clone/all.a | wc -l`)).stdout.trim();
  assert.equal(listed, `${readdirSync(join(target, 'clone')).filter((name) => name.endsWith('.c')).length}`);
  t.diagnostic(`${kills} kills`);
});

test('daemon restart: both processes are new, and nobody notices', async () => {
  const before = [pidIn(s.root, 'strata-fs.pid'), pidIn(s.root, 'stratad.pid')];
  const file = openSync(join(view(6), 'tmp/open'), 'w+');
  await s.json('daemon', 'restart');
  writeSync(file, 'x');
  writeFileSync(join(view(6), 'tmp/after'), 'x');
  await until('another strata-fs serves', () => pidIn(s.root, 'strata-fs.pid') !== before[0]);
  assert.notEqual(pidIn(s.root, 'stratad.pid'), before[1]);
  assert.equal(fstatSync(file).size, 1);
  closeSync(file);
  assert.equal(await mountedNow(), MOUNTS);
});

test('who holds the descriptors, who waits to take over and who starts them again: each is replaced when it is killed', async () => {
  const state = () => JSON.parse(readFileSync(join(s.root, 'run/strata-fs.state'), 'utf8'));
  const standby = () => {
    try {
      return JSON.parse(readFileSync(join(s.root, 'run/strata-fs.standby'), 'utf8'));
    } catch {
      return null;
    }
  };
  const lives = (pid: number): boolean => markOf(pid) !== null;
  const waits = (other: number): boolean => {
    const now = standby();
    return now !== null && now.process.pid !== other && now.ready && lives(now.process.pid);
  };
  await until('a standby', () => waits(0));
  const { server, holder } = state();
  process.kill(holder.pid, 'SIGKILL');
  await until('another holder', () => state().holder.pid !== holder.pid && lives(state().holder.pid));
  const first = standby();
  process.kill(first.process.pid, 'SIGKILL');
  await until('its shell started another standby', () => waits(first.process.pid));
  const second = standby();
  // It has loaded behind others, and would now serve as any process does.
  const session = `/proc/${second.process.pid}/autogroup`;
  if (existsSync(session)) assert.match(readFileSync(session, 'utf8'), /nice 0$/m);
  assert.equal(second.watch.pid, first.watch.pid);
  process.kill(second.watch.pid, 'SIGKILL');
  await until('the standby without a shell has ended', () => !lives(second.process.pid));
  await until('another standby with another shell', () => waits(second.process.pid));
  process.kill(state().watch.pid, 'SIGKILL');
  assert.equal(state().server.pid, server.pid, 'the serving one is the same all the time');
  // The shell of the serving one is dead, but the standby takes over, and gets a standby of its own.
  const third = standby();
  process.kill(server.pid, 'SIGKILL');
  writeFileSync(join(view(7), 'tmp/still'), 'x');
  assert.equal(state().server.pid, third.process.pid);
  await until('a standby of the standby', () => waits(third.process.pid));
  // And both at once.
  process.kill(standby().process.pid, 'SIGKILL');
  process.kill(third.process.pid, 'SIGKILL');
  writeFileSync(join(view(8), 'tmp/still'), 'x');
  assert.equal(await mountedNow(), MOUNTS);
  assert.equal((await s.run(['fsck'])).status, 0);
});
