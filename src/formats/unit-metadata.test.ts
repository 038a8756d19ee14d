/** Layer unit metadata: the paper's figure 4, exact round trips, and what is made of a Debian control file. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import type { UnitMetadata } from './contract.ts';
import { parseStanzas } from './deb822.ts';
import { formatUnitMetadata, metadataFromDebControl, parseUnitMetadata } from './unit-metadata.ts';

test('the paper’s figure 4', () => {
  const text =
    'Layer: mysql-server\nVersion: 5.0.51a-3\nDepends: perl (>= 5.6),\n         tcpd (>= 7.6-4), x | y\n';
  assert.deepEqual(parseUnitMetadata(text), {
    layer: 'mysql-server',
    version: '5.0.51a-3',
    category: 'software',
    depends: 'perl (>= 5.6), tcpd (>= 7.6-4), x | y',
  });
});

test('parse(format(m)) is m', () => {
  const text = fc.stringMatching(/^[a-z][a-z0-9 (),|>=.]{0,20}[a-z]$/);
  const metadata = fc.record(
    {
      layer: fc.stringMatching(/^[a-z0-9][a-z0-9+.-]{0,12}$/),
      version: fc.stringMatching(/^[0-9][A-Za-z0-9.+~:-]{0,12}$/),
      category: fc.constantFrom('software', 'config', 'private'),
      architecture: fc.constantFrom('amd64', 'all'),
      multiArch: fc.constantFrom('same', 'foreign'),
      essential: fc.constant(true),
      priority: fc.constantFrom('required', 'optional'),
      section: fc.constant('web'),
      description: fc.stringMatching(/^[A-Za-zäöü€][A-Za-z äöü€]{0,20}[a-z]$/),
      installedBytes: fc.nat(),
      depends: text,
      preDepends: text,
      recommends: text,
      conflicts: text,
      breaks: text,
      provides: text,
      replaces: text,
      source: fc.constant('src'),
    },
    { requiredKeys: ['layer', 'version', 'category'] },
  );
  fc.assert(
    fc.property(metadata, (m) =>
      assert.deepEqual(parseUnitMetadata(formatUnitMetadata(m as UnitMetadata)), { ...m }),
    ),
    randomRuns(100),
  );
});

test('a Debian control file becomes metadata', () => {
  const control =
    'Package: nginx\nSource: nginx-src (1.2)\nVersion: 1:1.22.1-9\nArchitecture: all\nEssential: no\nInstalled-Size: 5\nDepends: a,\n b\nDescription: small\n long text\n';
  assert.deepEqual(metadataFromDebControl(parseStanzas(control)[0]!), {
    layer: 'nginx',
    version: '1:1.22.1-9',
    category: 'software',
    architecture: 'all',
    installedBytes: 5120,
    depends: 'a, b',
    description: 'small',
    source: 'nginx-src',
  });
});

test('hostile or incomplete metadata is refused', () => {
  const bad = [
    'Layer: ../../etc\nVersion: 1\n',
    'Layer: a/b\nVersion: 1\n',
    'Layer: a\nVersion: 1/../..\n',
    'Layer: a\n',
    'Version: 1\n',
    'Layer: a\nVersion: 1\nCategory: other\n',
    'Layer: a\nVersion: 1\nInstalled-Size: -4\n',
    'Layer: a\nVersion: 1\n\nLayer: b\nVersion: 1\n',
    '',
  ];
  for (const text of bad) assert.throws(() => parseUnitMetadata(text), StrataError, text);
  assert.throws(
    () =>
      metadataFromDebControl(
        new Map([
          ['Package', '..'],
          ['Version', '1'],
        ]),
      ),
    StrataError,
  );
});
