/** Containers as a user meets them: what is inside, what is kept out, how they end. Needs root and a static busybox. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { StrataError } from '../base/index.ts';
import { until } from '../base/until.test-support.ts';
import {
  type ContainerResult,
  type ContainerSpec,
  cleanupStale,
  killContainer,
  listContainers,
  prepareBundle,
  removeBundle,
  runContainer,
} from './index.ts';
import { canRunContainers, makeTestRoot, type TestRoot } from './test-support.ts';

const skip = canRunContainers() ? false : 'needs root and busybox-static';

describe('a container', { skip }, () => {
  let t: TestRoot;
  before(() => {
    t = makeTestRoot();
  });
  after(() => t.remove());

  const sh = (script: string, more: Partial<ContainerSpec> = {}): Promise<ContainerResult> =>
    runContainer(t.spec(['sh', '-c', script], more), { root: t.root });

  test('gives the exit status of its command', async () => {
    assert.equal((await sh('exit 0')).status, 0);
    assert.equal((await sh('exit 7')).status, 7);
    assert.equal((await sh('kill -9 $$; sleep 1')).status, 0, 'pid 1 cannot kill itself');
    assert.equal((await sh('sh -c "kill -TERM \\$\\$"; exit $?')).status, 143);
    assert.equal((await runContainer(t.spec(['no-such-command']), { root: t.root })).status, 127);
    assert.equal((await runContainer(t.spec(['/etc/hosts']), { root: t.root })).status, 126);
  });

  test('has its own host name, processes, mounts and network', async () => {
    const host = execFileSync('hostname').toString().trim();
    const { output } = await sh(
      'hostname; echo pid $$; ps | wc -l; ls /sys/class/net; cat /etc/hostname; ls -A /; readlink /proc/self/ns/ipc',
    );
    const lines = output.trimEnd().split('\n');
    assert.equal(lines[0], 'web-1');
    assert.notEqual(lines[0], host);
    assert.equal(lines[1], 'pid 1');
    assert.ok(Number(lines[2]) <= 5, output);
    assert.equal(lines[3], 'lo');
    assert.equal(lines[4], 'web-1', 'the generated hostname file');
    assert.equal(
      readFileSync(join(t.rootfs, 'etc/hostname'), 'utf8'),
      'old\n',
      'the appliance keeps its own',
    );
    assert.deepEqual(lines.slice(5, -1), readdirSync(t.rootfs).sort());
    assert.notEqual(lines.at(-1), execFileSync('readlink', ['/proc/self/ns/ipc']).toString().trim());
  });

  test('shares the network of the host when asked to', async () => {
    const { output } = await sh('ls /sys/class/net', { network: 'host' });
    assert.deepEqual(output.trim().split(/\s+/), readdirSync('/sys/class/net').sort());
  });

  test('may not mount, load modules, make namespaces, set the clock or reach devices', async () => {
    const { output } = await sh(`
      try() { "$@" >/dev/null 2>&1 && echo "allowed: $*"; }
      try mount -t tmpfs none /tmp
      try mount -o bind /bin /tmp
      try unshare -m true
      try unshare -U true
      try insmod /bin/busybox
      busybox date -s 2001-01-01 2>&1 | busybox grep -q 'not permitted' || echo 'allowed: date'
      try busybox swapon /bin/busybox
      try busybox hostname other
      try busybox chroot / busybox mount -t proc none /proc
      try busybox setarch linux64 -R true
      try busybox dmesg
      mknod /tmp/disk b 253 0 2>/dev/null; try head -c 1 /tmp/disk; rm -f /tmp/disk
      mknod /tmp/mem c 1 1 2>/dev/null; try head -c 1 /tmp/mem; rm -f /tmp/mem
      try sh -c 'echo 1 >/proc/sys/kernel/sysrq'
      try sh -c 'echo x >/sys/kernel/x'
      try sh -c 'echo b >/proc/sysrq-trigger'
      echo end`);
    assert.equal(output, 'end\n');
  });

  test('lets an ordinary userland work', async () => {
    const { output, status } = await sh(`
      set -e
      echo x >/dev/null; head -c 4 /dev/urandom >/tmp/r; echo y >/dev/shm/y; busybox chown 33:33 /tmp/r
      chroot / true; busybox su -s /bin/sh -c id root >/dev/null 2>&1 || true
      busybox setuidgid 33:33 id 2>/dev/null || true
      (sleep 0.1 & wait); ulimit -n; rm /tmp/r; echo fine`);
    assert.equal(status, 0, output);
    assert.match(output, /\nfine\n$/);
  });

  test('has the default capabilities and no more', async () => {
    const { output } = await sh(
      'grep -E "^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):" /proc/self/status'.replace(
        'grep',
        'busybox grep',
      ),
    );
    const caps = BigInt(`0x${/CapEff:\s*(\S+)/.exec(output)![1]}`);
    assert.equal(caps & ~0xa80425fbn, 0n, 'a subset of the default of container engines');
    assert.match(output, /CapAmb:\s*0+\n/);
    assert.match(output, /Seccomp:\s*2/);
    const other = await sh('busybox grep CapEff /proc/self/status', { user: { uid: 33, gid: 33 } });
    assert.match(other.output, /CapEff:\s*0+\n/);
  });

  test('mounts what the spec says, read-only unless said', async () => {
    const dir = join(t.root, 'shared');
    mkdirSync(dir);
    writeFileSync(join(dir, 'f'), 'hello\n');
    const mounts = [{ source: dir, target: '/dev/shared' }];
    assert.equal((await sh('cat /dev/shared/f; echo x >/dev/shared/f', { mounts })).status, 1);
    const writable = [{ source: dir, target: '/dev/shared', writable: true }];
    assert.equal((await sh('echo changed >/dev/shared/f', { mounts: writable })).status, 0);
    assert.equal(readFileSync(join(dir, 'f'), 'utf8'), 'changed\n');
  });

  test('does not follow links of the appliance out of its root', async () => {
    const outside = join(t.root, 'outside');
    writeFileSync(outside, 'host\n');
    rmSync(join(t.rootfs, 'etc/hostname'));
    symlinkSync(outside, join(t.rootfs, 'etc/hostname'));
    const { output } = await sh('cat /etc/hostname || echo nothing');
    assert.match(output, /nothing/);
    assert.equal(readFileSync(outside, 'utf8'), 'host\n');
    rmSync(join(t.rootfs, 'etc/hostname'));
    writeFileSync(join(t.rootfs, 'etc/hostname'), 'old\n');
  });

  test('is killed as a whole when its time is over', async () => {
    const started = Date.now();
    const spec = t.spec(['sh', '-c', 'echo begun; sleep 1000 & sleep 1000'], { timeoutMs: 3000 });
    const result = await runContainer(spec, { root: t.root });
    assert.equal(result.status, 124);
    assert.equal(result.output, 'begun\n');
    // Who waited for one of its processes waited a thousand seconds.
    assert.ok(Date.now() - started < 300_000);
    assert.deepEqual(await listContainers(t.root), []);
  });

  test('keeps only the end of long output', async () => {
    const { output } = await sh('busybox seq 1 100000');
    assert.equal(output.length, 256 * 1024);
    assert.ok(output.endsWith('\n99999\n100000\n'));
  });

  test('suppresses syncs only when asked', async () => {
    assert.equal(
      (await sh('busybox dd if=/dev/null of=/dev/null conv=fsync 2>&1')).status,
      1,
      'a device cannot be synced',
    );
    assert.equal(
      (await sh('busybox dd if=/dev/null of=/dev/null conv=fsync 2>&1', { suppressSync: true })).status,
      0,
    );
  });

  test('refuses a bad spec and a second container of the same id', async () => {
    const code = (code: string) => (error: unknown) => error instanceof StrataError && error.code === code;
    await assert.rejects(prepareBundle(t.root, t.spec([])), code('USAGE'));
    await assert.rejects(prepareBundle(t.root, t.spec(['true'], { id: '../x' })), code('BAD_NAME'));
    await assert.rejects(prepareBundle(t.root, t.spec(['true'], { hostname: 'a b' })), code('USAGE'));
    const spec = t.spec(['true']);
    await prepareBundle(t.root, spec);
    await assert.rejects(prepareBundle(t.root, spec), code('BUSY'));
    await removeBundle(t.root, spec.id);
  });

  test('is listed and killed, and what a crash leaves behind is removed', async () => {
    const spec = t.spec(['sleep', '1000']);
    const { argv, bundleDir } = await prepareBundle(t.root, spec);
    const child = spawn(argv[0]!, argv.slice(1), { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.on('close', resolve));
    await until('it runs', async () =>
      (await listContainers(t.root)).some((c) => c.id === spec.id && c.status === 'running'),
    );
    assert.deepEqual(await cleanupStale(t.root), [], 'a running one is kept');
    // The runtime dies without cleaning up; the container is killed behind its back.
    child.kill('SIGKILL');
    await ended;
    await killContainer(t.root, spec.id, 'SIGKILL');
    await until('it is stopped', async () =>
      (await listContainers(t.root)).every((c) => c.status === 'stopped'),
    );
    assert.deepEqual(await cleanupStale(t.root), [spec.id]);
    assert.equal(existsSync(bundleDir), false);
    assert.deepEqual(await listContainers(t.root), []);
    await killContainer(t.root, spec.id, 'SIGKILL');
  });

  test('leaves nothing behind', () => {
    assert.deepEqual(
      readdirSync(join(t.root, 'run/containers')).filter((n) => n !== '.state'),
      [],
    );
    assert.deepEqual(readdirSync(join(t.root, 'run/containers/.state')), []);
  });
});
