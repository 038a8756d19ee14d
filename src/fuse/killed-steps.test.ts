/**
 * strata-fs is killed at every step of a relayer, a freeze, a revert and a reset of a mounted VLFS, while programs read what changes and write beside it: they
 * see no error, each path as before or as after, and never as before again; a relayer and a reset are found wholly done or not begun, and repeating
 * the operation ends it. In CI every few steps of a relayer and a reset, from a random one on; STRATA_KILL_STEPS=all takes all.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { writeTreeIndex } from '../layer/index.ts';
import type { LevelSpec, StackSpec, VlfsSpec } from '../vlfs/contract.ts';
import { recoverMounts } from './process/client.ts';
import { type TestPlane, withDataPlane } from './test-support/with-data-plane.ts';

const MODULE = new URL('./test-support/dying-vlfs.ts', import.meta.url).href;
const all = process.env['STRATA_KILL_STEPS'] === 'all';
const LOAD = new URL('./test-support/watching-load.ts', import.meta.url).pathname;

type Files = Record<string, string>;
type Expected = Record<string, { before: string | null; after: string | null }>;

async function level(t: TestPlane, version: string, files: Files): Promise<LevelSpec> {
  const dir = t.makeDir(`repo/base_${version}`);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, 'filesystem', path)), { recursive: true });
    writeFileSync(join(dir, 'filesystem', path), content);
  }
  await writeTreeIndex(join(dir, 'index'), join(dir, 'filesystem'));
  const treeDir = join(dir, 'filesystem');
  const id = `main/base ${version}`;
  return { kind: 'software', id, treeDir, indexFile: join(dir, 'index'), whiteoutsDir: null };
}

interface Change {
  /** Steps between two rounds in CI. */
  stride: number;
  /** All paths flip together. */
  atOnce: boolean;
  expected: Expected;
  /** Brings everything to the state before. */
  prepare(): void | Promise<void>;
  run(): Promise<unknown>;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOENT', path);
    return null;
  }
}

/** Each round dies some steps later, until the operation needs fewer steps. */
async function dieAtEachStep(
  c: TestContext,
  t: TestPlane,
  mnt: string,
  control: string,
  change: Change,
): Promise<void> {
  const stride = all ? 1 : change.stride;
  let round = stride === 1 ? 1 : 1 + (Date.now() % stride);
  for (; ; round += stride) {
    await change.prepare();
    const load = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', LOAD, mnt, JSON.stringify(change.expected)],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    );
    const errors = text(load);
    await Promise.race([once(load.stdout!, 'data'), once(load, 'exit')]);
    writeFileSync(control, `${round}`);
    const died = await change.run().then(
      () => false,
      () => true,
    );
    if (died) {
      assert.equal(existsSync(control), false, 'it was killed');
      t.plane.close();
      t.plane = await t.start();
      assert.deepEqual(await recoverMounts(t.root, t.plane), [], 'it was taken over');
      const found = (): Set<boolean> => states(mnt, change.expected, `step ${round}`);
      // The next strata-fs makes the kernel forget names while it serves already.
      for (let i = 0; change.atOnce && i < 200 && found().size > 1; i++) await delay(20);
      if (change.atOnce) assert.equal(found().size, 1, `step ${round}: a part is done`);
      await change.run();
    }
    for (const [path, { after }] of Object.entries(change.expected))
      assert.equal(read(join(mnt, path)), after, `${path} after step ${round}`);
    load.stdin!.end();
    const [code] = await once(load, 'exit');
    assert.equal(code, 0, `at step ${round}: ${errors()}`);
    if (!died) break;
  }
  rmSync(control);
  c.diagnostic(`fewer than ${round} steps`);
  assert.ok(round > 4);
}

/** Whether what changes is as after; each path must be the one or the other. */
function states(mnt: string, expected: Expected, when: string): Set<boolean> {
  const found = new Set<boolean>();
  for (const [path, { before, after }] of Object.entries(expected)) {
    const now = read(join(mnt, path));
    assert.ok(now === before || now === after, `${when}: ${path} is ${now}`);
    if (before !== after) found.add(now === after);
  }
  return found;
}

function text(child: ChildProcess): () => string {
  let all = '';
  child.stderr!.on('data', (chunk) => {
    all += chunk;
  });
  return () => all;
}

async function withMount(
  body: (
    t: TestPlane,
    mnt: string,
    control: string,
    relayer: (version: string, files?: Files) => Promise<void>,
  ) => Promise<void>,
): Promise<void> {
  const control = join('/tmp', `strata-dying-${process.pid}`);
  process.env['STRATA_TEST_DYING'] = control;
  try {
    await withDataPlane(
      async (t) => {
        const common = { 'rev/f': 'shared', 'rev/h': 'shared', 'rev/d/g': 'shared', 'work/.': '' };
        delete (common as Files)['work/.'];
        const stacks = new Map<string, StackSpec>();
        for (const [version, own] of [
          ['1', { 'live/a': '1', 'live/b': '1', 'live/old': 'old', 'etc/conf': '1', 'etc/more': '1' }],
          ['2', { 'live/a': '2', 'live/b': '2', 'live/new': 'new', 'etc/conf': '2', 'etc/more': '2' }],
        ] as const) {
          const one = await level(t, version, { ...common, ...own });
          stacks.set(version, { key: one.id, levels: [one] });
        }
        const mnt = t.makeDir('mnt');
        const vlfs: VlfsSpec = {
          name: 'm',
          privateDir: t.makeDir('m/private'),
          whiteoutsDir: t.makeDir('m/whiteouts'),
          stack: stacks.get('1')!,
          readOnly: false,
        };
        await t.plane.mount({ id: 'm', mountpoint: mnt, vlfs, readOnly: false });
        mkdirSync(join(mnt, 'work'));
        await body(t, mnt, control, (version, files = {}) => {
          const privateFiles = Object.entries(files).map(([path, content]) => ({
            path,
            content: Buffer.from(content),
          }));
          return t.plane.relayer([{ id: 'm', stack: stacks.get(version)!, privateFiles }]);
        });
      },
      { args: ['--vlfs-module', MODULE], layered: true },
    );
  } finally {
    delete process.env['STRATA_TEST_DYING'];
    rmSync(control, { force: true });
  }
}

test('relayer, with private files that change with it', async (c) => {
  await withMount(async (t, mnt, control, relayer) => {
    await dieAtEachStep(c, t, mnt, control, {
      stride: 4,
      atOnce: true,
      expected: {
        'live/a': { before: '1', after: '2' },
        'live/b': { before: '1', after: '2' },
        'live/old': { before: 'old', after: null },
        'live/new': { before: null, after: 'new' },
        'etc/conf': { before: 'mine 1', after: 'mine 2' },
        'etc/more': { before: 'mine 1', after: 'mine 2' },
        'rev/f': { before: 'shared', after: 'shared' },
      },
      prepare: () => relayer('1', { 'etc/conf': 'mine 1', 'etc/more': 'mine 1' }),
      run: () => relayer('2', { 'etc/conf': 'mine 2', 'etc/more': 'mine 2' }),
    });
  });
});

const MINE: Expected = {
  'rev/f': { before: 'mine', after: 'shared' },
  'rev/h': { before: null, after: 'shared' },
  'rev/d/g': { before: 'mine', after: 'shared' },
  'live/a': { before: '1', after: '1' },
};

function change(mnt: string): void {
  writeFileSync(join(mnt, 'rev/f'), 'mine');
  writeFileSync(join(mnt, 'rev/d/g'), 'mine');
  rmSync(join(mnt, 'rev/h'));
}

test('revert', async (c) => {
  await withMount(async (t, mnt, control) => {
    await dieAtEachStep(c, t, mnt, control, {
      stride: 2,
      atOnce: false,
      expected: MINE,
      prepare: () => change(mnt),
      run: () => t.plane.revert('m', ['/rev']),
    });
  });
});

test('reset that keeps a directory', async (c) => {
  await withMount(async (t, mnt, control) => {
    await dieAtEachStep(c, t, mnt, control, {
      stride: 3,
      atOnce: true,
      expected: { ...MINE, 'live/own': { before: 'own', after: null } },
      prepare() {
        change(mnt);
        writeFileSync(join(mnt, 'live/own'), 'own');
      },
      run: () => t.plane.reset('m', ['/work']),
    });
  });
});

/** Inodes of the files below a directory. */
function inodes(dir: string): number[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((one) =>
    one.isDirectory() ? inodes(join(dir, one.name)) : [lstatSync(join(dir, one.name)).ino],
  );
}

test('freeze, with open files', async (c) => {
  await withMount(async (t, mnt, control) => {
    const base = (await t.plane.status()).mounts[0]!.stackKey;
    const levels = [await level(t, '1', {})].map((one) => ({
      ...one,
      treeDir: t.makeDir('repo/base_1/filesystem'),
    }));
    assert.equal(levels[0]!.id, base);
    let listed: LevelSpec[] = levels;
    let rounds = 0;
    const run = async (): Promise<string> => {
      const dir = t.makeDir(`frozen/f${rounds++}`);
      for (const part of ['private', 'whiteouts']) mkdirSync(join(dir, part));
      const next: LevelSpec = {
        kind: 'frozen',
        id: `frozen/f${rounds}`,
        treeDir: join(dir, 'private'),
        indexFile: join(dir, 'index'),
        whiteoutsDir: join(dir, 'whiteouts'),
      };
      listed = [next, ...listed];
      await t.plane.freeze({ id: 'm', stack: { key: `f${rounds}`, levels: listed }, dir });
      return dir;
    };
    change(mnt);
    writeFileSync(join(mnt, 'live/open'), '');
    linkSync(join(mnt, 'live/open'), join(mnt, 'rev/linked'));
    const fd = openSync(join(mnt, 'live/open'), 'a');
    let lines = '';
    const write = (): void => {
      lines += `${rounds}\n`;
      writeSync(fd, `${rounds}\n`);
    };
    await dieAtEachStep(c, t, mnt, control, {
      stride: 5,
      atOnce: false,
      expected: {
        'rev/f': { before: 'mine', after: 'mine' },
        'rev/h': { before: null, after: null },
        'rev/d/g': { before: 'mine', after: 'mine' },
        'live/a': { before: '1', after: '1' },
      },
      prepare: write,
      async run() {
        const frozen = await run();
        const then = readFileSync(join(frozen, 'private/rev/linked'), 'utf8');
        write();
        for (const name of ['live/open', 'rev/linked']) assert.equal(read(join(mnt, name)), lines);
        assert.equal(then, lines.slice(0, then.length));
        const mine = new Set(inodes(join(t.dir, 'm/private')));
        for (const dir of readdirSync(join(t.dir, 'frozen')))
          for (const ino of inodes(join(t.dir, 'frozen', dir, 'private')))
            assert.ok(!mine.has(ino), `${dir} shares an inode with the private layer`);
      },
    });
    closeSync(fd);
  });
});
