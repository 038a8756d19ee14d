/**
 * strata-fs is killed at every step of a relayer, a freeze, a revert and a reset of a mounted VLFS, while programs read what changes and write beside it: they
 * see no error, each path as before or as after, and never as before again; a relayer and a reset are found wholly done or not begun, and repeating
 * the operation ends it.
 */
import assert from 'node:assert/strict';
import {
  closeSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { LevelSpec } from '../vlfs/contract.ts';
import {
  changePrivate,
  dieAtEachStep,
  level,
  MINE,
  read,
  withMount,
} from './test-support/die-at-each-step.ts';

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

test('revert', async (c) => {
  await withMount(async (t, mnt, control) => {
    await dieAtEachStep(c, t, mnt, control, {
      stride: 2,
      atOnce: false,
      expected: MINE,
      prepare: () => changePrivate(mnt),
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
        changePrivate(mnt);
        writeFileSync(join(mnt, 'live/own'), 'own');
      },
      run: () => t.plane.reset('m', ['/work']),
    });
  });
});

/** Inodes of the files below a directory, in which programs work. */
function inodes(dir: string): number[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((one) =>
    one.isDirectory()
      ? inodes(join(dir, one.name))
      : (lstatSync(join(dir, one.name), { throwIfNoEntry: false })?.ino ?? []),
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
      await t.plane.follow('m');
      return dir;
    };
    changePrivate(mnt);
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
        await run();
        // The newest layer that has the file: without opens it is not known to be open, and stays where it was frozen.
        const places = [...Array(rounds).keys()].map((i) => t.makeDir(`frozen/f${i}/private/rev`)).reverse();
        const then = places.map((dir) => read(join(dir, 'linked'))).find((text) => text !== null) ?? '';
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
