/** Former names of hard-linked files: all of them, however often directories were renamed, in a file whose size is that of the names. */
import assert from 'node:assert/strict';
import { linkSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nameFromText } from '../../base/index.ts';
import { AT_FDCWD, close, fsetxattr, O_DIRECTORY, O_RDONLY, openat } from '../../sys/index.ts';
import { FORMER_NAMES, readFormerNames } from '../../vlfs/index.ts';
import { keepFormerNames } from './former-names.ts';

const table = () => null;

function within(body: (dir: string) => Promise<void>): () => Promise<void> {
  return async () => {
    const dir = mkdtempSync(join(tmpdir(), 'strata-former-'));
    try {
      await body(dir);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };
}

/** A layer in which a directory was renamed: it leads to where it is in the layers below. */
function renamed(dir: string, layer: string, from: string, to: string): string {
  const tree = join(dir, layer, 'private');
  mkdirSync(join(tree, to), { recursive: true });
  const fd = openat(AT_FDCWD, nameFromText(join(tree, to)), O_RDONLY | O_DIRECTORY);
  assert.equal(fsetxattr(fd, 'trusted.overlay.redirect', Buffer.from(`/${from}`)), 0);
  close(fd);
  return tree;
}

test(
  'a directory that was renamed to and fro hundreds of times, with other directories in it',
  within(async (dir) => {
    const oldest = join(dir, 'oldest/private');
    mkdirSync(join(oldest, 'a/in'), { recursive: true });
    writeFileSync(join(oldest, 'a/in/file'), '');
    linkSync(join(oldest, 'a/in/file'), join(oldest, 'link'));
    const result = join(dir, 'to/private');
    mkdirSync(result, { recursive: true });
    linkSync(join(oldest, 'link'), join(result, 'link'));
    const layers = [];
    for (let i = 0; i < 300; i++) {
      const [from, to] = i % 2 === 0 ? ['a', 'b'] : ['b', 'a'];
      layers.unshift({ tree: renamed(dir, `r${i}`, from!, to!), table });
    }
    for (let i = 0; i < 300; i++)
      layers.unshift({ tree: renamed(dir, `s${i}`, i === 0 ? 'a' : `n${i - 1}`, `n${i}`), table });
    await keepFormerNames([...layers, { tree: oldest, table }], join(dir, 'to'));
    const former = readFormerNames(result).get('link')!;
    const names = ['a/in/file', 'b/in/file', ...Array.from({ length: 300 }, (_, i) => `n${i}/in/file`)];
    assert.deepEqual([...former].sort(), names.sort());
  }),
);

test(
  'a file with two thousand names, half of which went',
  within(async (dir) => {
    const tree = join(dir, 'layer/private');
    const result = join(dir, 'to/private');
    for (const one of [tree, result]) mkdirSync(one, { recursive: true });
    writeFileSync(join(tree, '0'), '');
    for (let i = 1; i < 2000; i++) linkSync(join(tree, '0'), join(tree, `${i}`));
    for (let i = 0; i < 1000; i++) linkSync(join(tree, '0'), join(result, `${i}`));
    await keepFormerNames([{ tree, table }], join(dir, 'to'));
    assert.ok(statSync(join(dir, 'to', FORMER_NAMES)).size < 20_000);
    const former = readFormerNames(result);
    assert.equal(former.size, 1000);
    assert.equal(former.get('7')!.length, 1000);
    assert.equal(former.get('7'), former.get('__proto__') ?? former.get('8'));
  }),
);
