/** A directory of 100,000 entries in a layer: listed wholly and once while it changes, as a plain directory is. */
import { mkdirSync } from 'node:fs';
import { after, test } from 'node:test';
import { manyEntries, plantMany } from './directories.ts';
import { openWorkshop } from './places.ts';

const { strata, at, remove } = openWorkshop();
after(remove);

test('100,000 entries of a shared directory', async () => {
  for (const name of ['tree/many', 'mnt']) mkdirSync(at(name), { recursive: true });
  plantMany(at('tree/many'));
  await strata.json('repo', 'add', 'local', at('units'));
  await strata.json('layer', 'build', at('tree'), '--repo', 'local', '--name', 'many', '--version', '1');
  await strata.json('template', 'create', 't', 'many');
  await strata.json('create', 'a', '--template', 't');
  await strata.json('mount', 'a', at('mnt'));
  manyEntries(at('tree/many'));
  manyEntries(at('mnt/many'));
});
