/** Account files and the like, after a template's change. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { MERGED_PATHS, mergePrivateFile } from './index.ts';

const BASE = 'root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/:/bin/false\n';
const MYSQL = 'mysql:x:100:100::/:/bin/false\n';
const ANNA = 'anna:x:1000:1000::/home/anna:/bin/sh\n';

test('a user of the appliance and a user of the template’s new package both exist', () => {
  assert.equal(mergePrivateFile('etc/passwd', BASE, BASE + MYSQL, BASE + ANNA), BASE + ANNA + MYSQL);
});

test('a password that the appliance set stays; one that only the template changed comes', () => {
  const from = 'root:*:1::::::\nweb:!:1::::::\n';
  const to = 'root:!:2::::::\nweb:*:2::::::\n';
  assert.equal(
    mergePrivateFile('etc/shadow', from, to, 'root:$y$secret:9::::::\nweb:!:1::::::\n'),
    'root:$y$secret:9::::::\nweb:*:2::::::\n',
  );
});

test('a user that the appliance deleted stays deleted, one that the template dropped goes', () => {
  assert.equal(mergePrivateFile('etc/passwd', BASE + MYSQL, BASE + MYSQL, BASE), BASE);
  assert.equal(mergePrivateFile('etc/passwd', BASE + MYSQL, BASE, BASE + MYSQL + ANNA), BASE + ANNA);
});

test('other files are the appliance’s', () => {
  assert.equal(mergePrivateFile('etc/hosts', 'a', 'b', 'c'), 'c');
});

test('properties: an untouched file follows, an untouched template changes nothing', () => {
  const names = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'));
  const file = fc.tuple(names, fc.nat(2)).map(([list, n]) => list.map((name) => `${name}:${n}\n`).join(''));
  const sorted = (text: string) => text.split('\n').sort().join('\n');
  fc.assert(
    fc.property(file, file, file, (from, to, mine) => {
      for (const path of MERGED_PATHS.filter((p) => p.startsWith('etc/'))) {
        assert.equal(sorted(mergePrivateFile(path, from, to, from)), sorted(to));
        assert.equal(mergePrivateFile(path, from, from, mine), mine);
      }
    }),
    randomRuns(100),
  );
});
