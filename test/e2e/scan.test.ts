/**
 * The central scan through the front door: a real clamd with one signature of our own, yara, and a program; shared layers, private copies and
 * hidden files; verdicts that are kept; the quarantine in mounted and later appliances, over updates, restarts and kills.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../../src/base/index.ts';
import { until } from '../../src/base/until.test-support.ts';
import { addQuarantine, beginMarking, isMarking } from '../../src/scan/index.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('scan');
const aside = mkdtempSync(join(tmpdir(), 'strata-scan-clamd-'));
const socket = join(aside, 'clamd.sock');
let clamd: ChildProcess | null = null;

const EVIL = 'prefix STRATA-TEST-MALWARE-ONE suffix\n'.repeat(40);
const OTHER = 'prefix STRATA-TEST-MALWARE-TWO suffix\n'.repeat(30);
const hex = (text: string) => Buffer.from(text).toString('hex');
const dir = (name: string) => join(s.root, 'view', name);
const inside = (name: string, path: string) => join(dir(name), path);
const clam = ['--with', 'clamav', '--socket', socket, '--database', join(aside, 'db')];

/** Runs a scan; its JSON, its exit status. */
// biome-ignore lint/suspicious/noExplicitAny: the shapes are what the tests assert
async function scan(...args: string[]): Promise<{ status: number; result: any }> {
  const { status, stdout, stderr } = await s.run(['--json', 'scan', ...args]);
  return { status, result: JSON.parse(stdout || `{"stderr":${JSON.stringify(stderr)}}`) };
}

async function startClamd(): Promise<void> {
  mkdirSync(join(aside, 'db'), { recursive: true });
  if (!existsSync(join(aside, 'db/own.ndb')))
    writeFileSync(join(aside, 'db/own.ndb'), `Strata.Test.One:0:*:${hex('STRATA-TEST-MALWARE-ONE')}\n`);
  const config = [
    `LocalSocket ${socket}`,
    `DatabaseDirectory ${join(aside, 'db')}`,
    'Foreground yes',
    'User root',
    `TemporaryDirectory ${aside}`,
    'MaxThreads 4',
    'SelfCheck 0',
    'ConcurrentDatabaseReload no',
    '',
  ].join('\n');
  writeFileSync(join(aside, 'clamd.conf'), config);
  for (const path of [aside, join(aside, 'db')]) chmodSync(path, 0o755);
  const child = spawn('clamd', ['--config-file', join(aside, 'clamd.conf')], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  clamd = child;
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => (said += bytes));
  await until('clamd starts', () => child.exitCode !== null || existsSync(socket));
  assert.equal(child.exitCode, null, `clamd does not start: ${said}`);
}

/** Its way to new signatures that does not wait for its idle threads. */
async function restartClamd(): Promise<void> {
  const ended = new Promise((resolve) => clamd!.once('exit', resolve));
  clamd!.kill('SIGKILL');
  await ended;
  rmSync(socket, { force: true });
  await startClamd();
}

async function publish(version: number): Promise<void> {
  const tree = join(s.root, `tree-${version}`);
  mkdirSync(join(tree, 'usr/share/tool'), { recursive: true });
  writeFileSync(join(tree, 'usr/share/tool/evil'), EVIL);
  for (let i = 0; i < 20; i++) writeFileSync(join(tree, `usr/share/tool/good-${i}`), `good ${i}\n`);
  writeFileSync(join(tree, 'usr/share/tool/version'), `${version}\n`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'tool', '--version', `${version}`);
}

const errno = (work: () => unknown): string => {
  try {
    work();
    return 'done';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
};
const read = (name: string, path = 'usr/share/tool/evil') => errno(() => readFileSync(inside(name, path)));

const readError = (path: string): Promise<string> =>
  readFile(path).then(
    () => 'done',
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );

before(async () => {
  const starting = startClamd();
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await publish(1);
  await s.json('template', 'create', 't', 'tool');
  await s.json('create', 'a', '--template', 't', '--count', '4');
  for (const name of ['a-1', 'a-2', 'a-3', 'b-1']) mkdirSync(dir(name), { recursive: true });
  await s.json('mount', 'a-1', dir('a-1'));
  await s.json('mount', 'a-2', dir('a-2'), '--cache', 'exact');
  // a-2 has a copy, a moved one, and hides the original; a-3 and a-4 are never mounted.
  writeFileSync(inside('a-1', 'own'), 'only mine');
  writeFileSync(inside('a-2', 'copy'), EVIL);
  linkSync(inside('a-2', 'copy'), inside('a-2', 'copy-again'));
  unlinkSync(inside('a-2', 'usr/share/tool/evil'));
  await starting;
});

after(async () => {
  clamd?.kill('SIGKILL');
  await s.remove();
  rmSync(aside, { recursive: true, force: true });
});

test('clamd judges each content once, and every holder is named', async () => {
  const { status, result } = await scan(...clam);
  assert.equal(status, 4, JSON.stringify(result));
  assert.match(result.scanner.version, /^ClamAV \d/);
  assert.equal(result.failed_count, 0);
  assert.equal(result.infected_count, 1);
  const [found] = result.infected;
  assert.match(found.name, /^Strata\.Test\.One/);
  const places = found.places.map(
    (p: { appliance: string; layer: string; path: string; shown: boolean }) =>
      `${p.appliance} ${p.layer} ${p.path} ${p.shown}`,
  );
  assert.deepEqual(places.sort(), [
    'a-1 local/tool 1 /usr/share/tool/evil true',
    'a-2 local/tool 1 /usr/share/tool/evil false',
    'a-2 private /copy true',
    'a-2 private /copy-again true',
    'a-3 local/tool 1 /usr/share/tool/evil true',
    'a-4 local/tool 1 /usr/share/tool/evil true',
  ]);
  // 20 good, version, evil once for layer and copies, own.
  assert.equal(result.scanned, 23);
});

test('a second run reads only what changed', async () => {
  await sleep(50);
  await scan(...clam);
  await sleep(50);
  const again = await scan(...clam);
  assert.equal(again.status, 4);
  assert.equal(again.result.scanned, 0);
  assert.equal(again.result.bytes_read, 0);
  writeFileSync(inside('a-1', 'own'), 'changed now');
  const third = await scan(...clam);
  assert.equal(third.result.scanned, 1);
  assert.equal(third.result.bytes_read, 11);
  assert.equal((await scan(...clam, 'a-3')).result.appliances, 1);
});

test('new signatures make old verdicts stale', async () => {
  writeFileSync(inside('a-1', 'later'), OTHER);
  assert.equal((await scan(...clam)).result.infected_count, 1);
  appendFileSync(join(aside, 'db/own.ndb'), `Strata.Test.Two:0:*:${hex('STRATA-TEST-MALWARE-TWO')}\n`);
  await restartClamd();
  const { result } = await scan(...clam);
  assert.equal(result.infected_count, 2);
  assert.ok(result.scanned >= 23);
  unlinkSync(inside('a-1', 'later'));
});

let digest = '';

test('--quarantine hides content everywhere at once, by whatever layer or copy', async () => {
  const before = openSync(inside('a-1', 'usr/share/tool/evil'), 'r');
  assert.equal(read('a-1'), 'done');
  assert.equal(read('a-2', 'copy'), 'done');
  const { status, result } = await scan(...clam, '--quarantine', 'a-1');
  assert.equal(status, 4);
  assert.equal(result.infected[0].quarantined, true);
  assert.deepEqual(result.still_shown, []);
  digest = result.infected[0].digest;
  // The copies of an appliance that was not scanned too; its hard link is the same file.
  for (const [name, path] of [
    ['a-1', 'usr/share/tool/evil'],
    ['a-2', 'copy'],
    ['a-2', 'copy-again'],
  ] as const) {
    assert.equal(read(name, path), 'EPERM', `${name} ${path}`);
    assert.equal(
      errno(() => appendFileSync(inside(name, path), 'x')),
      'EPERM',
    );
    assert.equal(
      errno(() => truncateSync(inside(name, path), 5)),
      'EPERM',
    );
  }
  assert.equal(statSync(inside('a-1', 'usr/share/tool/evil')).size, EVIL.length);
  assert.equal(read('a-1', 'usr/share/tool/good-1'), 'done');
  // Who had it open goes on, as with a deletion.
  assert.equal(readSync(before, Buffer.alloc(6), 0, 6, 0), 6);
  closeSync(before);
  // Renamed, linked and changed in its attributes it is the same content.
  renameSync(inside('a-2', 'copy'), inside('a-2', 'moved'));
  assert.equal(read('a-2', 'moved'), 'EPERM');
  chmodSync(inside('a-1', 'usr/share/tool/evil'), 0o700);
  linkSync(inside('a-1', 'usr/share/tool/evil'), inside('a-1', 'linked'));
  assert.equal(read('a-1', 'linked'), 'EPERM');
  assert.equal((await sh(`${inside('a-1', 'linked')}`)).status, 126);
  // An appliance made or mounted later.
  await s.json('mount', 'a-3', dir('a-3'), '--cache', 'exact');
  assert.equal(read('a-3'), 'EPERM');
  await s.json('create', 'b-1', '--template', 't');
  await s.json('mount', 'b-1', dir('b-1'));
  assert.equal(read('b-1'), 'EPERM');
  // The layer itself is as it was.
  assert.equal(readFileSync(join(s.root, 'units/tool_1/filesystem/usr/share/tool/evil'), 'utf8'), EVIL);
  const { quarantine } = await s.json('scan', '--list');
  assert.deepEqual(
    quarantine.map((one: { digest: string }) => one.digest),
    [digest],
  );
  // A sealed door has no process that could refuse.
  mkdirSync(dir('a-4'));
  const sealed = await s.run(['mount', 'a-4', dir('a-4'), '--door', 'sealed']);
  assert.match(sealed.stderr, /content in quarantine/);
});

test('it survives updates, kill -9 of strata-fs and stratad, and restarts; content can be replaced', async () => {
  await publish(2);
  await s.json('update');
  assert.equal(readFileSync(inside('a-3', 'usr/share/tool/version'), 'utf8'), '2\n');
  assert.equal(read('a-3'), 'EPERM');
  for (const name of ['strata-fs', 'stratad'])
    process.kill(Number(readFileSync(join(s.root, `run/${name}.pid`), 'utf8')), 'SIGKILL');
  for (const [name, path] of [
    ['a-1', 'linked'],
    ['a-2', 'moved'],
    ['a-3', 'usr/share/tool/evil'],
  ] as const)
    assert.equal(read(name, path), 'EPERM', name);
  await s.json('list');
  await s.json('daemon', 'stop', '--force');
  await s.json('mount', 'a-2', dir('a-2'), '--cache', 'exact');
  await s.json('mount', 'a-3', dir('a-3'), '--cache', 'exact');
  assert.equal(read('a-2', 'moved'), 'EPERM');
  assert.equal(read('a-3'), 'EPERM');
  // What is cut to nothing and written anew is another content, and so is what takes its name.
  writeFileSync(inside('a-2', 'moved'), 'clean now');
  assert.equal(readFileSync(inside('a-2', 'moved'), 'utf8'), 'clean now');
  writeFileSync(inside('a-3', 'new'), 'clean too');
  renameSync(inside('a-3', 'new'), inside('a-3', 'usr/share/tool/evil'));
  assert.equal(readFileSync(inside('a-3', 'usr/share/tool/evil'), 'utf8'), 'clean too');
  await s.json('revert', 'a-3', '/usr/share/tool/evil');
  assert.equal(read('a-3'), 'EPERM');
  // The same content that comes again is hidden by the next scan, whoever brings it.
  writeFileSync(inside('a-3', 'again'), EVIL);
  assert.equal((await scan(...clam, 'a-3')).status, 4);
  assert.equal(read('a-3', 'again'), 'EPERM');
  assert.equal((await s.run(['fsck'])).status, 0);
});

test('--release shows it again everywhere', async () => {
  assert.equal((await s.json('scan', '--release', digest.slice(0, 12))).released, digest);
  assert.equal(readFileSync(inside('a-3', 'again'), 'utf8'), EVIL);
  assert.equal(readFileSync(inside('a-3', 'usr/share/tool/evil'), 'utf8'), EVIL);
  assert.notEqual((await s.run(['scan', '--release', digest])).status, 0);
});

test('what only a snapshot holds is found, and stays hidden when it comes back', async () => {
  await s.json('create', 'kept', '--template', 't');
  await s.json('mount', 'kept', dir('kept'));
  writeFileSync(inside('kept', 'file'), `${EVIL}kept`);
  await s.json('snapshot', 'kept', 'then');
  unlinkSync(inside('kept', 'file'));
  const { result } = await scan(...clam, '--quarantine', 'kept');
  const found = result.infected.find(({ places }: { places: { path: string }[] }) =>
    places.some(({ path }) => path === '/file'),
  );
  assert.deepEqual(
    found.places.map(({ appliance, shown }: Record<string, unknown>) => [appliance, shown]),
    [
      ['kept', false],
      ['kept@then', true],
    ],
  );
  await s.json('umount', 'kept');
  await s.json('restore', 'kept', 'then');
  await s.json('mount', 'kept', dir('kept'));
  assert.equal(read('kept', 'file'), 'EPERM');
  await s.json('umount', 'kept');
  await s.json('delete', 'kept');
  for (const { digest: one } of result.infected) await s.json('scan', '--release', one);
});

test('a quarantine that was cut off by a kill is completed at the next start', async () => {
  writeFileSync(inside('a-2', 'later'), OTHER);
  const pid = Number(readFileSync(join(s.root, 'run/stratad.pid'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  const other = createHash('sha256').update(OTHER).digest('hex') as Digest;
  const since = new Date().toISOString();
  beginMarking(s.root);
  addQuarantine(s.root, { format: 1, digest: other, name: 'Cut', scanner: '-', bytes: OTHER.length, since });
  for (let tries = 0; tries < 200 && isMarking(s.root); tries++) await s.json('list');
  assert.equal(read('a-2', 'later'), 'EPERM');
  assert.equal((await s.run(['fsck', '--deep'])).status, 0);
  await s.json('gc');
  await s.json('scan', '--release', other);
  assert.equal(read('a-2', 'later'), 'done');
  unlinkSync(inside('a-2', 'later'));
});

test('yara and any program judge too; failures and limits are told', async () => {
  const rules = join(aside, 'own.yar');
  writeFileSync(rules, 'rule OwnRule { strings: $a = "STRATA-TEST-MALWARE-ONE" condition: $a }');
  const yara = await scan('--with', 'yara', '--rules', rules, 'a-4');
  assert.equal(yara.status, 4, JSON.stringify(yara.result));
  assert.equal(yara.result.infected[0].name, 'OwnRule');
  const program = await scan(
    '--command',
    'if grep -q MALWARE-ONE "$1"; then echo Bad.One; exit 1; fi',
    'a-4',
  );
  assert.equal(program.status, 4);
  assert.equal(program.result.infected[0].name, 'Bad.One');
  const small = await scan('--command', 'cat >/dev/null', '--max-size', '500', 'a-4');
  assert.equal(small.status, 0);
  assert.deepEqual(
    small.result.skipped.map((one: { path: string }) => one.path),
    ['/usr/share/tool/evil'],
  );
  const broken = await scan('--command', 'exit 7', 'a-4');
  assert.equal(broken.status, 1);
  assert.equal(broken.result.failed[0].reason, 'exit status 7');
  const hung = await scan('--command', 'sleep 100', '--timeout', '1', '--max-size', '9', 'a-4');
  assert.equal(hung.status, 1);
  const none = await s.run(['scan', '--socket', join(aside, 'nobody')]);
  assert.equal(none.status, 1);
  assert.match(none.stderr, /clamd does not answer/);
});

test('hostile private files: names, holes, depth', async () => {
  const name = Buffer.from('mod\xff\n\x1b[31m', 'latin1');
  writeFileSync(Buffer.concat([Buffer.from(`${dir('a-3')}/`), name]), OTHER);
  writeFileSync(inside('a-3', 'hole'), '');
  truncateSync(inside('a-3', 'hole'), 2 ** 29);
  await sh(`cd ${dir('a-3')} && mkfifo pipe && python3 -c '
import os
for i in range(600):
    os.mkdir("deep"); os.chdir("deep")
open("x","w").write("x")'`);
  const { status, result } = await scan(...clam, 'a-3');
  assert.equal(status, 4);
  assert.ok(result.bytes_read < 1 << 20);
  assert.deepEqual(
    result.skipped.map((one: { path: string; reason: string }) => `${one.path} ${one.reason}`),
    ['/hole almost nothing but holes'],
  );
  assert.match(result.failed[0].reason, /too deep/);
  const places = result.infected.flatMap((one: { places: { path: string }[] }) => one.places);
  assert.ok(places.some(({ path }: { path: string }) => path === '/mod\\xff\\x0a\\x1b[31m'));
  await s.json('umount', 'a-3');
});

test('scanned on open: nothing is read or run before clamd has judged it', async () => {
  await s.json('mount', 'a-4', dir('a-4'));
  assert.equal(read('a-4'), 'done');
  await s.json('scan', 'a-4', '--on-open', 'on', ...clam);
  assert.equal(read('a-4'), 'EPERM');
  assert.equal(read('a-4', 'usr/share/tool/good-1'), 'done');
  writeFileSync(inside('a-4', 'program'), '#!/bin/sh\necho ran\n');
  chmodSync(inside('a-4', 'program'), 0o755);
  assert.equal((await sh(inside('a-4', 'program'))).stdout, 'ran\n');
  // The same file with another content, also while it is open and mapped by who writes to it.
  appendFileSync(inside('a-4', 'program'), OTHER);
  assert.equal(read('a-4', 'program'), 'EPERM');
  assert.equal((await sh(inside('a-4', 'program'))).status, 126);
  const mapped = await sh(`cd ${dir('a-4')} && python3 -c '
import mmap, os
f = os.open("mapped", os.O_RDWR | os.O_CREAT); os.write(f, b"x" * 4096)
m = mmap.mmap(f, 4096); m[0:1] = b"y"
def read():
    try: return open("mapped").read(1)
    except OSError as e: return e.errno
a = read(); m[0:23] = b"STRATA-TEST-MALWARE-TWO"; print(a, read())'`);
  assert.equal(mapped.stdout, 'y 1\n', mapped.stderr);
  assert.equal(readFileSync(inside('a-2', 'usr/share/tool/good-1'), 'utf8'), 'good 1\n');
  // It is the appliance's property, whoever serves it.
  process.kill(Number(readFileSync(join(s.root, 'run/strata-fs.pid'), 'utf8')), 'SIGKILL');
  assert.equal(read('a-4'), 'EPERM');
  assert.equal(read('a-2'), 'done');
  assert.deepEqual((await s.json('scan', '--list')).on_open, [{ name: 'a-4', scanner: 'clamav' }]);
});

test('a scanner that hangs has its time, and keeps nobody else waiting', async () => {
  const hang = ['--command', 'sleep 1000', '--timeout', '2'];
  await s.json('scan', 'a-4', '--on-open', 'on', ...hang);
  const hung = sh(`for i in 1 2 3; do cat ${inside('a-4', 'usr/share/tool/good-')}$i & done; wait`);
  const began = performance.now();
  let done = false;
  void hung.then(() => {
    done = true;
  });
  for (let i = 0; i < 20; i++) {
    await writeFile(inside('a-4', `while-${i}`), 'x');
    await sh(`sync ${inside('a-4', `while-${i}`)}; cat ${inside('a-2', 'usr/share/tool/good-1')}`);
    if (done) break;
  }
  const { stderr } = await hung;
  assert.match(stderr, /timed out/i);
  assert.ok(performance.now() - began < 300_000, 'nobody waits for the end of the scanner');
  await s.json('scan', 'a-4', '--on-open', 'on', '--command', 'exit 3');
  assert.equal(await readError(inside('a-4', 'usr/share/tool/good-4')), 'EIO');
  await s.json('scan', 'a-4', '--on-open', 'off');
  // A clone is checked as its source is.
  await s.json('scan', 'b-1', '--on-open', 'on', ...clam);
  await s.json('clone', 'b-1', 'e-1');
  mkdirSync(dir('e-1'));
  await s.json('mount', 'e-1', dir('e-1'));
  assert.equal(read('e-1'), 'EPERM');
  assert.equal(read('e-1', 'usr/share/tool/good-1'), 'done');
  assert.equal(read('a-4'), 'done');
  const none = await s.run(['scan', 'a-4', '--on-open', 'on', '--socket', join(aside, 'nobody')]);
  assert.match(none.stderr, /clamd does not answer/);
});
