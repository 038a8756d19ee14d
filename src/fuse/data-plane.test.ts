import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { StrataError } from '../base/index.ts';
import { until } from '../base/until.test-support.ts';
import { MNT_DETACH, mount as mountCall, umount } from '../sys/index.ts';
import { dataPlanePid, recoverMounts } from './process/client.ts';
import { mirrorSpec, withDataPlane } from './test-support/with-data-plane.ts';
import { strataMountpoints } from './transport/mountinfo.ts';

/** User and system time of a process, in milliseconds. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

test('a mount serves ordinary file operations, and reads go through the kernel (passthrough)', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    const mnt = await t.mount('a', source);
    mkdirSync(join(mnt, 'd'), { mode: 0o750 });
    assert.equal(statSync(join(source, 'd')).mode & 0o7777, 0o750);
    writeFileSync(join(mnt, 'd/f'), 'hello');
    assert.equal(readFileSync(join(source, 'd/f'), 'utf8'), 'hello');
    renameSync(join(mnt, 'd/f'), join(mnt, 'g'));
    symlinkSync('g', join(mnt, 's'));
    linkSync(join(mnt, 'g'), join(mnt, 'h'));
    assert.equal(readlinkSync(join(mnt, 's')), 'g');
    assert.equal(readFileSync(join(mnt, 's'), 'utf8'), 'hello');
    truncateSync(join(mnt, 'g'), 2);
    assert.equal(lstatSync(join(mnt, 'g')).size, 2);
    execFileSync('touch', ['-a', '-d', '1969-12-31T23:59:55Z', join(mnt, 'g')]);
    execFileSync('touch', ['-m', '-d', '1970-01-01T00:00:01.5Z', join(mnt, 'g')]);
    assert.equal(statSync(join(source, 'g')).mtimeMs, 1500);
    assert.equal(statSync(join(source, 'g')).atimeMs, -5000);
    assert.throws(() => rmSync(join(mnt, 'absent')), { code: 'ENOENT' });
    const fd = openSync(join(mnt, 'h'), 'r+');
    writeSync(fd, 'XY', 0);
    fsyncSync(fd);
    assert.equal(fstatSync(fd).size, 2);
    closeSync(fd);
    copyFileSync(join(mnt, 'h'), join(mnt, 'copy'));
    assert.equal(readFileSync(join(source, 'copy'), 'utf8'), 'XY');
    rmSync(join(mnt, 'g'));
    assert.deepEqual(readdirSync(mnt).sort(), ['copy', 'd', 'h', 's']);
    // Programs run from it: execve and mmap.
    copyFileSync('/bin/true', join(mnt, 'true'));
    execFileSync('chmod', ['755', join(mnt, 'true')]);
    execFileSync(join(mnt, 'true'));
    const python = `
import mmap, os
f = open(${JSON.stringify(join(mnt, 'm'))}, 'w+b'); f.truncate(8192)
m = mmap.mmap(f.fileno(), 8192); m[4096:4101] = b'mmap!'; m.flush()
assert os.pread(f.fileno(), 5, 4096) == b'mmap!'
os.posix_fallocate(f.fileno(), 0, 16384); assert os.fstat(f.fileno()).st_size == 16384
`;
    const ran = spawnSync('python3', ['-c', python], { encoding: 'utf8' });
    assert.equal(ran.status, 0, ran.stderr);
    const status = await t.plane.status();
    if (status.kernel.passthrough) assert.ok(status.passthroughOpens >= 5, 'passthrough opens');
    assert.equal(status.mounts.length, 1);
    assert.ok(status.mounts[0]!.requests > 20);
  });
});

test('without passthrough the data goes through the server, byte for byte', async () => {
  await withDataPlane(async (t) => {
    const mnt = await t.mount('a-plain', t.makeDir('source'));
    const data = Buffer.alloc(5_000_001, 'pattern-');
    writeFileSync(join(mnt, 'f'), data);
    assert.ok(readFileSync(join(t.dir, 'source/f')).equals(data));
    writeFileSync(join(t.dir, 'source/other'), data);
    assert.ok(readFileSync(join(mnt, 'other')).equals(data));
    const fd = openSync(join(mnt, 'other'), 'r');
    const piece = Buffer.alloc(100);
    assert.equal(readSync(fd, piece, 0, 100, data.length - 10), 10);
    closeSync(fd);
    assert.equal((await t.plane.status()).passthroughOpens, 0);
  });
});

test('a directory of 10,000 entries is read whole, with and without attributes', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    for (let i = 0; i < 10_000; i++) closeSync(openSync(join(source, `entry-with-a-long-name-${i}`), 'w'));
    const mnt = await t.mount('a', source);
    assert.equal(new Set(readdirSync(mnt)).size, 10_000);
    const listed = execFileSync('find', [mnt, '-type', 'f', '-newermt', '2000-01-01'], {
      maxBuffer: 1 << 24,
    });
    assert.equal(listed.toString().trim().split('\n').length, 10_000);
  });
});

test('a relayer shows only the new stack to every later walk, and keeps open files and the mounts inside', async () => {
  await withDataPlane(async (t) => {
    const old = t.makeDir('old');
    const fresh = t.makeDir('fresh');
    for (const [dir, word] of [
      [old, 'old'],
      [fresh, 'new'],
    ] as const) {
      mkdirSync(join(dir, 'd'));
      mkdirSync(join(dir, 'proc'));
      writeFileSync(join(dir, 'd/f'), word);
      writeFileSync(join(dir, `d/only-${word}`), word);
    }
    const mnt = await t.mount('a', old);
    assert.equal(mountCall('inside', join(mnt, 'proc'), 'tmpfs', 0), 0);
    try {
      writeFileSync(join(mnt, 'proc/here'), '');
      const held = openSync(join(mnt, 'd/f'), 'r');
      assert.equal(existsSync(join(mnt, 'd/only-new')), false);
      assert.equal(existsSync(join(mnt, 'd/only-old')), true);
      await t.plane.relayer([{ id: 'a', stack: mirrorSpec('a', fresh).stack }]);
      assert.equal(readFileSync(join(mnt, 'd/f'), 'utf8'), 'new');
      assert.equal(existsSync(join(mnt, 'd/only-new')), true);
      assert.equal(existsSync(join(mnt, 'd/only-old')), false);
      assert.equal(readFileSync(held, 'utf8'), 'old');
      closeSync(held);
      assert.deepEqual(readdirSync(join(mnt, 'proc')), ['here'], 'the mount inside is still there');
    } finally {
      umount(join(mnt, 'proc'), MNT_DETACH);
    }
    await assert.rejects(
      t.plane.relayer([{ id: 'nobody', stack: mirrorSpec('a', fresh).stack }]),
      (error) => {
        return error instanceof StrataError && error.code === 'NOT_FOUND';
      },
    );
  });
});

test('slow work does not stop other requests of the same mount', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    execFileSync('dd', ['if=/dev/zero', `of=${join(source, 'big')}`, 'bs=1M', 'count=512', 'status=none']);
    const FILES = 100;
    for (let i = 0; i < FILES; i++) closeSync(openSync(join(source, `f${i}`), 'w'));
    const mnt = await t.mount('a', source);
    let isCopied = false;
    const slow = Promise.all([1, 2].map(() => spawnSyncLater('stat', [join(mnt, 'slow-copy')]))).finally(
      () => {
        isCopied = true;
      },
    );
    await until('it is being copied', () => existsSync(join(source, 'slow-copy')));
    let answered = 0;
    for (; !isCopied; answered++) {
      statSync(join(mnt, `f${answered % FILES}`));
      // A request each time: the kernel has not asked for this name before.
      statSync(join(mnt, `absent-${answered}`), { throwIfNoEntry: false });
      await delay(1);
    }
    assert.deepEqual(await slow, [0, 0]);
    assert.equal(statSync(join(mnt, 'slow-copy')).size, 2 ** 29);
    // Who waits for the copy is answered once, or twice.
    assert.ok(answered >= 10, `${answered} answers while it was copied`);
  });
});

async function spawnSyncLater(command: string, args: string[]): Promise<number> {
  const { spawn } = await import('node:child_process');
  const child = spawn(command, args, { stdio: 'ignore' });
  return await new Promise((resolve) => child.on('exit', (code) => resolve(code ?? -1)));
}

test('further mountpoints share the connection; a busy mount is not unmounted without force', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    writeFileSync(join(source, 'f'), 'x');
    const first = await t.mount('a', source);
    const second = t.makeDir('second');
    await t.plane.mount({ id: 'a', mountpoint: second, vlfs: mirrorSpec('a', source), readOnly: true });
    assert.equal(readFileSync(join(second, 'f'), 'utf8'), 'x');
    assert.throws(() => writeFileSync(join(second, 'f'), 'y'), { code: 'EROFS' });
    assert.equal(statSync(first).dev, statSync(second).dev);
    const held = openSync(join(first, 'f'), 'r');
    await assert.rejects(t.plane.unmount(first, { force: false }), { code: 'BUSY' });
    await t.plane.unmount(first, { force: true });
    assert.equal(readFileSync(held, 'utf8'), 'x', 'an open file outlives a lazy unmount');
    closeSync(held);
    await assert.rejects(
      t.plane.mount({
        id: 'b',
        mountpoint: join(t.dir, 'absent'),
        vlfs: mirrorSpec('b', source),
        readOnly: false,
      }),
      { code: 'NOT_FOUND' },
    );
    await t.plane.unmount(second, { force: false });
    await until('strata-fs knows it', async () => (await t.plane.status()).mounts.length === 0);
    await until('its record is gone', () => readdirSync(join(t.root, 'run/mounts')).length === 0);
    const pid = dataPlanePid(t.root)!;
    assert.deepEqual(await t.plane.shutdown({ force: false }), []);
    await until('strata-fs has ended', () => !existsSync(`/proc/${pid}`));
  });
});

test('after kill -9 of strata-fs its mounts are made again, bind mounts and the last stack included', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    const fresh = t.makeDir('fresh');
    writeFileSync(join(fresh, 'f'), 'fresh');
    const mnt = await t.mount('a', source);
    const second = t.makeDir('second');
    await t.plane.mount({ id: 'a', mountpoint: second, vlfs: mirrorSpec('a', source), readOnly: false });
    await t.plane.relayer([{ id: 'a', stack: mirrorSpec('a', fresh).stack }]);
    await t.kill();
    assert.throws(() => readFileSync(join(mnt, 'f')), { code: /^(ENOTCONN|ECONNABORTED)$/ });
    await assert.rejects(t.plane.status(), { code: 'DAEMON' });
    t.plane = await t.start();
    assert.deepEqual(await recoverMounts(t.root, t.plane), [mnt, second]);
    assert.equal(readFileSync(join(mnt, 'f'), 'utf8'), 'fresh');
    assert.equal(readFileSync(join(second, 'f'), 'utf8'), 'fresh');
    assert.equal(strataMountpoints().filter((path) => path === mnt).length, 1);
    assert.deepEqual(await recoverMounts(t.root, t.plane), []);
  });
});

test('100 mounts: made quickly, all answer, and use no processor time when idle', async () => {
  await withDataPlane(async (t) => {
    const source = t.makeDir('source');
    writeFileSync(join(source, 'f'), 'x');
    const began = performance.now();
    const mounts = await Promise.all(Array.from({ length: 100 }, (_, i) => t.mount(`m${i}`, source)));
    const perMount = (performance.now() - began) / 100;
    for (const mnt of mounts) assert.equal(readFileSync(join(mnt, 'f'), 'utf8'), 'x');
    const pid = dataPlanePid(t.root)!;
    // Its pool is still starting.
    let last = -1;
    await until('it is idle', async () => {
      const former = last;
      last = cpuMs(pid);
      await delay(400);
      return last === former;
    });
    const before = cpuMs(pid);
    await delay(1500);
    const used = cpuMs(pid) - before;
    // A thread that looks for requests without sleeping uses all of it.
    assert.ok(used <= 300, `idle mounts used ${used} ms of 1500`);
    assert.ok(perMount < 1000, `${perMount} ms a mount`);
    assert.deepEqual(await t.plane.shutdown({ force: false }), []);
  });
});

test('no thread has the capability with which quotas of the file system below would not count', async () => {
  await withDataPlane(async (t) => {
    await t.mount('a', t.makeDir('source'));
    const pid = dataPlanePid(t.root)!;
    const CAP_SYS_RESOURCE = 24n;
    const without = readdirSync(`/proc/${pid}/task`).filter((thread) => {
      const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
      const effective = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(status)![1]}`);
      return ((effective >> CAP_SYS_RESOURCE) & 1n) === 0n;
    });
    // What else has it are threads of the runtime that were there before it was given up; who serves and who copies came later.
    assert.ok(without.includes(String(pid)), 'the main thread');
    assert.ok(without.length >= 4, 'serving threads and the pool');
  });
});
