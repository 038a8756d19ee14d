import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  opendirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { writeTreeIndex } from '../layer/index.ts';
import { MNT_DETACH, mount as mountCall, umount } from '../sys/index.ts';
import type { LevelSpec, StackSpec, VlfsSpec } from '../vlfs/contract.ts';
import { recoverMounts } from './process/client.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

/** A layer unit from path -> content (scripts are executable). */
async function unit(
  t: TestPlane,
  name: string,
  version: string,
  files: Record<string, string>,
): Promise<LevelSpec> {
  const dir = t.makeDir(`repo/${name}_${version}`);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, 'filesystem', path)), { recursive: true });
    writeFileSync(join(dir, 'filesystem', path), content);
    if (content.startsWith('#!')) chmodSync(join(dir, 'filesystem', path), 0o755);
  }
  await writeTreeIndex(join(dir, 'index'), join(dir, 'filesystem'));
  return {
    kind: 'software',
    id: `main/${name} ${version}`,
    treeDir: join(dir, 'filesystem'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: null,
  };
}

function stackOf(levels: LevelSpec[]): StackSpec {
  return { key: levels.map((level) => level.id).join('+'), levels };
}

function specOf(t: TestPlane, name: string, stack: StackSpec): VlfsSpec {
  const dir = t.makeDir(`appliances/${name}`);
  mkdirSync(join(dir, 'private'), { recursive: true });
  mkdirSync(join(dir, 'whiteouts'), { recursive: true });
  return {
    name,
    privateDir: join(dir, 'private'),
    whiteoutsDir: join(dir, 'whiteouts'),
    stack,
    readOnly: false,
  };
}

async function mounted(t: TestPlane, name: string, stack: StackSpec): Promise<string> {
  const mountpoint = t.makeDir(`mnt-${name}`);
  await t.plane.mount({ id: name, mountpoint, vlfs: specOf(t, name, stack), readOnly: false });
  return mountpoint;
}

function exited(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once('exit', (code) => resolve(code)));
}

test('layers under a real mount: read, copy-up, whiteout, revert, reset, recovery', async () => {
  await withDataPlane(
    async (t) => {
      const base = await unit(t, 'base', '1', {
        'etc/passwd': 'root',
        'usr/bin/run': '#!/bin/sh\necho ran\n',
      });
      const app = await unit(t, 'app', '1', {
        'etc/app.conf': 'original',
        'usr/share/app/data': 'x'.repeat(300_000),
      });
      const mnt = await mounted(t, 'one', stackOf([app, base]));
      const other = await mounted(t, 'two', stackOf([app, base]));
      assert.deepEqual(readdirSync(join(mnt, 'etc')).sort(), ['app.conf', 'passwd']);
      assert.equal(execFileSync(join(mnt, 'usr/bin/run'), { encoding: 'utf8' }), 'ran\n');
      // A reader holds the shared file while a writer makes the private copy (a large one: through the pool).
      const reader = openSync(join(mnt, 'usr/share/app/data'), 'r');
      const ino = statSync(join(mnt, 'usr/share/app/data')).ino;
      const writer = openSync(join(mnt, 'usr/share/app/data'), 'r+');
      writeSync(writer, 'WRITTEN', 5);
      const seen = Buffer.alloc(12);
      readSync(openSync(join(mnt, 'usr/share/app/data'), 'r'), seen, 0, 12, 0);
      assert.equal(seen.toString(), 'xxxxxWRITTEN');
      assert.equal(statSync(join(mnt, 'usr/share/app/data')).ino, ino, 'st_ino does not change by copy-up');
      closeSync(reader);
      closeSync(writer);
      assert.equal(readFileSync(join(app.treeDir, 'usr/share/app/data'), 'latin1'), 'x'.repeat(300_000));
      assert.equal(readFileSync(join(other, 'usr/share/app/data'), 'latin1'), 'x'.repeat(300_000));
      writeFileSync(join(mnt, 'etc/app.conf'), 'changed');
      rmSync(join(mnt, 'etc/passwd'));
      assert.equal(existsSync(join(mnt, 'etc/passwd')), false);
      assert.deepEqual((await t.plane.revert('one', ['/etc'])).sort(), ['/etc/app.conf', '/etc/passwd']);
      assert.equal(readFileSync(join(mnt, 'etc/passwd'), 'utf8'), 'root');
      assert.equal(readFileSync(join(mnt, 'etc/app.conf'), 'utf8'), 'original');
      writeFileSync(join(mnt, 'etc/mine'), 'kept');
      writeFileSync(join(mnt, 'etc/other'), 'lost');
      rmSync(join(mnt, 'etc/passwd'));
      await t.plane.reset('one', ['/etc/mine']);
      assert.deepEqual(readdirSync(join(mnt, 'etc')).sort(), ['app.conf', 'mine', 'passwd']);
      assert.equal(existsSync(join(mnt, 'etc/other')), false);
      assert.equal(readFileSync(join(mnt, 'etc/mine'), 'utf8'), 'kept');
      assert.equal(readFileSync(join(mnt, 'usr/share/app/data'), 'latin1'), 'x'.repeat(300_000));
      writeFileSync(join(mnt, 'etc/after'), 'reset');
      await t.kill();
      assert.equal(readFileSync(join(mnt, 'etc/after'), 'utf8'), 'reset');
      t.plane = await t.start();
      assert.deepEqual(await recoverMounts(t.root, t.plane), [], 'everything was taken over');
      assert.equal(readFileSync(join(mnt, 'etc/after'), 'utf8'), 'reset');
      assert.equal(readFileSync(join(other, 'etc/app.conf'), 'utf8'), 'original');
    },
    { layered: true },
  );
});

test('a listing that the kernel keeps follows every change: by programs, relayer, revert and reset', async () => {
  await withDataPlane(
    async (t) => {
      const files = (from: number, to: number, text: string): Record<string, string> =>
        Object.fromEntries(
          Array.from({ length: to - from }, (_, i) => [`dir/a-name-of-some-length-${from + i}`, text]),
        );
      const base = await unit(t, 'base', '1', { 'dir/base': '' });
      const one = await unit(t, 'many', '1', files(0, 600, '1'));
      const two = await unit(t, 'many', '2', files(300, 800, '2'));
      const mnt = await mounted(t, 'listed', stackOf([one, base]));
      const expected = new Set(['base', ...Object.keys(files(0, 600, '')).map((path) => path.slice(4))]);
      // Twice: the second time out of the kernel's memory.
      const check = (what: string): void => {
        for (let i = 0; i < 2; i++)
          assert.deepEqual(readdirSync(join(mnt, 'dir')).sort(), [...expected].sort(), what);
      };
      check('at first');
      const requests = (await t.plane.status()).mounts[0]!.requests;
      check('again');
      assert.ok(
        (await t.plane.status()).mounts[0]!.requests - requests <= 8,
        'no entries are asked for again',
      );
      writeFileSync(join(mnt, 'dir/new'), '');
      rmSync(join(mnt, 'dir/a-name-of-some-length-599'));
      expected.add('new').delete('a-name-of-some-length-599');
      check('after changes by programs');
      await t.plane.relayer([{ id: 'listed', stack: stackOf([two, base]) }]);
      expected.clear();
      for (const path of Object.keys(files(300, 800, ''))) expected.add(path.slice(4));
      expected.add('base').add('new');
      check('after a relayer');
      // The kernel is in the middle of keeping it when another one comes.
      writeFileSync(join(mnt, 'dir/new'), 'changed');
      rmSync(join(mnt, 'dir/new'));
      writeFileSync(join(mnt, 'dir/new'), '');
      const reader = opendirSync(join(mnt, 'dir'));
      assert.ok(reader.readSync() !== null);
      await t.plane.relayer([{ id: 'listed', stack: stackOf([one, base]) }]);
      await t.plane.relayer([{ id: 'listed', stack: stackOf([two, base]) }]);
      while (reader.readSync() !== null);
      reader.closeSync();
      check('after relayers during a listing');
      const before = (await t.plane.status()).mounts[0]!.requests;
      check('then');
      const asked = (await t.plane.status()).mounts[0]!.requests - before;
      assert.ok(asked <= 2, `it is kept again: ${asked} requests`);
      rmSync(join(mnt, 'dir/a-name-of-some-length-700'));
      expected.delete('a-name-of-some-length-700');
      check('after a deletion');
      await t.plane.revert('listed', ['/dir/a-name-of-some-length-700']);
      expected.add('a-name-of-some-length-700');
      check('after a revert');
      await t.plane.reset('listed', []);
      expected.delete('new');
      check('after a reset');
    },
    { layered: true },
  );
});

test('a listing of the root that the kernel kept from a killed process follows a relayer', async () => {
  await withDataPlane(
    async (t) => {
      const base = await unit(t, 'base', '1', { 'etc/passwd': '' });
      const app = await unit(t, 'app', '1', { 'opt/app': '' });
      const mnt = await mounted(t, 'listed', stackOf([base]));
      for (let i = 0; i < 2; i++) assert.deepEqual(readdirSync(mnt), ['etc']);
      await t.kill();
      t.plane = await t.start();
      assert.deepEqual(await recoverMounts(t.root, t.plane), [], 'it was taken over');
      await t.plane.relayer([{ id: 'listed', stack: stackOf([app, base]) }]);
      assert.deepEqual(readdirSync(mnt).sort(), ['etc', 'opt']);
    },
    { layered: true },
  );
});

test('a write by somebody without privilege ends set-user-id bits and capabilities', async () => {
  await withDataPlane(
    async (t) => {
      const base = await unit(t, 'base', '1', { tool: 'tool' });
      execFileSync('chmod', ['755', t.dir]);
      execFileSync('chmod', ['6777', join(base.treeDir, 'tool')]);
      execFileSync('setcap', ['cap_net_raw+ep', join(base.treeDir, 'tool')]);
      await writeTreeIndex(base.indexFile, base.treeDir);
      const mnt = await mounted(t, 'suid', stackOf([base]));
      assert.equal(statSync(join(mnt, 'tool')).mode & 0o7777, 0o6777);
      writeFileSync(join(mnt, 'kept'), '');
      chmodSync(join(mnt, 'kept'), 0o4755);
      writeFileSync(join(mnt, 'kept'), 'by root');
      assert.equal(statSync(join(mnt, 'kept')).mode & 0o7777, 0o4755, 'root keeps them');
      assert.match(execFileSync('getcap', [join(mnt, 'tool')], { encoding: 'utf8' }), /cap_net_raw/);
      writeFileSync(join(mnt, 'cut'), 'content');
      chmodSync(join(mnt, 'cut'), 0o4777);
      const write = `
import os
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.write(os.open('${join(mnt, 'tool')}', os.O_RDWR), b'evil')
os.open('${join(mnt, 'cut')}', os.O_RDWR | os.O_TRUNC)`;
      const ran = spawnSync('python3', ['-c', write], { encoding: 'utf8' });
      assert.equal(ran.status, 0, ran.stderr);
      assert.equal(statSync(join(mnt, 'tool')).mode & 0o7777, 0o777);
      assert.equal(statSync(join(mnt, 'cut')).mode & 0o7777, 0o777);
      assert.equal(execFileSync('getcap', [join(mnt, 'tool')], { encoding: 'utf8' }), '');
      assert.equal(statSync(join(t.dir, 'appliances/suid/private/tool')).mode & 0o7777, 0o777);
      assert.equal(statSync(join(base.treeDir, 'tool')).mode & 0o7777, 0o6777);
    },
    { layered: true },
  );
});

test('updates of a busy mount: every walk works, nobody sees new before old, mounts inside stay', async () => {
  await withDataPlane(
    async (t) => {
      const base = await unit(t, 'base', '1', {
        'etc/base': 'base',
        'proc/.keep': '',
        'usr/bin/base': '#!/bin/sh\n',
      });
      const versions: LevelSpec[] = [];
      for (const n of [1, 2]) {
        const files: Record<string, string> = { 'usr/bin/prog': `#!/bin/sh\necho ${n}\n` };
        for (let i = 0; i < 200; i++) files[`usr/lib/app/d${i % 10}/f${i}`] = `${n}`;
        files[`usr/lib/app/only-${n}`] = '';
        versions.push(await unit(t, 'app', String(n), files));
      }
      const [one, two] = versions.map((version) => stackOf([version, base])) as [StackSpec, StackSpec];
      const mnt = await mounted(t, 'busy', one);
      assert.equal(mountCall('inside', join(mnt, 'proc'), 'tmpfs', 0), 0);
      const stop = join(t.dir, 'stop');
      // Reads two files of the layer one after the other; the first may be older than the second, never newer than it by going back.
      const watch = `
import os, sys, subprocess
mnt, stop = sys.argv[1:3]
walks = 0
turn = open(os.path.join(os.path.dirname(stop), 'turn'))
while not os.path.exists(stop):
    i = walks % 190
    names = ['%s/usr/lib/app/d%d/f%d' % (mnt, (i + k) % 10, i + k) for k in range(8)]
    turn.seek(0); before = turn.read()
    seen = []
    for name in names:
        os.stat(name)
        seen.append(open(name).read())
    turn.seek(0); after = turn.read()
    # Within one update a sequence of walks may go from old to new once, and never back.
    if before == after and len(set(seen)) > 1 and seen != sorted(seen, key=lambda v: v == before[-1:]):
        print('mixed', before, seen); sys.exit(1)
    if walks % 20 == 0:
        subprocess.run([mnt + '/usr/bin/prog'], check=True, stdout=subprocess.DEVNULL)
    walks += 1
print(walks)
`;
      writeFileSync(join(t.dir, 'turn'), '01');
      const watchers = [1, 2].map(() => {
        const child = spawn('python3', ['-c', watch, mnt, stop], { stdio: ['ignore', 'pipe', 'pipe'] });
        let output = '';
        child.stdout.on('data', (chunk) => {
          output += chunk;
        });
        child.stderr.on('data', (chunk) => {
          output += chunk;
        });
        return { done: exited(child), output: () => output };
      });
      await delay(400);
      const times: number[] = [];
      for (let round = 1; round <= 30; round++) {
        const to = round % 2 === 1 ? two : one;
        const word = round % 2 === 1 ? '2' : '1';
        // The watchers' rule needs to know the direction before the change begins.
        writeFileSync(join(t.dir, 'turn'), `${String(round).padStart(3, '0')}${word}`);
        const began = performance.now();
        await t.plane.relayer([{ id: 'busy', stack: to }]);
        times.push(performance.now() - began);
        assert.equal(readFileSync(join(mnt, 'usr/lib/app/d7/f17'), 'utf8'), word);
        assert.equal(existsSync(join(mnt, `usr/lib/app/only-${word}`)), true);
        assert.equal(existsSync(join(mnt, `usr/lib/app/only-${word === '1' ? '2' : '1'}`)), false);
        await delay(20);
      }
      writeFileSync(stop, '');
      for (const watcher of watchers) assert.equal(await watcher.done, 0, watcher.output());
      assert.ok(
        readFileSync('/proc/self/mountinfo', 'latin1').includes(` ${join(mnt, 'proc')} `),
        'the mount inside is still there',
      );
      umount(join(mnt, 'proc'), MNT_DETACH);
      times.sort((a, b) => a - b);
      assert.ok(times[15]! < 5000, `a relayer takes ${times[15]} ms`);
    },
    { layered: true },
  );
});

test('real programs work on layers: git, tar, sqlite, a compiler', async () => {
  await withDataPlane(
    async (t) => {
      const base = await unit(t, 'base', '1', {
        'src/main.c': 'int main(void) { return 7; }\n',
        'src/README': 'read',
      });
      const mnt = await mounted(t, 'tools', stackOf([base]));
      const script = `set -e
cd ${mnt}/src
cc -o main main.c; ./main && exit 9 || test $? = 7
git init -q . && git add . && git -c user.name=a -c user.email=a@b commit -q -m first
echo more >> README && git -c user.name=a -c user.email=a@b commit -q -a -m second && git fsck 2>&1
tar -C .. -cf ../all.tar src && mkdir ../out && tar -C ../out -xpf ../all.tar && diff -r . ../out/src
python3 - <<'END'
import sqlite3
db = sqlite3.connect('db'); db.execute('pragma journal_mode=wal')
db.execute('create table t(x)'); db.executemany('insert into t values(?)', ((i,) for i in range(5000))); db.commit(); db.close()
assert sqlite3.connect('db').execute('select count(*) from t').fetchone() == (5000,)
END
cp --sparse=always ../all.tar ../copy.tar && cmp ../all.tar ../copy.tar
mv ../out ../moved && rm -rf ../moved && dd if=/dev/zero of=big bs=1M count=20 conv=fsync status=none && truncate -s 5M big && sync -f big
`;
      const ran = spawnSync('sh', ['-c', script], { encoding: 'utf8' });
      assert.equal(ran.status, 0, ran.stdout + ran.stderr);
      assert.equal(readFileSync(join(base.treeDir, 'src/README'), 'utf8'), 'read');
    },
    { layered: true },
  );
});
