/**
 * Power cuts, at every flush of the disk and at points between: a state root lives through every command that changes state on a disk whose
 * writes are logged; then, for each point of the log, the disk as a power cut leaves it is mounted and the state root is opened. What was acknowledged
 * is there, the command at work is before or after, fsck finds nothing, also after gc. How it works: docs/decisions/0008-power-cuts.md.
 * STRATA_POWER_CUTS=all tries every point of the log, with several parts of what the disk had not flushed.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { strataRoot } from '../helpers/strata.ts';
import { openLoggedDisk } from './logged-disk.ts';
import { replay } from './replay.ts';
import { type Life, live, WRITER } from './scenario.ts';
import { verdictOn } from './verdict.ts';
import { type Cut, type LogRecord, random } from './write-log.ts';

const DISK_BYTES = 96 << 20;
/** In CI: passes over the log, each with its share of the cuts, of which a busy machine does not come to all. */
const PASSES = 6;
const BUDGET_MS = 30_000;
/** Cuts with a random part of the unflushed writes, besides the commits. */
const RANDOM_CUTS = 60;
const isLong = process.env['STRATA_POWER_CUTS'] === 'all';

/** Every commit of the file system's journal, with all that was sent before it; besides, points and parts at random. */
function chooseCuts(records: LogRecord[], end: number): Cut[][] {
  const passes: Cut[][] = Array.from({ length: isLong ? 1 : PASSES }, () => []);
  const pick = random(records.length);
  const add = (cut: Cut) => passes[Math.floor(pick() * passes.length)]!.push(cut);
  for (let at = 0; at <= records.length && (records[at - 1]?.end ?? 0) <= end; at++) {
    if (records[at - 1]?.isCommit || isLong) add({ at, part: 'all' });
    const parts = isLong ? 2 : pick() < RANDOM_CUTS / records.length ? 1 : 0;
    for (let n = 1; n <= parts; n++) add({ at, part: at * 16 + n });
  }
  return passes;
}

test('a power cut at any moment leaves the state before or after', {
  timeout: isLong ? 7_200_000 : 500_000,
}, async (t) => {
  // In memory where it can be: only the order of writes counts.
  const work = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'strata-power-'));
  const disk = await openLoggedDisk(work, DISK_BYTES);
  try {
    const s = strataRoot('power', join(disk.dir, 'root'));
    let life: Life;
    try {
      life = await live(disk, work, s);
    } finally {
      await s.remove();
      await disk.close();
    }
    const wrong: string[] = [];
    let cuts = 0;
    const end = life.steps.at(-1)!.acknowledged;
    const choose = (records: LogRecord[]) => chooseCuts(records, end);
    const gcEvery = isLong ? 1 : 4;
    const replayed = { disk, work, root: s.root, apart: [WRITER], choose, gcEvery, budgetMs: BUDGET_MS };
    const states = await replay(replayed, (result) => {
      cuts++;
      const step = life.steps.findLast(({ acknowledged }) => acknowledged <= result.position);
      for (const what of verdictOn(life, result))
        wrong.push(`cut ${JSON.stringify(result.cut)}, after "${step?.name}": ${what}`);
    });
    t.diagnostic(`${life.steps.length} commands, ${cuts} power cuts, ${states} different states`);
    assert.equal(wrong.length, 0, wrong.slice(0, 10).join('\n'));
    assert.ok(states > 20, 'hardly any power cut made a difference');
  } finally {
    await disk.close();
    rmSync(work, { recursive: true, force: true });
  }
});
