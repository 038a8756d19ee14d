/** The contract of a file system, over a plain directory and over both doors: private, shared and config files behave the same. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { acls } from './acls.ts';
import type { Topic } from './behaviour.ts';
import { knownDifference } from './differences.ts';
import { directories } from './directories.ts';
import { hardLinks } from './hard-links.ts';
import { inodeNumbers } from './inode-numbers.ts';
import { locks } from './locks.ts';
import { mappings } from './mappings.ts';
import { names } from './names.ts';
import { opens } from './opens.ts';
import { permissions } from './permissions.ts';
import { dirAt, openPlaces, openWorkshop, PLACES } from './places.ts';
import { rangeCopies } from './range-copies.ts';
import { readers } from './readers.ts';
import { renames } from './renames.ts';
import { space } from './space.ts';
import { sparseFiles } from './sparse-files.ts';
import { specialFiles } from './special-files.ts';
import { times } from './times.ts';
import { unnamedFiles } from './unnamed-files.ts';
import { xattrs } from './xattrs.ts';

const topics: readonly Topic[] = [
  permissions,
  acls,
  xattrs,
  renames,
  hardLinks,
  unnamedFiles,
  inodeNumbers,
  opens,
  mappings,
  sparseFiles,
  readers,
  rangeCopies,
  locks,
  specialFiles,
  names,
  directories,
  times,
  space,
];

const workshop = openWorkshop();

before(() => openPlaces(workshop, topics));
after(() => workshop.remove());

for (const place of PLACES) {
  for (const topic of topics) {
    describe(`${topic.name} in ${place.name}`, () => {
      for (const [n, [name, behaviour]] of Object.entries(topic.behaviours).entries()) {
        test(name, async () => {
          const dir = dirAt(workshop, place, topic, n);
          if (place.layer === null) {
            mkdirSync(dir, { recursive: true });
            topic.plant(dir);
          }
          const reason = knownDifference(place, topic.name, name);
          if (reason === null) return await behaviour(dir);
          await assert.rejects(async () => behaviour(dir), `it works now: ${reason}`);
        });
      }
    });
  }
}
