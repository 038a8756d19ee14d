/**
 * Raw requests of all kinds over a real VLFS: no exception, no wrong reply, no descriptor left, nothing changed outside of the private layer.
 * The same requests each time; longer: STRATA_FUZZ_SECONDS=600 node --test src/fuse/fuzz.test.ts; one seed again: STRATA_FUZZ_SEED=N.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fuzz } from './test-support/fuzz-run.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-fuzz-'));
after(() => rmSync(dir, { recursive: true, force: true }));

const seconds = Number(process.env['STRATA_FUZZ_SECONDS'] ?? Number.POSITIVE_INFINITY);
const SEEDS = Number.isFinite(seconds) ? Number.POSITIVE_INFINITY : 20;
const only = process.env['STRATA_FUZZ_SEED'];
const REQUESTS = 10_000;

test('random requests of every kind, with jobs under way and changes between them', async (t) => {
  const end = performance.now() + seconds * 1000;
  let total = 0;
  const last = only === undefined ? SEEDS : Number(only);
  for (let seed = Number(only ?? 1); seed <= last && (total === 0 || performance.now() < end); seed++) {
    const place = join(dir, String(seed));
    mkdirSync(place);
    total += await fuzz(
      place,
      seed,
      (requests) => requests < REQUESTS && (total === 0 || performance.now() < end),
    );
    rmSync(place, { recursive: true });
  }
  t.diagnostic(`${total} requests`);
});
