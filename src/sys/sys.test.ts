import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, lstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import * as sys from './index.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-sys-'));
after(() => rmSync(dir, { recursive: true, force: true }));
const root = sys.openat(sys.AT_FDCWD, dir, sys.O_PATH | sys.O_DIRECTORY);

test('statAt agrees with lstat to the nanosecond', () => {
  writeFileSync(join(dir, 'a'), 'hello');
  sys.utimensat(root, 'a', 1, 2, 2 ** 33, 123456789);
  const st = sys.newStat();
  assert.equal(sys.statAt(root, 'a', st), 0);
  const node = lstatSync(join(dir, 'a'), { bigint: true });
  assert.equal(BigInt(st.ino), node.ino);
  assert.equal(BigInt(st.mtimeSec) * 1_000_000_000n + BigInt(st.mtimeNsec), node.mtimeNs);
  assert.equal(st.mode, Number(node.mode));
  assert.equal(sys.statAt(root, 'missing', st), -sys.E.NOENT);
});

test('names are bytes', () => {
  const name = 'x\xff\xfe\xe9';
  assert.equal(sys.mkdirat(root, name, 0o755), 0);
  const fd = sys.openat(root, '.', sys.O_RDONLY | sys.O_DIRECTORY);
  const entries = sys.readDirectory(fd);
  assert.ok(Array.isArray(entries) && entries.some((e) => e.name === name && e.type === sys.DT_DIR));
  sys.close(fd);
  assert.equal(sys.unlinkat(root, name, sys.AT_REMOVEDIR), 0);
});

test('device numbers survive the round trip', () => {
  assert.equal(sys.mknodat(root, 'dev', sys.S_IFCHR | 0o600, sys.encodeDev(300, 70000)), 0);
  const st = sys.newStat();
  sys.statAt(root, 'dev', st);
  assert.deepEqual([sys.majorOf(st.rdev), sys.minorOf(st.rdev)], [300, 70000]);
});

test('extended attributes by descriptor, by name and through O_PATH', () => {
  writeFileSync(join(dir, 'x'), '');
  const value = Uint8Array.from([0, 1, 255]);
  assert.equal(sys.setxattrAt(root, 'x', 'trusted.strata.test', value), 0);
  assert.deepEqual(sys.getxattrAt(root, 'x', 'trusted.strata.test'), value);
  const fd = sys.openat(root, 'x', sys.O_PATH);
  assert.deepEqual(sys.getxattrPathFd(fd, 'trusted.strata.test'), value);
  assert.deepEqual(sys.splitXattrList(sys.listxattrPathFd(fd) as Uint8Array), ['trusted.strata.test']);
  assert.equal(sys.removexattrPathFd(fd, 'trusted.strata.test'), 0);
  assert.equal(sys.getxattrAt(root, 'x', 'trusted.strata.test'), -sys.E.NODATA);
  sys.close(fd);
});

test('openat2 refuses to leave the directory', () => {
  sys.symlinkat('/etc', root, 'out');
  assert.equal(
    sys.openat2(root, 'out/passwd', sys.O_RDONLY, 0, sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS),
    -sys.E.LOOP,
  );
  assert.equal(sys.openat2(root, '../x', sys.O_RDONLY, 0, sys.RESOLVE_BENEATH), -sys.E.XDEV);
  assert.equal(sys.readlinkat(root, 'out'), '/etc');
});

test('copy_file_range, O_TMPFILE and linkFd', () => {
  writeFileSync(join(dir, 'src'), 'abcdefgh');
  const from = sys.openat(root, 'src', sys.O_RDONLY);
  const to = sys.openat(root, '.', sys.O_TMPFILE | sys.O_RDWR, 0o600);
  assert.ok(to > 0);
  assert.equal(sys.copyFileRange(from, 2, to, 0, 4), 4);
  assert.equal(sys.linkFd(to, root, 'dst'), 0);
  const bytes = new Uint8Array(8);
  assert.equal(sys.pread(to, bytes, 8, 0), 4);
  assert.equal(Buffer.from(bytes.subarray(0, 4)).toString(), 'cdef');
  sys.close(from);
  sys.close(to);
});

test('epoll reports an eventfd that was signalled', () => {
  const ep = sys.epollCreate();
  const ev = sys.eventfd();
  assert.equal(sys.epollAdd(ep, ev, sys.EPOLLIN, 77), 0);
  assert.equal(sys.epollWait(ep, 0), 0);
  sys.eventfdSignal(ev);
  assert.equal(sys.epollWait(ep, 1000), 1);
  assert.equal(sys.readyTag(0), 77);
  sys.eventfdDrain(ev);
  assert.equal(sys.epollWait(ep, 0), 0);
  sys.close(ev);
  sys.close(ep);
});

test('a loop device ends with the process that made it, killed or not', async () => {
  const file = join(dir, 'loop.img');
  writeFileSync(file, Buffer.alloc(1 << 20, 'loop'));
  const script = `
    const { openSync, readSync } = await import('node:fs');
    const sys = await import(${JSON.stringify(new URL('./index.ts', import.meta.url).href)});
    const device = sys.loopDevice(openSync(${JSON.stringify(file)}, 'r'));
    const bytes = Buffer.alloc(4);
    readSync(device.fd, bytes, 0, 4, 4096);
    process.stdout.write(bytes.toString() + device.path + '\\n');
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  const backing = `${said.toString().trim().replace('loop/dev/', '/sys/block/')}/loop/backing_file`;
  assert.equal(readFileSync(backing, 'utf8').trim(), file);
  child.kill('SIGKILL');
  await once(child, 'exit');
  const isThere = (): boolean => existsSync(backing) && readFileSync(backing, 'utf8').trim() === file;
  await until('it is gone', () => !isThere());
});
