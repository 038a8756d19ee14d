/** Waits in a test for what comes by itself. A busy machine may take its time, so patience is long: only what never comes fails. */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';

const PATIENCE_MS = 120_000;
const PAUSE_MS = 20;

/** Returns when `is` says yes; fails with `what` when it has not within two minutes. What `is` throws counts as no, until then. */
export async function until(what: string, is: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const isLast = performance.now() >= end;
    try {
      if (await is()) return;
    } catch (error) {
      if (isLast) throw error;
    }
    assert.ok(!isLast, `it never came about that ${what}`);
    await delay(PAUSE_MS);
  }
}
