/**
 * For tests that kill strata-fs at every step of a change of a mounted VLFS, while programs read what changes and write beside it. In CI every few steps, from a random one on;
 * STRATA_KILL_STEPS=all takes all.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import { until } from '../../base/until.test-support.ts';
import { writeTreeIndex } from '../../layer/index.ts';
import type { LevelSpec, StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { recoverMounts } from '../process/client.ts';
import { type TestPlane, withDataPlane } from './with-data-plane.ts';

const MODULE = new URL('./dying-vlfs.ts', import.meta.url).href;
const all = process.env['STRATA_KILL_STEPS'] === 'all';
const LOAD = new URL('./watching-load.ts', import.meta.url).pathname;

export type Files = Record<string, string>;
export type Expected = Record<string, { before: string | null; after: string | null }>;

export async function level(t: TestPlane, version: string, files: Files): Promise<LevelSpec> {
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

export interface Change {
  /** Steps between two rounds in CI. */
  stride: number;
  /** What programs have in their work directory goes with it, so they only look. */
  onlyLook?: boolean;
  /** All paths flip together. */
  atOnce: boolean;
  expected: Expected;
  /** Brings everything to the state before. */
  prepare(): void | Promise<void>;
  run(): Promise<unknown>;
}

export function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOENT', path);
    return null;
  }
}

/** Each round dies some steps later, until the operation needs fewer steps. */
export async function dieAtEachStep(
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
      [
        '--disable-warning=ExperimentalWarning',
        LOAD,
        mnt,
        JSON.stringify(change.expected),
        change.onlyLook === true ? 'look' : 'work',
      ],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    );
    const errors = text(load);
    const exited = once(load, 'exit');
    await Promise.race([once(load.stdout!, 'data'), exited]);
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
      if (change.atOnce) await until(`step ${round} is done wholly or not`, () => found().size === 1);
      await change.run();
    }
    for (const [path, { after }] of Object.entries(change.expected))
      assert.equal(read(join(mnt, path)), after, `${path} after step ${round}`);
    load.stdin!.end();
    const [code] = await exited;
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

export async function withMount(
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

/** What `changePrivate` changes, and a reset takes back. */
export const MINE: Expected = {
  'rev/f': { before: 'mine', after: 'shared' },
  'rev/h': { before: null, after: 'shared' },
  'rev/d/g': { before: 'mine', after: 'shared' },
  'live/a': { before: '1', after: '1' },
};

export function changePrivate(mnt: string): void {
  writeFileSync(join(mnt, 'rev/f'), 'mine');
  writeFileSync(join(mnt, 'rev/d/g'), 'mine');
  rmSync(join(mnt, 'rev/h'));
}
