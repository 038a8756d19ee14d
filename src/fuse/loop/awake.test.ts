/** When processors are kept awake: a stand-in file takes the place of the kernel's device; being open is being held. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createAwake } from './awake.ts';

function busy(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

test('processors are kept awake while requests come fast, and not when they come slowly or end', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-awake-'));
  try {
    const device = join(dir, 'cpu_dma_latency');
    writeFileSync(device, '');
    const awake = createAwake(device);
    assert.equal(awake.held, false);
    for (let i = 0; i < 10; i++) awake.served(1);
    assert.equal(awake.held, false, 'a few requests are not worth it');
    for (let i = 0; i < 200; i++) awake.served(1);
    assert.equal(awake.held, true);
    assert.deepEqual([...readFileSync(device)], [0, 0, 0, 0], 'no latency is accepted');
    for (let i = 0; i < 130; i++) {
      busy(0.15);
      awake.served(1);
    }
    assert.equal(awake.held, false, 'slow requests do not keep it');
    for (let i = 0; i < 200; i++) awake.served(1);
    awake.release();
    assert.equal(awake.held, false);
    const refused = createAwake(join(dir, 'missing'));
    for (let i = 0; i < 500; i++) refused.served(1);
    assert.equal(refused.held, false);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
