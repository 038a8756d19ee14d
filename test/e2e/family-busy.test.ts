/**
 * Merges into appliances that are mounted and at work, and the way back to a snapshot while programs go on: in one step, with what is open left to who has it, refused only where
 * programs change the very places, and complete whatever dies in between.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { sh, strataRoot } from '../helpers/strata.ts';

const s = strataRoot('family-busy');
after(() => s.remove());

const view = (name: string): string => join(s.root, 'view', name);

async function script(text: string): Promise<string> {
  const { status, stdout, stderr } = await sh(`set -e; LC_ALL=C; export LC_ALL; ${text}`);
  assert.equal(status, 0, `${text}\n${stdout}\n${stderr}`);
  return stdout;
}

const at = (name: string, text: string): Promise<string> => script(`cd '${view(name)}'; ${text}`);

const LOOK = `find . -printf '%P %y %m %U %G %l ' \\( -type d -o -printf '%n %s %T@' \\) -printf '\\n' | sort
  find . -type f | sort | xargs -d '\\n' sha256sum; getfattr -R -d -m '^user' . 2>/dev/null | sort`;

before(async () => {
  await s.json('repo', 'add', 'local', join(s.root, 'units'));
  const tree = join(s.root, 'trees/base');
  mkdirSync(tree, { recursive: true });
  await script(`cd '${tree}'; mkdir -p etc usr/lib/a usr/bin srv var
    echo base > etc/motd; echo hosts > etc/hosts; echo tool > usr/bin/tool; ln usr/bin/tool usr/bin/alias
    for i in 1 2 3; do echo $i > usr/lib/a/$i; done; head -c 400000 /dev/urandom > usr/lib/big`);
  await s.json('layer', 'build', tree, '--repo', 'local', '--name', 'base', '--version', '1');
  await s.json('template', 'create', 't', 'base');
  await s.json('create', 'web', '--template', 't');
  await s.json('mount', 'web', view('web'));
  await at(
    'web',
    'echo mine > etc/motd; mkdir -p srv/data/old; echo 1 > srv/data/one; ln srv/data/one srv/data/two; echo log > var/log; chmod 711 .',
  );
  await s.json('clone', 'web', 'test');
  await s.json('mount', 'test', view('test'));
});

/** A program in an appliance that makes, renames, writes and removes files without rest, until it is told to end. */
async function busy(name: string): Promise<() => Promise<string>> {
  const stop = join(s.root, `stop-${name}`);
  const begun = join(s.root, `begun-${name}`);
  rmSync(begun, { force: true });
  const work = sh(`cd '${view(name)}' && mkdir -p var/busy && n=0
    while ! test -e '${stop}'; do test $n -eq 1 && touch '${begun}'; n=$((n+1)); echo $n >> var/log; echo $n > var/busy/new; mv var/busy/new var/busy/$((n%50))
      mkdir var/busy/dir; rm -r var/busy/dir; done; echo $n; rm '${stop}'`);
  while (!existsSync(begun)) await delay(20);
  return async () => {
    await sh(`touch '${stop}'`);
    const { status, stdout, stderr } = await work;
    assert.equal(status, 0, stderr);
    return stdout.trim();
  };
}

test('a merge into a mounted parent at work: all of it at once, and what is open stays what it was', async () => {
  await at(
    'test',
    `echo changed > etc/hosts; rm usr/lib/a/3; mv usr/lib/a usr/lib/b; mkdir srv/new; echo new > srv/new/file
     echo child > srv/data/one; rm -r srv/data/old; ln -s one srv/data/link; chmod 750 usr/bin/tool; chmod 700 .; setfattr -n user.note -v x .
     printf x | dd of=usr/lib/big bs=1 seek=300000 conv=notrunc 2>/dev/null`,
  );
  const web = view('web');
  const files = await Promise.all([
    open(join(web, 'etc/hosts'), 'r'),
    open(join(web, 'srv/data/one'), 'r+'),
    open(join(web, 'var/log'), 'a'),
  ]);
  const [hosts, one, log] = files as [(typeof files)[0], (typeof files)[0], (typeof files)[0]];
  // What the kernel knows of the parent before.
  await at('web', `${LOOK} > /dev/null; ls srv/new 2>/dev/null || true`);
  const end = await busy('web');
  const { merged, changes } = await s.json('merge', 'test', 'web');
  assert.equal(merged, true);
  assert.ok((changes as unknown[]).length > 8);
  await log.appendFile('open\n');
  await one.write('to the former file', 0);
  assert.equal((await hosts.readFile()).toString(), 'hosts\n');
  for (const file of files) await file.close();
  const rounds = Number(await end());
  const lines = (await at('web', 'cat var/log')).trim().split('\n');
  const counted = Array.from({ length: rounds }, (_, i) => String(i + 1));
  assert.deepEqual(
    lines.filter((line) => line !== 'open'),
    ['log', ...counted],
  );
  assert.equal(lines.length, rounds + 2);
  const seen = await at('web', 'cat etc/hosts srv/data/one srv/data/two etc/motd');
  assert.equal(seen, 'changed\nchild\nchild\nmine\n');
  // But for what the program does.
  const look = async (name: string): Promise<string[]> =>
    (await at(name, LOOK)).split('\n').filter((line) => !line.includes('var'));
  assert.deepEqual(await look('web'), await look('test'));
  assert.equal((await s.json('fsck'))['clean'], true);
  // Twice is once; and the other way there is only what the parent's program did.
  assert.deepEqual((await s.json('merge', 'test', 'web'))['changes'], []);
  await s.json('merge', 'web', 'test');
  assert.equal(await at('web', LOOK), await at('test', LOOK));
});

test('what both change is a conflict, also while the merge is made; a choice ends it', async () => {
  await at('test', 'echo test > var/log');
  const end = await busy('web');
  try {
    const { status, stderr } = await s.run(['merge', 'test', 'web']);
    assert.equal(status, 3, stderr);
    assert.match(stderr, /in conflict are \/var\/log \(changed\)/);
    await s.json('merge', 'test', 'web', '--theirs');
    assert.match(await at('web', 'head -1 var/log'), /^test\n$/);
  } finally {
    await end();
  }
  assert.deepEqual((await s.json('merge', 'web', 'test'))['conflicts'], []);
  assert.equal(await at('web', LOOK), await at('test', LOOK));
});

test('back to a snapshot while programs go on, and forth', async () => {
  await s.json('snapshot', 'web', 'good');
  const good = await at('web', LOOK);
  await at(
    'web',
    'rm -r srv/data usr/lib/b; echo bad > etc/motd; mkdir etc/hosts.d; echo x > var/fresh; chmod 755 .',
  );
  const bad = await at('web', LOOK);
  await s.json('snapshot', 'web', 'bad');
  const log = await open(join(view('web'), 'var/log'), 'a+');
  const [inside, go] = ['inside', 'go'].map((name) => join(s.root, name));
  const cwd = sh(`cd '${view('web')}/etc' && touch '${inside}'
    while ! test -e '${go}'; do sleep 0.05; done; cat motd`);
  while (!existsSync(inside!)) await delay(20);
  await s.json('restore', 'web', 'good');
  assert.equal(await at('web', LOOK), good);
  await log.appendFile('goes nowhere\n');
  const { size } = await log.stat();
  assert.match(
    String((await log.read({ position: size - 13, length: 13 })).buffer.subarray(0, 13)),
    /^goes nowhere\n$/,
  );
  await log.close();
  writeFileSync(go!, '');
  assert.equal((await cwd).stdout, 'mine\n');
  assert.equal(await at('web', LOOK), good);
  const end = await busy('web');
  await s.json('restore', 'web', 'bad').catch(() => {});
  await end().catch(() => {});
  await s.json('restore', 'web', 'bad');
  assert.equal(await at('web', LOOK), bad);
  await s.json('restore', 'web', 'good');
  await s.json('umount', 'web');
  await s.json('mount', 'web', view('web'));
  assert.equal(await at('web', LOOK), good);
  assert.equal((await s.json('fsck'))['clean'], true);
});

test('strata-fs and stratad killed in the midst: the merge is there wholly or not', async () => {
  const pidOf = (what: string): number => Number(readFileSync(join(s.root, 'run', `${what}.pid`), 'utf8'));
  for (const [i, what] of ['strata-fs', 'stratad', 'strata-fs', 'stratad'].entries()) {
    await at(
      'test',
      `echo ${i} > etc/a; mkdir -p srv/${i}; echo ${i} > srv/${i}/b; echo ${i} >> usr/bin/tool`,
    );
    const merge = s.run(['merge', 'test', 'web']);
    await delay(60 + 90 * i);
    process.kill(pidOf(what), 'SIGKILL');
    await merge;
    const seen = await at('web', `cat etc/a srv/${i}/b 2>/dev/null | tr -d '\\n'; tail -1 usr/bin/tool`);
    const { merged } = await s.json('merge', 'test', 'web');
    assert.equal(merged, true);
    const now = await at('web', `cat etc/a srv/${i}/b | tr -d '\\n'; tail -1 usr/bin/tool`);
    assert.equal(now, `${i}${i}${i}\n`);
    assert.ok(seen === now || !seen.endsWith(`${i}\n`), seen);
  }
  assert.equal((await s.json('fsck'))['clean'], true);
});
