/**
 * A hostile appliance: root inside it does its worst through its mount, while commands walk its private layer from outside. Nothing outside
 * changes, every command ends, and the neighbour hardly notices.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('hostile');
after(() => s.remove());
const evil = join(s.root, 'evil');
const good = join(s.root, 'good');
const outside = join(s.root, 'outside');

before(async () => {
  mkdirSync(join(outside, 'secret'), { recursive: true });
  writeFileSync(join(outside, 'canary'), 'untouched');
  writeFileSync(join(outside, 'secret/conf'), 'untouched');
  const tree = join(s.root, 'tree');
  for (let i = 0; i < 40; i++) {
    mkdirSync(join(tree, `usr/d${i % 4}`), { recursive: true });
    writeFileSync(join(tree, `usr/d${i % 4}/f${i}`), `${i}`);
  }
  mkdirSync(join(tree, 'etc'));
  writeFileSync(join(tree, 'etc/conf'), 'shared');
  symlinkSync(outside, join(tree, 'etc/out'));
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  for (const name of ['evil', 'good']) {
    await s.json('create', name, '--template', 't');
    await s.json('mount', name, join(s.root, name));
  }
});

/** What root does in the appliance's tree. Prints what it could do and should not have. */
const ATTACK = `
import os, sys, errno, stat, threading, time
out = sys.argv[1]
def refused(what, call, *codes):
    try: call()
    except OSError as e:
        if codes and e.errno not in codes: print(what, 'gave', errno.errorcode[e.errno])
    else: print(what, 'was possible')
# The private layer's own books.
os.mkdir('x'); open('x/f', 'w').close()
for name in ['overlay.opaque', 'overlay.redirect', 'overlay.metacopy', 'overlay.overlay.opaque', 'overlay.', 'strata.ino', 'strata.origin', 'strata.links', 'strata.redirects']:
    for path in ['x', 'x/f', 'usr', '.']:
        refused('trusted.' + name, lambda: os.setxattr(path, 'trusted.' + name, b'/' + out.encode()), errno.EPERM)
refused('a whiteout', lambda: os.mknod('white', stat.S_IFCHR | 0o600, os.makedev(0, 0)), errno.EPERM)
# Huge and many attributes: the disk may refuse them, nothing else.
for i in range(300):
    try: os.setxattr('x/f', 'user.%d' % i, b'v' * (65536 if i % 3 == 0 else 900))
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.E2BIG, errno.EDQUOT, errno.ERANGE): print('setxattr gave', e)
for name in os.listxattr('x/f'):
    if not name.startswith('user.'): print('shown:', name)
# Devices, pipes, sockets, set-user-id programs, odd names.
os.mkdir('odd'); os.chdir('odd')
os.mknod('disk', stat.S_IFBLK | 0o666, os.makedev(8, 0)); os.mkfifo('pipe'); os.mknod('socket', stat.S_IFSOCK | 0o666)
open('shell', 'w').close(); os.chmod('shell', 0o6777)
for name in [b'x' * 255, b'\\xff\\xfe', b' ', b'-rf', b'a\\nb', b'\\x01', b'.wh.f', b'#1', b'..a', b'*']:
    open(name, 'w').close()
refused('a name of 256', lambda: open('x' * 256, 'w'), errno.ENAMETOOLONG)
os.chdir('..')
for name in ['passwd', 'status', 'conf2']: os.symlink(out + '/canary', 'etc/' + name)
os.rename('etc/conf', 'x/conf'); os.symlink(out + '/secret', 'link'); os.symlink('../../../../../../../../' + out, 'up')
# Deeper than any path is long.
os.mkdir('deep'); top = os.open('.', os.O_RDONLY); os.chdir('deep')
for i in range(1500):
    os.mkdir('d' * 60); os.symlink(out, 'l'); os.chdir('d' * 60)
os.fchdir(top)
# Many names, many open files, some of them without a name.
os.mkdir('many')
held = []
for i in range(12000):
    try:
        fd = os.open('many/%d' % i, os.O_CREAT | os.O_RDWR)
        if i % 2 or len(held) > 2000: os.close(fd)
        else: held.append(fd)
        if i % 5 == 0: os.unlink('many/%d' % i)
    except OSError as e:
        if e.errno not in (errno.ENFILE, errno.EMFILE): print('open gave', e)
        for fd in held: os.close(fd)
        held = []
print('ready', flush=True)
# Directories that become links and back while somebody walks over them, and files that are renamed while they are read.
def race(n):
    while True:
        for step in (lambda: os.rename('usr/d%d' % n, 'moved%d' % n), lambda: os.symlink(out, 'usr/d%d' % n), lambda: os.unlink('usr/d%d' % n),
                     lambda: os.rename('moved%d' % n, 'usr/d%d' % n), lambda: open('usr/d%d/f%d' % (n, n), 'a').write('y'), lambda: os.listdir('many')):
            try: step()
            except OSError: pass
for n in range(4): threading.Thread(target=race, args=(n,), daemon=True).start()
sys.stdin.read(); os._exit(0)
`;

async function probe(dir: string, rounds: number): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const began = performance.now();
    closeSync(openSync(join(dir, 'probe'), 'w'));
    statSync(join(dir, `absent-${i}`), { throwIfNoEntry: false });
    rmSync(join(dir, 'probe'));
    times.push(performance.now() - began);
    await delay(1);
  }
  return times.sort((a, b) => a - b)[Math.floor(rounds * 0.99)]!;
}

/** Runs a command that may be refused, with a reason, but must end and not break. */
async function endure(...args: string[]): Promise<number> {
  const { status, stdout, stderr } = await s.run(['--json', ...args], { timeoutMs: 60_000 });
  assert.ok(status < 128, `strata ${args.join(' ')}: ${status} ${stderr}`);
  if (status !== 0) assert.notEqual(JSON.parse(stdout).error?.code, 'INTERNAL', stdout);
  return status;
}

function untouched(): void {
  assert.equal(readFileSync(join(outside, 'canary'), 'utf8'), 'untouched');
  assert.equal(readFileSync(join(outside, 'secret/conf'), 'utf8'), 'untouched');
}

test('what root does inside stays inside, whatever walks over it from outside', async (t) => {
  const calm = await probe(good, 100);
  const attack = spawn('python3', ['-c', ATTACK, outside], { cwd: evil, stdio: ['pipe', 'pipe', 'pipe'] });
  const exit = new Promise((resolve) => attack.once('exit', resolve));
  let said = '';
  attack.stdout.on('data', (piece) => {
    said += piece;
  });
  attack.stderr.on('data', (piece) => {
    said += piece;
  });
  try {
    const worst: number[] = [];
    while (!said.includes('ready') && attack.exitCode === null) worst.push(await probe(good, 50));
    assert.equal(said, 'ready\n');
    // The bytes of a set-user-id program are nobody's but root's to reach.
    assert.equal(statSync(join(s.root, 'appliances')).mode & 0o077, 0);
    const walks = (async () => {
      for (let round = 0; round < 2; round++) {
        assert.equal(await endure('diff', 'evil'), 0);
        await endure('revert', 'evil', '/usr');
        await endure('revert', 'evil', '/etc/out/canary');
      }
      await endure('fsck');
      await endure('update');
    })();
    let walking = true;
    const walked = walks.finally(() => {
      walking = false;
    });
    while (walking) worst.push(await probe(good, 50));
    await walked;
    untouched();
    const p99 = worst.sort((a, b) => a - b)[worst.length >> 1]!;
    t.diagnostic(
      `the neighbour's p99: ${calm.toFixed(1)} ms before, ${p99.toFixed(1)} ms beside it (median of ${worst.length})`,
    );
    // That it is not starved: the attack uses all processors, and so do other tests.
    assert.ok(p99 < 100 + 30 * calm, `${p99} ms, ${calm} ms before`);
  } finally {
    attack.stdin.end();
    attack.kill('SIGKILL');
    await exit;
  }
});

test('its private layer can be frozen or refused, reset and deleted', async () => {
  await endure('template', 'freeze', 't', '--from', 'evil');
  assert.equal(await endure('reset', 'evil'), 0);
  assert.equal(readFileSync(join(evil, 'etc/conf'), 'utf8'), 'shared');
  assert.equal((await sh(`umount ${evil}`)).status, 0);
  assert.equal(await endure('delete', 'evil'), 0);
  untouched();
  assert.equal(await endure('gc'), 0);
  const fsck = await s.run(['fsck']);
  assert.equal(fsck.status, 0, fsck.stdout + fsck.stderr);
  writeFileSync(join(good, 'etc/conf'), 'mine');
  assert.equal(readFileSync(join(good, 'etc/conf'), 'utf8'), 'mine');
});
