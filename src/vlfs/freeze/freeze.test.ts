/** Clones of a VLFS that is open: what programs have open stays theirs, the clone has what was there at that instant, and a kill changes nothing. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { O_APPEND } from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { diffVlfs } from '../index.ts';
import { cloneOf, freezeOpen } from '../test-support/frozen.test-support.ts';
import { Client, type Sandbox, sandboxed } from '../test-support/vlfs.test-support.ts';
import { finishFollowing, followingDir } from './follow.ts';

const MODES = [{ passthrough: false }, { passthrough: true }, { passthrough: true, partialBytes: 0 }];
const EXACT = { cachedBytes: Number.POSITIVE_INFINITY };
const READ = 0;
/** Longer than what is copied in the turn of a freeze. */
const LONG = Array.from({ length: 20_000 }, (_, n) => `${n}\n`).join('');
/** Of which the content is noted. */
const SMALL = LONG.slice(0, 9_000);
/** Not for reading too: stores through mappings of what the mount itself caches cannot be told. */
const WRITE = 1;

async function opened(
  box: Sandbox,
  options: object,
  body: (c: Client, spec: VlfsSpec, clone: (name: string) => Client) => void,
): Promise<void> {
  const level = await box.unit('base', '1', {
    'etc/a': 'layer a',
    'etc/deep/b': 'layer b',
    h1: 'linked',
    h2: { hard: 'h1' },
  });
  const spec = box.spec('a', [level]);
  const clients: Client[] = [];
  const open = (one: VlfsSpec): Client => {
    const client = new Client(one, { ...EXACT, ...options });
    clients.push(client);
    return client;
  };
  const source = open(spec);
  let now = spec;
  try {
    body(source, spec, (name) => {
      now = freezeOpen(box, source, now);
      return open(cloneOf(box, now, name));
    });
    for (const { faults } of clients) assert.deepEqual(faults, []);
  } finally {
    for (const client of clients) client.close();
  }
}

for (const options of MODES) {
  test(`what is open stays the source's own ${JSON.stringify(options)}`, async () => {
    await sandboxed((box) =>
      opened(box, options, (c, _, clone) => {
        c.mkdir('var');
        c.write('var/log', 'one\n');
        c.write('var/closed', 'closed');
        const writer = c.open('var/log', WRITE);
        const tail = c.open('var/log', READ);
        const reader = c.open('var/closed', READ);
        c.write('etc/a', 'mine');
        const layers = c.open('etc/a', READ);
        c.write('gone', 'no name');
        const gone = c.open('gone', 2);
        c.unlink('gone');
        const inode = c.stat('var/log').ino;
        const changes = c.tree();
        const k = clone('b');
        assert.deepEqual(c.tree(), changes);
        assert.deepEqual(k.tree(), changes);
        assert.equal(c.stat('var/log').ino, inode);
        c.writeHandle(writer, 'two\n', 4);
        assert.equal(c.readHandle(tail), 'one\ntwo\n', 'who reads it sees what is written');
        assert.equal(c.read('var/log'), 'one\ntwo\n');
        assert.equal(k.read('var/log'), 'one\n');
        c.append('var/closed', '+');
        c.append('etc/a', '+');
        assert.equal(c.readHandle(reader), 'closed+');
        assert.equal(c.readHandle(layers), 'mine+');
        c.writeHandle(gone, 'still there');
        assert.equal(c.readHandle(gone), 'still there');
        assert.equal(k.exists('gone'), false);
        k.append('var/log', 'other\n');
        k.write('var/closed', 'k');
        assert.equal(c.read('var/log'), 'one\ntwo\n');
        assert.equal(c.read('var/closed'), 'closed+');
        const second = clone('d');
        assert.equal(second.read('var/log'), 'one\ntwo\n');
        c.writeHandle(writer, 'three\n', 8);
        assert.equal(c.readHandle(tail), 'one\ntwo\nthree\n');
        assert.equal(second.read('var/log'), 'one\ntwo\n');
        assert.equal(k.read('var/log'), 'one\nother\n');
        for (const handle of [writer, tail, reader, layers, gone]) c.release(handle);
        c.unlink('var/log');
        assert.equal(c.exists('var/log'), false);
        assert.equal(second.read('var/log'), 'one\ntwo\n');
      }),
    )();
  });

  test(`large files that are open are copied before the turn ${JSON.stringify(options)}`, async () => {
    await sandboxed((box) =>
      opened(box, options, (c, _, clone) => {
        const large = 'x'.repeat(3 << 20);
        for (const name of ['large', 'read']) c.write(name, large);
        const handle = c.open('large', WRITE);
        const reader = c.open('read', READ);
        const k = clone('b');
        c.writeHandle(handle, 'source', 1 << 20);
        c.append('read', 'more');
        assert.equal(k.stat('large').size, large.length);
        const whole = k.open('large', READ);
        assert.equal(k.readHandle(whole, 4 << 20), large);
        k.release(whole);
        const changed = c.open('read', READ);
        assert.equal(c.readHandle(changed, 4 << 20), `${large}more`);
        assert.equal(c.readHandle(reader, 4 << 20), `${large}more`);
        for (const one of [handle, reader, changed]) c.release(one);
        assert.deepEqual(readdirSync(join(box.dir, 'appliances/a/work')), []);
      }),
    )();
  });

  test(`hard links of open files are whole on both sides ${JSON.stringify(options)}`, async () => {
    await sandboxed((box) =>
      opened(box, options, (c, spec, clone) => {
        c.mkdir('d');
        c.write('d/one', 'x');
        c.link('d/one', 'two');
        c.link('d/one', 'etc/deep/three');
        c.append('h1', '+');
        c.close();
        // Names that nobody looked up since.
        const again = new Client(spec, { ...EXACT, ...options });
        try {
          const next = (): Client => {
            const frozen = freezeOpen(box, again, spec);
            return new Client(cloneOf(box, frozen, 'n'), { ...EXACT, ...options });
          };
          const [one, linked] = [again.open('d/one', WRITE), again.open('h2', WRITE)];
          const k = next();
          try {
            again.writeHandle(one, 'source');
            again.writeHandle(linked, 'LINKED+');
            for (const name of ['d/one', 'two', 'etc/deep/three']) {
              assert.equal(again.read(name), 'source', name);
              assert.equal(k.read(name), 'x', name);
              for (const side of [again, k]) assert.equal(side.stat(name).nlink, 3, name);
            }
            k.write('two', 'clone');
            assert.equal(k.read('etc/deep/three'), 'clone');
            assert.equal(again.read('etc/deep/three'), 'source');
            assert.deepEqual([again.read('h1'), k.read('h1'), k.stat('h2').nlink], ['LINKED+', 'linked+', 2]);
            again.unlink('two');
            assert.equal(again.stat('d/one').nlink, 2);
            assert.equal(k.stat('d/one').nlink, 3);
            for (const handle of [one, linked]) again.release(handle);
            assert.deepEqual([...again.faults, ...k.faults], []);
          } finally {
            k.close();
          }
        } finally {
          again.close();
        }
        void clone;
      }),
    )();
  });
}

/** What a kill leaves now. Copies have other inodes: the notes of what follows are changed accordingly. */
function copyRoot(box: Sandbox, root: string): void {
  const parts = ['appliances', 'frozen'];
  mkdirSync(root, { recursive: true });
  execFileSync('cp', ['-a', ...parts.map((part) => join(box.dir, part)), root]);
  const inodeThere = (ino: string): string => {
    const found = execFileSync('find', [...parts, '-inum', ino], { cwd: box.dir, encoding: 'utf8' });
    const [path] = found.split('\n').filter((one) => one !== '');
    return path === undefined ? ino : String(statSync(join(root, path)).ino);
  };
  for (const id of readdirSync(join(root, 'frozen'))) {
    const notes = join(root, 'frozen', id, 'following');
    for (const name of existsSync(notes) ? readdirSync(notes) : []) {
      const [live, ...rest] = readlinkSync(join(notes, name)).split(' ');
      const [ino, ...piece] = name.split('.');
      rmSync(join(notes, name));
      const text = piece.length > 0 ? [live] : [inodeThere(live!), ...rest];
      symlinkSync(text.join(' '), join(notes, [inodeThere(ino!), ...piece].join('.')));
    }
  }
}

test('the copy of a file that only grows follows; what would change its beginning waits', async () => {
  await sandboxed(async (box) => {
    const spec = box.spec('a', [await box.unit('base', '1', { 'etc/a': 'layer a' })]);
    const c = new Client(spec, { passthrough: true });
    try {
      for (const name of ['log', 'read']) c.write(name, LONG);
      c.write('small', SMALL);
      const open = c.open('small', 2);
      const appender = c.open('log', WRITE | O_APPEND);
      const reader = c.open('read', READ);
      const times = statSync(join(spec.privateDir, 'log'));
      freezeOpen(box, c, spec, (dir) => {
        c.writeHandle(appender, 'later', LONG.length);
        const more = c.open('log', WRITE | O_APPEND);
        c.release(more);
        const waits: (() => unknown)[] = [
          () => c.write('log', 'cut'),
          () => c.open('log', 2),
          () => c.open('read', WRITE),
          () => c.unlink('read'),
          () => c.rename('small', 'log'),
          () => c.truncate('log', 3),
        ];
        for (const change of waits) assert.throws(change, /waits for its copy/, String(change));
        c.rename('log', 'log.1');
        // Killed now; or a power cut took what nobody had synced, in the second copy.
        for (const [name, length] of [
          ['killed', LONG.length],
          ['cut', 50_000],
        ] as const) {
          const root = join(box.dir, name);
          copyRoot(box, root);
          const privateDir = spec.privateDir.replace(box.dir, root);
          const frozen = dir.replace(box.dir, root);
          if (name === 'cut') {
            truncateSync(join(privateDir, 'log.1'), length);
            truncateSync(join(frozen, 'private/small'), 0);
          }
          assert.equal(finishFollowing(frozen, privateDir), 0);
          assert.equal(readFileSync(join(frozen, 'private/log'), 'latin1'), LONG.slice(0, length));
          assert.equal(readFileSync(join(frozen, 'private/read'), 'latin1'), LONG);
          assert.equal(readFileSync(join(frozen, 'private/small'), 'latin1'), SMALL);
          assert.equal(existsSync(followingDir(frozen)), false);
        }
      });
      const dir = join(box.dir, 'frozen', readdirSync(join(box.dir, 'frozen'))[0]!);
      assert.equal(readFileSync(join(dir, 'private/log'), 'latin1'), LONG);
      assert.equal(statSync(join(dir, 'private/log')).mtimeMs, times.mtimeMs);
      assert.equal(existsSync(followingDir(dir)), false);
      c.truncate('log.1', 0);
      c.unlink('read');
      for (const handle of [appender, reader, open]) c.release(handle);
      assert.deepEqual(c.faults, []);
    } finally {
      c.close();
    }
  })();
});

/** Forgets in a process of its own what was noted, which is killed at the `at`th removal of a name; false: it came to its end. */
function forgetKilled(dir: string, at: number): boolean {
  const program = `import { forgetFollowers } from ${JSON.stringify(join(import.meta.dirname, 'follow.ts'))}; forgetFollowers(${JSON.stringify(dir)});`;
  const strace = [
    '-f',
    '-qq',
    '-o',
    '/dev/null',
    '-e',
    'trace=unlinkat',
    '-e',
    `inject=unlinkat:signal=SIGKILL:when=${at}`,
  ];
  const node = [
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    '--input-type=module',
    '-e',
    program,
  ];
  const { status, signal, stderr } = spawnSync('strace', [...strace, ...node], { encoding: 'utf8' });
  assert.ok(status === 0 || signal === 'SIGKILL', `${status} ${signal} ${stderr}`);
  return signal === 'SIGKILL';
}

test('killed while what is noted of small files goes: each is whole, or still noted wholly', async () => {
  await sandboxed(async (box) => {
    const spec = box.spec('a', [await box.unit('base', '1', { 'etc/a': 'layer a' })]);
    const c = new Client(spec, { passthrough: true });
    const names = ['one', 'two'];
    const text = LONG.slice(0, 5_000);
    let states = 0;
    try {
      for (const name of names) c.write(name, text);
      const open = names.map((name) => c.open(name, 2));
      freezeOpen(box, c, spec, (dir) => {
        assert.equal(readdirSync(followingDir(dir)).length, 6, 'two notes with two pieces each');
        for (let at = 1, killed = true; killed; at++, states++) {
          const root = join(box.dir, `killed-${at}`);
          copyRoot(box, root);
          const frozen = dir.replace(box.dir, root);
          killed = forgetKilled(frozen, at);
          const left = existsSync(followingDir(frozen)) ? readdirSync(followingDir(frozen)) : [];
          for (const name of names) {
            const file = join(frozen, 'private', name);
            // As a power cut leaves what was not on the disk.
            if (left.includes(String(statSync(file).ino))) truncateSync(file, 0);
          }
          assert.equal(finishFollowing(frozen, spec.privateDir.replace(box.dir, root)), 0);
          for (const name of names)
            assert.equal(readFileSync(join(frozen, 'private', name), 'latin1'), text, `${at}: ${left}`);
          assert.equal(existsSync(followingDir(frozen)), false);
          rmSync(root, { recursive: true });
        }
      });
      assert.ok(states > 6, `${states}`);
      for (const handle of open) c.release(handle);
      assert.deepEqual(c.faults, []);
    } finally {
      c.close();
    }
  })();
});

test('whatever a kill cuts off, the source shows what it did, and no inode is in two layers', async () => {
  await sandboxed(async (box) => {
    const level = await box.unit('base', '1', { 'etc/a': 'layer a', 'etc/b': 'layer b' });
    const spec = box.spec('a', [level]);
    const taken: { step: string; root: string }[] = [];
    let armed = false;
    const c = new Client(spec, {
      ...EXACT,
      passthrough: true,
      onStep(step) {
        if (!armed) return;
        const root = join(box.dir, 'at', `${taken.length}`);
        copyRoot(box, root);
        taken.push({ step, root });
      },
    });
    c.write('log', LONG);
    const appender = c.open('log', WRITE | O_APPEND);
    c.mkdir('d');
    c.write('d/f', 'open');
    c.link('d/f', 'g');
    c.write('etc/a', 'mine');
    c.unlink('etc/b');
    c.write('closed', 'x');
    const handle = c.open('g', WRITE);
    const shown = c.tree();
    const changes = diffVlfs(spec);
    armed = true;
    const next = freezeOpen(box, c, spec);
    armed = false;
    for (const one of [handle, appender]) c.release(one);
    c.close();
    assert.ok(taken.some(({ step }) => step === 'freeze: followed'));
    assert.ok(taken.length > 6, taken.map(({ step }) => step).join());
    taken.push({ step: 'end', root: box.dir });
    for (const { step, root } of taken) {
      const moved = (at: string): string => at.replace(box.dir, root);
      // As it is listed: the layer may be empty.
      const found: VlfsSpec = {
        ...next,
        privateDir: moved(next.privateDir),
        whiteoutsDir: moved(next.whiteoutsDir),
        stack: {
          key: `${next.stack.key} ${step} ${root}`,
          levels: next.stack.levels.map((one) =>
            one.kind === 'frozen'
              ? { ...one, treeDir: moved(one.treeDir), whiteoutsDir: moved(one.whiteoutsDir!) }
              : one,
          ),
        },
      };
      const again = new Client(found, { ...EXACT, passthrough: true });
      try {
        assert.deepEqual(again.tree(), shown, step);
        assert.deepEqual(diffVlfs(found), changes, step);
        again.append('g', '+');
        assert.equal(again.read('d/f'), 'open+', step);
        assert.equal(again.stat('d/f').nlink, 2, step);
      } finally {
        again.close();
      }
      const dir = join(root, 'frozen', readdirSync(join(root, 'frozen'))[0]!);
      assert.deepEqual(readdirSync(dir).sort(), ['private', 'whiteouts'], step);
      const log = join(dir, 'private/log');
      if (existsSync(log)) assert.ok(readFileSync(log, 'latin1') === LONG, step);
      if (root !== box.dir) rmSync(root, { recursive: true });
    }
  })();
});
