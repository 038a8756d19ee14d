/** What a listing costs beside its names: programs that list without looking get no nodes, those that look (`ls -l`) need few lookups; both see the same numbers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeTreeIndex } from '../layer/index.ts';
import { withDataPlane } from './test-support/with-data-plane.ts';

const DIRECTORIES = 24;
const FILES = 10;
/** As vlfs/listing/who-looks.ts. */
const FIRST_WITH = 4;
/** d_ino of each entry. */
const NUMBERS = `import os, sys
for path in sys.argv[1:]:
  for entry in os.scandir(path): print(entry.inode(), entry.name)`;

test('who lists without looking gets names alone, who looks gets nodes', async () => {
  await withDataPlane(
    async (t) => {
      const treeDir = t.makeDir('base_1/filesystem');
      for (const top of ['named', 'looked'])
        for (let d = 0; d < DIRECTORIES; d++) {
          fs.mkdirSync(join(treeDir, top, `d${d}`), { recursive: true });
          for (let i = 0; i < FILES; i++) fs.writeFileSync(join(treeDir, top, `d${d}/f${i}`), `${i}`);
        }
      const indexFile = join(t.dir, 'base_1/index');
      await writeTreeIndex(indexFile, treeDir);
      const mnt = t.makeDir('mnt');
      const level = { kind: 'software' as const, id: 'main/base 1', treeDir, indexFile, whiteoutsDir: null };
      const vlfs = {
        name: 'm',
        privateDir: t.makeDir('private'),
        whiteoutsDir: t.makeDir('whiteouts'),
        stack: { key: 'one', levels: [level] },
        readOnly: false,
      };
      await t.plane.mount({ id: 'm', mountpoint: mnt, vlfs, readOnly: false });
      const lookups = async (): Promise<number> => (await t.plane.status()).mounts[0]!.kinds['LOOKUP'] ?? 0;
      const directories = (top: string): string[] =>
        Array.from({ length: DIRECTORIES }, (_, d) => join(mnt, top, `d${d}`));

      // Names alone: nobody looked, so there are no nodes to look at later.
      for (const dir of directories('named')) assert.equal(fs.readdirSync(dir).length, FILES);
      const before = await lookups();
      for (const dir of directories('named'))
        for (const name of fs.readdirSync(dir)) fs.statSync(join(dir, name));
      assert.ok((await lookups()) - before >= (DIRECTORIES - 2 * FIRST_WITH) * FILES);

      // Each name is looked at: few come without a node.
      const began = await lookups();
      execFileSync('ls', ['-l', ...directories('looked')], { stdio: ['ignore', 'ignore', 'inherit'] });
      const took = (await lookups()) - began;
      assert.ok(took <= DIRECTORIES + 1 + 2 * FILES, `${took} lookups`);

      // Listed and looked at, a name has the same number.
      const numbers = execFileSync('python3', ['-c', NUMBERS, ...directories('named')], {
        encoding: 'latin1',
      });
      const seen = directories('named').flatMap((dir) =>
        fs.readdirSync(dir).map((name) => `${fs.statSync(join(dir, name)).ino} ${name}`),
      );
      assert.deepEqual(numbers.trim().split('\n').sort(), seen.sort());
    },
    { layered: true },
  );
});
