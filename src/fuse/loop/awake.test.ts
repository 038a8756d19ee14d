/** When processors are kept awake: a stand-in file takes the place of the kernel's device; being open is being held. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createAwake } from './awake.ts';

test('processors are kept awake while requests come fast, and not when they come slowly or end', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-awake-'));
  try {
    const device = join(dir, 'cpu_dma_latency');
    writeFileSync(device, '');
    let nowMs = 0;
    const awake = createAwake(device, () => nowMs);
    const serve = (count: number, apartMs: number): void => {
      for (let i = 0; i < count; i++) {
        nowMs += apartMs;
        awake.served(1);
      }
    };
    assert.equal(awake.held, false);
    serve(10, 0.02);
    assert.equal(awake.held, false, 'a few requests are not worth it');
    serve(200, 0.02);
    assert.equal(awake.held, true);
    assert.deepEqual([...readFileSync(device)], [0, 0, 0, 0], 'no latency is accepted');
    serve(130, 0.15);
    assert.equal(awake.held, false, 'slow requests do not keep it');
    serve(200, 0.02);
    awake.release();
    assert.equal(awake.held, false);
    const refused = createAwake(join(dir, 'missing'));
    for (let i = 0; i < 500; i++) refused.served(1);
    assert.equal(refused.held, false);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
