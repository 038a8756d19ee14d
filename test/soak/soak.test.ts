/** The short form of the long run (npm run soak): a quarter of a minute of loads and 150 mounts leave nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runSoak } from './soak.ts';

test('memory, descriptors, threads and mounts stay flat under load and through mounts and unmounts', async (t) => {
  const { trends, faults, cycles } = await runSoak({ seconds: 15, cycles: 150 });
  for (const { what, from, to } of trends) t.diagnostic(`${what}: ${from.toFixed(0)} -> ${to.toFixed(0)}`);
  assert.deepEqual(faults, []);
  assert.equal(cycles, 150);
  // That is too short to tell memory that grows from memory that fills, and so with the bounded cache of directory descriptors: that is the long run's.
  const fills = (what: string): boolean => what.endsWith('MiB') || what === 'strata-fs descriptors';
  const grown = trends.filter(({ what, grows }) => grows && !fills(what));
  assert.deepEqual(grown, []);
});
