import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildUnit } from '../layer/index.ts';
import { addRepository } from '../repository/index.ts';
import { openRepositories } from './repositories.ts';

test('a unit that appears while the world is read is in the next one', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-world-'));
  try {
    const [units, aside, tree] = ['units', 'aside', 'tree'].map((name) => join(dir, name)) as [
      string,
      string,
      string,
    ];
    mkdirSync(tree);
    await addRepository(dir, { name: 'local', source: units });
    for (const layer of ['a', 'b']) await buildUnit(tree, { repoDir: units, name: layer, version: '1' });
    // At every turn of the reading.
    for (let turns = 0; turns < 12; turns++) {
      renameSync(join(units, 'b_1'), aside);
      const repositories = openRepositories(dir);
      await repositories.world([]);
      repositories.invalidate();
      const reading = repositories.world([]);
      for (let n = 0; n < turns; n++) await null;
      renameSync(aside, join(units, 'b_1'));
      await reading;
      assert.equal(
        (await repositories.world([])).universe.versions('b', 'local').length,
        1,
        `after ${turns} turns`,
      );
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
