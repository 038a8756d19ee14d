/**
 * Merging a private layer over a config layer, with the kernel's overlayfs as oracle: private over config over base must look exactly like
 * the merged layer over base.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { mergePrivateOver } from './layer-merge.ts';
import { copyTree } from './tree-copy.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-merge-'));
after(() => {
  execFileSync('sh', ['-c', `for m in ${dir}/*/view; do umount -l $m 2>/dev/null; done; rm -rf ${dir}`]);
});

const sh = (script: string, cwd = dir) => execFileSync('sh', ['-ec', script], { cwd, encoding: 'utf8' });

/** Runs a script inside an overlay mount, so that the kernel writes the upper directory. */
function inOverlay(at: string, lowers: string[], upper: string, script: string): string {
  const view = join(at, 'view');
  mkdirSync(view, { recursive: true });
  mkdirSync(join(at, `${upper}-work`), { recursive: true });
  mkdirSync(join(at, upper), { recursive: true });
  const options = `redirect_dir=on,metacopy=off,index=off,lowerdir=${lowers.join(':')},upperdir=${upper},workdir=${upper}-work`;
  sh(`mount -t overlay overlay -o ${options} view`, at);
  try {
    return sh(`cd view; ${script}`, at);
  } finally {
    sh('umount view', at);
  }
}

const LIST = `find . -printf '%P %y %m %U %G %l ' -exec sh -c 'test -f "$1" && test ! -L "$1" && md5sum < "$1" || echo' _ {} \\; | sort`;

/** Compares both views after `config` and then `change` were written by the kernel. */
async function agrees(name: string, base: string, config: string, change: string): Promise<void> {
  const at = join(dir, name);
  mkdirSync(join(at, 'base'), { recursive: true });
  sh(base, join(at, 'base'));
  inOverlay(at, ['base'], 'config', config);
  inOverlay(at, ['config', 'base'], 'private', change);
  const expected = inOverlay(at, ['private', 'config', 'base'], 'one', LIST);
  await copyTree(join(at, 'config'), join(at, 'merged'), { how: 'copy' });
  await mergePrivateOver(join(at, 'private'), join(at, 'merged'));
  assert.equal(inOverlay(at, ['merged', 'base'], 'two', LIST), expected);
  rmSync(at, { recursive: true, force: true });
}

const BASE = 'mkdir -p a/b c; echo 1 > a/x; echo 2 > a/b/y; echo 3 > c/z; ln -s x a/l';
const CONFIG = 'echo cfg > a/x; mkdir -p a/new n; echo n > n/f; echo q > a/new/q; chmod 700 c';

test('files, deletions, attributes, links', async () => {
  await agrees(
    'plain',
    BASE,
    CONFIG,
    'rm a/x n/f; echo m > c/z; chown 7:8 a/b/y; chmod 4755 a/b/y; ln -s /etc/passwd n/l; rm a/l; mkdir a/l; echo 1 > a/l/1',
  );
});

test('a directory that takes the place of a file or a removed directory is opaque', async () => {
  await agrees('opaque', BASE, CONFIG, 'rm -r a; mkdir a; echo only > a/only; rm -r n; echo file > n');
  await agrees('opaque2', BASE, 'rm -r a; echo f > a', 'rm a; mkdir a; echo f > a/f');
});

test('renamed directories take what the config layer holds of them along', async () => {
  await agrees('rename', BASE, CONFIG, 'mv a moved; echo k > moved/k; mkdir a; echo again > a/x');
  await agrees(
    'rename2',
    BASE,
    'mv a first; echo f > first/f',
    'mv first second; rm second/x; mv second/b c/b',
  );
});

test('random sequences of operations look the same', { timeout: 300_000 }, async () => {
  const path = fc.constantFrom('a', 'a/b', 'a/x', 'c', 'c/z', 'n', 'n/f', 'a/b/y', 'p', 'a/p', 'c/q');
  const operation = fc.oneof(
    path.map((p) => `echo w > ${p}`),
    path.map((p) => `rm -rf ${p}`),
    path.map((p) => `mkdir -p ${p}`),
    fc.tuple(path, path).map(([p, q]) => `mv -T ${p} ${q}`),
    path.map((p) => `chmod 711 ${p}`),
  );
  const script = fc
    .array(operation, { minLength: 1, maxLength: 6 })
    .map((list) => list.map((o) => `{ ${o}; } 2>/dev/null || true`).join('; '));
  let n = 0;
  await fc.assert(
    fc.asyncProperty(script, script, (config, change) => agrees(`r${n++}`, BASE, config, change)),
    randomRuns(15),
  );
});

test('a copy keeps owners, hard links, holes, xattrs and odd names; a whiteout set removes', async () => {
  const at = join(dir, 'copy');
  mkdirSync(join(at, 'from'), { recursive: true });
  sh(
    `echo one > f; ln f g; truncate -s 8M hole; printf end >> hole; setfattr -n trusted.t -v v f; chown 5:6 f; mkdir -p d/e;
     touch "$(printf 'a\\377b\\nc')"; ln -s "$(printf '\\377')" link; mknod wh c 0 0; mkfifo pipe; touch -d @12345.678 d; mkdir -m 2750 s`,
    join(at, 'from'),
  );
  await copyTree(join(at, 'from'), join(at, 'to'), { how: 'copy' });
  const list = `find . -printf '%P %y %m %U %G %l %n %s %T@\\n' | LC_ALL=C sort`;
  assert.equal(sh(list, join(at, 'to')), sh(list, join(at, 'from')));
  assert.match(sh('getfattr -n trusted.t f', join(at, 'to')), /trusted.t="v"/);
  assert.ok(Number(sh('stat -c %b hole', join(at, 'to'))) < 1000);
  assert.equal(sh('stat -c %i f', join(at, 'to')), sh('stat -c %i g', join(at, 'to')));
  mkdirSync(join(at, 'set/d'), { recursive: true });
  sh('mknod f c 0 0; mknod d/e c 0 0', join(at, 'set'));
  mkdirSync(join(at, 'empty'));
  await mergePrivateOver(join(at, 'empty'), join(at, 'to'), { hidden: join(at, 'set') });
  assert.equal(sh('ls -A d; ls g', join(at, 'to')), 'g\n');
});

test('trees of any depth are copied and merged with few descriptors', async () => {
  const DEPTH = 3000;
  const at = join(dir, 'deep');
  const make = `import os, sys
for top in sys.argv[1:]:
    os.makedirs(top)
    os.chdir(top)
    for n in range(${DEPTH}):
        os.mkdir('d')
        os.chdir('d')
        if n % 1000 == 999: open(os.path.basename(top), 'w').close()
    with open('bottom', 'w') as f: f.write(top)
    os.link('bottom', 'again')`;
  execFileSync('python3', ['-c', make, join(at, 'upper'), join(at, 'lower')]);
  mkdirSync(join(at, 'set'));
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  let most = 0;
  let made = 0;
  const onMade = (): void => {
    if (made++ % 100 === 0) most = Math.max(most, descriptors() - before);
  };
  for (const how of ['link', 'copy'] as const)
    await copyTree(join(at, 'lower'), join(at, how), { how, onMade });
  await mergePrivateOver(join(at, 'upper'), join(at, 'link'), {
    hidden: join(at, 'set'),
    how: 'link',
    frozen: { onMade },
  });
  assert.ok(most > 0 && most < 300, `${most} descriptors`);
  assert.equal(descriptors(), before);
  const look = `import os, sys
for top in sys.argv[1:]:
    os.chdir(top)
    depth, found = 0, []
    while os.path.isdir('d'):
        os.chdir('d')
        depth += 1
        found += [name for name in os.listdir('.') if name in ('upper', 'lower')]
    print(depth, len(found), os.path.basename(open('again').read()), os.stat('bottom').st_nlink)`;
  const seen = execFileSync('python3', ['-c', look, join(at, 'link'), join(at, 'copy')], {
    encoding: 'utf8',
  });
  // Of the upper tree, whose files have their names there too, and of the lower one.
  assert.deepEqual(seen.trim().split('\n'), [`${DEPTH} 6 upper 4`, `${DEPTH} 3 lower 2`]);
});

test('nothing in a private layer is followed out of it', async () => {
  const at = join(dir, 'hostile');
  for (const part of ['private', 'config', 'outside']) mkdirSync(join(at, part), { recursive: true });
  writeFileSync(join(at, 'outside/secret'), 'secret');
  sh(
    `ln -s ${at}/outside private/link; ln -s ${at}/outside config/dir; mkdir private/dir; echo evil > private/dir/secret`,
    at,
  );
  sh(`mkdir private/taken; setfattr -n trusted.overlay.redirect -v /dir/../../outside private/taken`, at);
  await mergePrivateOver(join(at, 'private'), join(at, 'config'));
  assert.equal(sh('cat outside/secret', at), 'secret');
  assert.equal(
    sh('readlink config/link; stat -c %F config/dir; ls config/taken', at),
    `${at}/outside\ndirectory\n`,
  );
});
