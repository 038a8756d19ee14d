import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { nameFromPrinted, nameToText } from './bytes.ts';
import { randomRuns } from './random-runs.test-support.ts';

test('a printed name is given back, whatever its bytes', () => {
  const byte = fc.oneof(
    fc.integer({ min: 1, max: 255 }).map((n) => String.fromCharCode(n)),
    fc.constantFrom('\\', 'x', '0', 'a', '\\x0a', '\\x5c', '\u00c3\u00a4'),
  );
  fc.assert(
    fc.property(fc.array(byte), (bytes) => {
      const name = bytes.join('');
      assert.equal(nameFromPrinted(nameToText(name)), name);
    }),
    randomRuns(2000),
  );
});

test('odd names as they are printed', () => {
  assert.equal(nameToText('a\nb\xff'), 'a\\x0ab\\xff');
  assert.equal(nameToText('a\\x0a'), 'a\\x5cx0a');
  assert.equal(nameFromPrinted('C:\\xyz \\x41 \\x2f'), 'C:\\xyz \\x41 \\x2f');
});
