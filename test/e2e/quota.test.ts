/** Quotas as programs inside see them: dd, df, cp, tar, a shared map, sparse and reserved files, deletion at the limit; live changes; clones; strata-fs killed between. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../../src/base/until.test-support.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('quota');
after(() => s.remove());
const view = join(s.root, 'view');
const MIB = 2 ** 20;

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; cd '${view}'; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

/** A command that must end with "Disk quota exceeded". */
async function refused(text: string): Promise<void> {
  const { status, stderr, stdout } = await sh(`LC_ALL=C; export LC_ALL; cd '${view}'; ${text}`);
  assert.notEqual(status, 0, `${text} was allowed\n${stdout}`);
  assert.match(stderr, /quota exceeded/i, text);
}

interface Quota {
  used_bytes: number;
  used_inodes: number;
}

/** What the numbers say, and what a count of the same appliance says. */
async function used(name: string): Promise<Quota> {
  return s.json('quota', name);
}

/** Until the counting in the background is done. */
async function settled(name: string, { used_bytes, used_inodes }: Quota): Promise<void> {
  await until(`${used_bytes} bytes and ${used_inodes} inodes are counted`, async () => {
    await script('ls . > /dev/null');
    const now = await used(name);
    return now.used_bytes === used_bytes && now.used_inodes === used_inodes;
  });
}

async function du(): Promise<number> {
  // Its own files: the layer has little.
  return Number(
    (
      await script(
        "find . -xdev -type f -newer ../stamp -printf '%b %i\\n' | sort -u | awk '{n+=$1} END {print n*512}'",
      )
    ).trim(),
  );
}

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  const tree = join(s.root, 'trees', 'base');
  mkdirSync(join(tree, 'etc'), { recursive: true });
  mkdirSync(view);
  writeFileSync(join(tree, 'etc/motd'), 'motd\n');
  writeFileSync(join(tree, 'etc/large'), Buffer.alloc(4 * MIB, 'l'));
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  writeFileSync(join(s.root, 'stamp'), '');
  await delay(20);
  await s.json('create', 'a', '--template', 't', '--quota', '16M', '--inodes', '200');
  await s.json('mount', 'a', view);
});

test('dd stops at the limit, df tells the truth, and deleting gives everything back', async () => {
  assert.equal((await script('stat -f -c "%b %S" . | awk \'{print $1*$2}\'')).trim(), String(16 * MIB));
  await refused('dd if=/dev/zero of=full bs=1M count=100');
  const { used_bytes } = await used('a');
  assert.ok(used_bytes <= 16 * MIB && used_bytes > 15.9 * MIB, `${used_bytes}`);
  assert.equal((await script('df --output=avail -B1 . | tail -1')).trim(), '0');
  await refused('/bin/echo more >> full');
  await refused('cp etc/motd copy && sync copy');
  await refused('mkdir dir');
  await script('rm -f full copy');
  const after_ = await used('a');
  assert.ok(after_.used_bytes < 64 * 1024, `${after_.used_bytes}`);
});

test('a shared map, sparse and reserved files, a large shared file that is changed in place', async () => {
  await script('truncate -s 1G sparse; fallocate -l 8M reserved; : > hidden; fallocate -n -l 1M hidden');
  await refused('fallocate -l 12M toomuch');
  await script('dd if=/dev/urandom of=reserved bs=1M count=8 conv=notrunc 2>/dev/null');
  await script('echo x | dd of=etc/large bs=1 seek=2000000 conv=notrunc 2>/dev/null');
  const { used_bytes } = await used('a');
  assert.ok(used_bytes < 12 * MIB, `${used_bytes}`);
  // Stores through a map into a hole: no more than the quota gets onto the disk, and the program is told.
  const { stdout } = await sh(`cd '${view}'; python3 -c '
import mmap, os
f = os.open("sparse", os.O_RDWR)
m = mmap.mmap(f, 64 << 20)
told = False
try:
    for at in range(0, 64 << 20, 4096): m[at] = 1
    m.flush(); os.fsync(f)
except OSError as error: told = True
try: os.fsync(f)
except OSError: told = True
print(told)'`);
  assert.equal(stdout.trim(), 'True');
  const full = await used('a');
  assert.ok(full.used_bytes <= 16 * MIB, `${full.used_bytes}`);
  await script('rm -f sparse reserved hidden toomuch etc/large');
});

test('inodes: files, directories, links and copies of shared files; hard links are free', async () => {
  const { used_inodes } = await used('a');
  await script(`mkdir many; for i in $(seq 1 ${199 - used_inodes}); do : > many/$i; done`);
  assert.equal((await used('a')).used_inodes, 200);
  await refused(': > many/more');
  await refused('ln -s x many/link');
  await refused('mkfifo many/fifo');
  await refused('chmod 600 etc/motd');
  await script('ln many/1 many/hard; mv many/2 many/moved; df --output=iavail . | tail -1 | grep -qx " *0"');
  await script('rm -r many; chmod 600 etc/motd');
});

test('a quota is changed while the appliance runs; numbers survive kills and remounts; a clone has it too', async () => {
  await script('dd if=/dev/zero of=data bs=1M count=6 2>/dev/null; mkdir -p d/e; cp data d/e/copy');
  await s.json('quota', 'a', '12M');
  await refused('dd if=/dev/zero of=more bs=1M count=1 conv=fsync');
  await s.json('quota', 'a', '64M', '--inodes', 'none');
  await script('dd if=/dev/zero of=more bs=1M count=4 2>/dev/null');
  // A clone that is made while it runs takes nothing from it.
  const running = await used('a');
  await s.json('clone', 'a', 'live');
  assert.deepEqual(await used('a'), running);
  await script('printf more >> data; rm more; dd if=/dev/zero of=more bs=1M count=4 2>/dev/null');
  const { used_bytes: grown } = await used('a');
  assert.ok(grown >= running.used_bytes && grown <= running.used_bytes + 8192, `${grown}`);
  await s.json('delete', 'live');
  const before_ = await used('a');
  const pid = Number(readFileSync(join(s.root, 'run/strata-fs.pid'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  await script('ls d/e; : > afterwards; rm afterwards');
  await settled('a', before_);
  assert.ok(Math.abs((await du()) - (before_.used_bytes - 3 * 4096)) <= 64 * 1024);
  await s.json('umount', 'a');
  assert.deepEqual(await used('a'), before_);
  await s.json('clone', 'a', 'b');
  const clone: Quota & { quota_bytes: number } = await s.json('quota', 'b');
  assert.equal(clone.quota_bytes, 64 * MIB);
  assert.deepEqual([clone.used_bytes, clone.used_inodes], [before_.used_bytes, before_.used_inodes]);
  assert.deepEqual(await used('a'), before_);
  await s.json('clone', 'a', 'c', '--quota', '20M');
  await s.json('mount', 'c', view);
  await refused('dd if=/dev/zero of=new bs=1M count=10 conv=fsync');
  await script('rm data d/e/copy; dd if=/dev/zero of=new bs=1M count=10 2>/dev/null');
  await s.json('umount', 'c');
  // Layers that are merged hold the same.
  const unmerged = await used('c');
  await s.json('clone', 'c', 'd', '--mode', 'sync');
  await s.json('mount', 'd', view);
  await script('ls -R . > /dev/null');
  await settled('d', unmerged);
  await s.json('umount', 'd');
  const sealed = await s.run(['mount', 'c', view, '--door', 'sealed']);
  assert.equal(sealed.status === 0, false);
  const wrong = await s.run(['quota', 'c', 'much']);
  assert.equal(wrong.status, 2);
  await s.json('quota', 'c', 'none', '--inodes', 'none');
  assert.equal((await s.json('quota', 'c')).quota_bytes, null);
});
