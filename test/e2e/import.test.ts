/** An archive of a root file system becomes an appliance that is mounted by both doors, changed, run, cloned, compared, scanned, put under a policy, updated by its template, and deleted. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { until } from '../../src/base/until.test-support.ts';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('import');
/** What is moved must not come from the state root. */
const outside = mkdtempSync(join(tmpdir(), 'strata-imported-'));
after(async () => {
  rmSync(outside, { recursive: true });
  await s.remove();
});
const view = join(s.root, 'view');

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; cd '${view}'; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

/** Attributes by which overlayfs and Strata would show other contents, hide names or refuse files. */
const MARKS = `
  mark() { setfattr -h -n "$1" -v "$2" "$3"; }
  mkdir -p opaque redirected/in merged; echo o > opaque/file; echo r > redirected/in/file; echo host > merged/file
  mark trusted.overlay.opaque y opaque; mark trusted.overlay.opaque x merged; mark trusted.overlay.redirect /merged redirected
  mark trusted.overlay.redirect ../../../../etc redirected/in; mark trusted.overlay.overlay.opaque y opaque; mark user.overlay.opaque y opaque
  mark trusted.strata.redirects y .; mark trusted.strata.bases 0x6d61696e2f783100002f00 .; mark trusted.strata.ino 0x0100000000000000 merged
  head -c 200000 /dev/zero | tr '\\0' m > meta; mark trusted.overlay.metacopy '' meta; mark trusted.overlay.redirect /merged/file meta
  echo w > white; mark trusted.overlay.whiteout y white; echo p > partial; mark trusted.strata.partial 0x0100 partial
  echo q > held; mark trusted.strata.quarantine ${'0'.repeat(64)} held; echo n > kept; mark trusted.strata.nonclonable y kept
  mark trusted.strata.was /etc opaque; mark trusted.strata.origin 0x2f00 white; mark trusted.mine yes kept; ln meta hard`;

test('marks of overlayfs and Strata in what is linked or moved mean nothing, through both doors', async () => {
  mkdirSync(view);
  const picture = async (): Promise<string> =>
    script(`find . -mindepth 1 ! -type d -printf '%P %y %m %s %n\\n' -o -mindepth 1 -printf '%P %y %m\\n' | sort
      find . -type f -exec sha256sum {} + | sort -k2; find . -print0 | sort -z | xargs -0 getfattr -h -d -m '^(user|trusted.mine)' --absolute-names`);
  const shownBy = async (name: string, ...door: string[]): Promise<string> => {
    await s.json('mount', name, view, ...door);
    const seen = await picture();
    assert.equal(
      await script("find . -print0 | xargs -0 getfattr -h -m '^trusted.(overlay|strata)' 2>&1"),
      '',
    );
    await s.json('umount', name);
    return seen;
  };
  for (const how of ['--link', '--move']) {
    const name = how.slice(2);
    const tree = join(outside, name);
    mkdirSync(tree);
    const made = await sh(`set -e; cd '${tree}'; ${MARKS}`);
    assert.equal(made.status, 0, made.stderr);
    await sh(`mount --bind '${tree}' '${view}'`);
    const before = await picture();
    await sh(`umount '${view}'`);
    await s.json('import-dir', tree, name, how);
    assert.equal(await shownBy(name), before);
    assert.equal(await shownBy(name, '--door', 'sealed'), before);
    // Copies and their clones are without them too.
    for (const door of ['fuse', 'sealed']) {
      await s.json('mount', name, view, '--door', door);
      await script(
        `printf ${door} >> meta; chmod 600 white partial held; printf + >> merged/file; touch opaque/new; mv redirected moved-${door}; mv moved-${door} redirected`,
      );
      await s.json('umount', name);
    }
    const copy = `${name}-copy`;
    await s.json('clone', name, copy);
    assert.equal(await shownBy(copy), await shownBy(name));
    await s.json('mount', copy, view);
    assert.equal(
      await script(
        'cat held partial kept white opaque/file redirected/in/file merged/file; tail -c 10 meta; ls opaque',
      ),
      'q\np\nn\nw\no\nr\nhost\n++fusesealedfile\nnew\n',
    );
    await s.json('umount', copy);
    assert.deepEqual((await s.json('fsck')).problems, []);
    await s.json('delete', copy, name);
  }
});

test('what is imported is an appliance like any other', async () => {
  const tree = join(s.root, 'trees', 'rootfs');
  mkdirSync(join(tree, 'bin'), { recursive: true });
  await sh(`cp /bin/busybox '${tree}/bin/busybox'; for one in sh cat ls echo; do ln -s busybox '${tree}/bin/'$one; done
    mkdir -p '${tree}'/{etc,var,root}; mkdir '${tree}/etc' '${tree}/root' '${tree}/var' '${tree}/proc' '${tree}/dev' '${tree}/sys' '${tree}/tmp' '${tree}/run' 2>/dev/null
    echo secret > '${tree}/root/.netrc'; echo old > '${tree}/etc/conf'; echo t > '${tree}/etc/token'; head -c 3000000 /dev/zero | tr '\\0' L > '${tree}/var/large'; ln '${tree}/etc/conf' '${tree}/etc/hard'
    tar --zstd -cf '${s.root}/rootfs.tar.zst' -C '${tree}' .`);
  const made = await s.json('import-dir', join(s.root, 'rootfs.tar.zst'), 'i', '--quota', '100M');
  assert.deepEqual([made.source, made.template], ['tar', 'imported']);
  assert.deepEqual((await s.json('diff', 'i')).entries, []);
  await s.json('mount', 'i', view);
  assert.match(await script('cat etc/conf; stat -c %h etc/conf'), /^old\n2\n$/);
  await script(
    'printf new > etc/conf; cat etc/hard; printf X | dd of=var/large bs=1 seek=1000000 conv=notrunc 2>/dev/null; rm root/.netrc',
  );
  assert.equal(await script('cat etc/hard'), 'new');
  const { used_bytes } = await s.json('quota', 'i');
  assert.ok(used_bytes < 200_000, `${used_bytes}`);
  await s.json('umount', 'i');
  const changes = (await s.json('diff', 'i')).entries as { path: string; change: string; layer: string }[];
  assert.deepEqual(
    changes.map(({ path, change }) => `${change} ${path}`),
    ['changed /etc/conf', 'changed /etc/hard', 'deleted /root/.netrc', 'changed /var/large'],
  );
  assert.ok(changes.every(({ layer }) => layer.startsWith('imported/')));
  const ran = await s.run(['run', 'i', '--', '/bin/cat', '/etc/conf']);
  assert.deepEqual([ran.status, ran.stdout], [0, 'new'], ran.stderr);
  await s.json('clone', 'i', 'c', '--exclude', '/etc/token', '--quota', 'none');
  await s.json('clone', 'i:/etc', 'etc');
  await s.json('mount', 'etc', view);
  assert.equal(await script('ls; cat conf'), 'conf\nhard\ntoken\nnew');
  // Also of one that is in use.
  await s.json('clone', 'etc:/', 'etc2');
  assert.deepEqual((await s.json('list')).appliances.map(({ name }: { name: string }) => name).sort(), [
    'c',
    'etc',
    'etc2',
    'i',
  ]);
  await s.json('umount', 'etc');
  await s.json('mount', 'etc2', view);
  assert.equal(await script('ls'), 'conf\nhard\ntoken\n');
  await s.json('umount', 'etc2');
  await s.json('quota', 'c', 'none', '--inodes', 'none');
  await s.json('mount', 'c', view);
  assert.equal(await script('ls etc; ls root; head -c 1000001 var/large | tail -c 2'), 'conf\nhard\nLX');
  await s.json('umount', 'c');
  // The kernel alone.
  await s.json('revert', 'i', '/etc/conf');
  await s.json('quota', 'i', 'none');
  await s.json('import-dir', tree, 'd');
  await s.json('mount', 'd', view, '--door', 'sealed');
  await script(
    'cat etc/conf | grep -qx old; printf mine > etc/conf; cat etc/hard | grep -q .; ./bin/busybox true; cmp var/large var/large',
  );
  await s.json('umount', 'd');
  assert.ok((await s.json('diff', 'd')).entries.some(({ path }: { path: string }) => path === '/etc/conf'));
  // A scanner finds what is in the base, in all who show it.
  const line = 'head -c 4 "$1" | grep -q LLLL && exit 1; exit 0';
  const scan = await s.run(['--json', 'scan', '--with', 'command', '--command', line]);
  const found = JSON.parse(scan.stdout).infected as { places?: unknown }[];
  assert.ok(found.length >= 1, scan.stdout.slice(0, 500) + scan.stderr);
  // Layers that the template gets lie above all that was imported.
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  const agent = join(s.root, 'trees', 'agent');
  mkdirSync(join(agent, 'etc'), { recursive: true });
  writeFileSync(join(agent, 'etc/agent'), 'agent\n');
  await s.json('layer', 'build', agent, '--repo', 'local', '--name', 'agent', '--version', '1');
  await s.json('template', 'add', 'imported', 'agent');
  await s.json('mount', 'c', view);
  assert.equal(await script('cat etc/agent; cat etc/conf'), 'agent\nnew');
  await s.json('umount', 'c');
  assert.deepEqual((await s.json('fsck')).problems, []);
  await s.json('delete', 'i', 'c', 'd', 'etc', 'etc2');
  await until('space comes back', () => readdirSync(join(s.root, 'imports')).length === 0);
  assert.equal(existsSync(join(tree, 'etc/conf')), true);
});
