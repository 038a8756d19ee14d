import assert from 'node:assert/strict';
import { test } from 'node:test';
import { finished } from '../steps.ts';
import { createGathered } from './gathered-entries.ts';
import type { ListedEntry } from './listings.ts';

/** Entries in a fixed disorder; cookies meet now and then. */
function entries(count: number): ListedEntry[] {
  return Array.from({ length: count }, (_, i) => {
    const n = (i * 7919) % count;
    return {
      name: `name-\xff-${n}`,
      cookie: 4 + (n >> 1) * 2 ** 20,
      type: n % 16,
      ino: 2 ** 45 + n,
      priv: n % 3 === 0,
    };
  });
}

for (const count of [10, 5000, 40_000]) {
  test(`a listing of ${count} entries is sorted, complete, and has each cookie once`, () => {
    const gathered = createGathered();
    for (const [i, entry] of entries(count).entries()) {
      gathered.entries.push(entry);
      if (i % 250 === 0) finished(gathered.makeRoom());
    }
    const listing = finished(gathered.finish());
    gathered.end();
    assert.equal(listing.count, count);
    const expected = entries(count).sort((a, b) => a.cookie - b.cookie || (a.name < b.name ? -1 : 1));
    let last = 0;
    for (const [i, { cookie: _, ...entry }] of expected.entries()) {
      const { cookie, ...listed } = listing.entry(i);
      assert.deepEqual(listed, entry);
      assert.equal(cookie, listing.cookie(i));
      assert.ok(cookie > last);
      last = cookie;
    }
  });
}
