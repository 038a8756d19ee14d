/** The store of verdicts: what counts for whom, and that a damaged one is only a lost cache. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Digest } from '../base/index.ts';
import { checkStore, openVerdictStore, pruneStore } from './store.ts';

const digest = (letter: string) => letter.repeat(64) as Digest;
const file = { dev: 1, ino: 2, size: 3, ctimeSec: 1_700_000_000, ctimeNsec: 5 };

test('a verdict counts for its stamp, a digest for the file as it was; both survive the process', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-verdicts-'));
  try {
    const path = join(dir, 'scan/verdicts.sqlite');
    const first = openVerdictStore(path, { kind: 'clamav', stamp: 'clamav 1' });
    first.put(digest('a'), { kind: 'clean' });
    first.put(digest('b'), { kind: 'infected', name: 'Bad' });
    first.remember(file, digest('a'));
    assert.deepEqual(first.verdict(digest('a')), { kind: 'clean' });
    first.close();
    const again = openVerdictStore(path, { kind: 'clamav', stamp: 'clamav 1' });
    assert.deepEqual(again.verdict(digest('b')), { kind: 'infected', name: 'Bad' });
    assert.equal(again.verdict(digest('c')), null);
    assert.equal(again.digestOf(file), digest('a'));
    for (const change of [{ size: 4 }, { ctimeNsec: 6 }, { ino: 9 }, { dev: 7 }])
      assert.equal(again.digestOf({ ...file, ...change }), null);
    const newer = openVerdictStore(path, { kind: 'clamav', stamp: 'clamav 2' });
    assert.equal(newer.verdict(digest('a')), null);
    newer.close();
    again.close();
    assert.equal(checkStore(path), null);
    assert.equal(pruneStore(path, 60_000, false), 0);
    assert.equal(pruneStore(path, -60_000, true), 2);
    assert.equal(pruneStore(path, -60_000, false), 2);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a damaged store is told by its check, and made anew', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-verdicts-'));
  try {
    const path = join(dir, 'verdicts.sqlite');
    writeFileSync(path, 'no database at all, but long enough to be looked at '.repeat(100));
    assert.match(checkStore(path) ?? '', /not a database/);
    const store = openVerdictStore(path, { kind: 'yara', stamp: 'yara' });
    store.put(digest('d'), { kind: 'clean' });
    store.close();
    assert.equal(checkStore(path), null);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
