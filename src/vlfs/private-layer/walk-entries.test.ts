/** A tree that is deeper than any path is long, and than descriptors may be open. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nameFromText } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { spaceOf } from './space.ts';
import { walkEntries } from './walk-entries.ts';

const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC;
const DEPTH = 1500;

test('a walk of any depth needs few descriptors, and finds everything once', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-walk-'));
  try {
    mkdirSync(join(dir, 'a/one'), { recursive: true });
    for (const name of ['b', 'a/one/f']) writeFileSync(join(dir, name), '');
    symlinkSync('/', join(dir, 'link'));
    let fd = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
    for (let depth = 0; depth < DEPTH; depth++) {
      sys.mkdirat(fd, 'd', 0o755);
      sys.mkdirat(fd, 'e', 0o755);
      const next = sys.openat(fd, 'd', DIRECTORY);
      sys.close(fd);
      fd = next;
    }
    sys.close(fd);
    const root = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
    const open = (): number => readdirSync('/proc/self/fd').length;
    const before = open();
    const found: string[] = [];
    let most = 0;
    for (const { path } of walkEntries(root)) {
      if (found.push(path) % 500 === 0) most = Math.max(most, open() - before);
    }
    assert.equal(open(), before);
    sys.close(root);
    assert.ok(most < 80, `${most} descriptors`);
    assert.equal(found.length, 5 + 2 * DEPTH);
    assert.equal(new Set(found).size, found.length);
    assert.deepEqual(found.slice(0, 4), ['a', 'a/one', 'a/one/f', 'b']);
    assert.equal(found.at(-1), 'link');
    // Given up in the midst.
    const again = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
    for (const { path } of walkEntries(again)) if (path.length > 400) break;
    assert.equal(open(), before);
    sys.close(again);
  } finally {
    execFileSync('rm', ['-rf', dir]);
  }
});

test('the space of a tree that is deeper than a stack of calls, and that moves meanwhile', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-walk-'));
  try {
    let fd = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
    for (let depth = 0; depth < 15_000; depth++) {
      sys.mkdirat(fd, 'd', 0o755);
      const next = sys.openat(fd, 'd', DIRECTORY);
      sys.close(fd);
      fd = next;
    }
    sys.close(fd);
    const before = readdirSync('/proc/self/fd').length;
    const du = execFileSync('du', ['-s', '--block-size=1', dir], { encoding: 'utf8' });
    assert.equal(spaceOf(dir).bytes, Number.parseInt(du, 10));
    // What is moved away while it is read is left out.
    const root = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
    let seen = 0;
    for (const _ of walkEntries(root, { lenient: true })) {
      if (++seen !== 1000) continue;
      renameSync(join(dir, 'd/d'), join(dir, 'moved'));
      execFileSync('rm', ['-r', join(dir, 'moved')]);
    }
    sys.close(root);
    assert.ok(seen >= 1000);
    assert.equal(readdirSync('/proc/self/fd').length, before);
  } finally {
    execFileSync('rm', ['-rf', dir]);
  }
});
