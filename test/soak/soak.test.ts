/** The short form of the long run (npm run soak): loads for a quarter of a minute beside 150 mounts, and many mounts alone, leave nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountCycles } from './mount-cycles.ts';
import { runSoak } from './soak.ts';

test('descriptors, threads, mounts and what mounts share stay flat under load and through mounts and unmounts', async (t) => {
  const { trends, faults, cycles } = await runSoak({ seconds: 15, cycles: 150 });
  for (const { what, from, to } of trends) t.diagnostic(`${what}: ${from.toFixed(0)} -> ${to.toFixed(0)}`);
  assert.deepEqual(faults, []);
  assert.equal(cycles, 150);
  // That is too short to tell memory that grows from memory that fills, and so with the bounded cache of directory descriptors: that is the long run's.
  const fills = (what: string): boolean => what.endsWith('MiB') || what === 'strata-fs descriptors';
  const grown = trends.filter(({ what, grows }) => grows && !fills(what));
  assert.deepEqual(grown, []);
});

test('mounts leave no memory behind', async (t) => {
  const [from, to] = await mountCycles([300, 800]);
  for (const at of [from!, to!]) t.diagnostic(JSON.stringify(at));
  assert.ok(to!.shared < 2, 'ledgers of mounts');
  // The heap is still growing into its size, by 0 to 35 MiB here: only what is gross shows in so few mounts, the rest is the long run's.
  assert.ok(to!.rss - from!.rss < 100, 'resident memory');
  // Each mount had two, of which some wait to be collected.
  assert.ok(to!.mappings - from!.mappings < 700, 'mappings');
});
