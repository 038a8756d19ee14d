/** Relations against dpkg's own parser (Dpkg::Deps) over this host's installed packages, and by round trips. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { FormatError } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import type { Alternatives } from './contract.ts';
import { formatRelations, parseRelations } from './relations.ts';

test('the forms of Policy 7.1 are read', () => {
  assert.deepEqual(parseRelations('perl (>= 5.6),\n tcpd:any(>=7.6-4) | x (<< 1) , y'), [
    [{ name: 'perl', op: '>=', version: '5.6' }],
    [
      { name: 'tcpd', arch: 'any', op: '>=', version: '7.6-4' },
      { name: 'x', op: '<<', version: '1' },
    ],
    [{ name: 'y' }],
  ]);
  assert.deepEqual(parseRelations(' '), []);
  assert.deepEqual(parseRelations('a (< 1), b (> 2),'), [
    [{ name: 'a', op: '<=', version: '1' }],
    [{ name: 'b', op: '>=', version: '2' }],
  ]);
  assert.deepEqual(parseRelations('a <!nocheck> <!cross>, b [!i386] | c [i386]'), [
    [{ name: 'a' }],
    [{ name: 'b' }, { name: 'c' }],
  ]);
  assert.deepEqual(
    parseRelations('b [!i386] | c [i386], d [linux-any], e [hurd-any]', { architecture: 'amd64' }),
    [[{ name: 'b' }], [{ name: 'd' }]],
  );
});

test('dpkg reads this host’s relations alike', () => {
  const fields = execFileSync(
    'dpkg-query',
    ['-W', '-f', '\x24{Depends}\\n\x24{Pre-Depends}\\n\x24{Recommends}\\n\x24{Breaks}\\n\x24{Provides}\\n'],
    { encoding: 'utf8', maxBuffer: 2 ** 26 },
  )
    .split('\n')
    .filter((line) => line.trim() !== '');
  assert.ok(fields.length > 100);
  const perl =
    'use Dpkg::Deps; while (<STDIN>) { chomp; my $d = deps_parse($_); print $d->output(), "\\n"; }';
  const oracle = execFileSync('perl', ['-e', perl], {
    input: fields.join('\n'),
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  }).split('\n');
  for (const [i, field] of fields.entries()) assert.equal(formatRelations(parseRelations(field)), oracle[i]);
});

test('what is formatted is parsed to the same', () => {
  const name = fc.stringMatching(/^[a-z0-9][a-z0-9+.-]{1,12}$/);
  const relation = fc.record(
    {
      name,
      arch: fc.constantFrom('any', 'native', 'amd64'),
      constraint: fc.record({
        op: fc.constantFrom('<<', '<=', '=', '>=', '>>'),
        version: fc.stringMatching(/^[0-9][0-9a-z.+~:-]{0,8}$/),
      }),
    },
    { requiredKeys: ['name'] },
  );
  fc.assert(
    fc.property(fc.array(fc.array(relation, { minLength: 1, maxLength: 3 }), { maxLength: 4 }), (groups) => {
      const relations = groups.map((g) =>
        g.map(({ constraint, ...rest }) => ({ ...rest, ...constraint })),
      ) as Alternatives[];
      assert.deepEqual(parseRelations(formatRelations(relations)), relations);
    }),
    randomRuns(100),
  );
});

test('nonsense is refused with its place', () => {
  for (const text of [
    'a (>= 1',
    'a (1)',
    'a (>=)',
    'a b',
    '| a',
    'a | ',
    'a (>= 1) (<< 2)',
    'a:',
    'a [amd64',
    'a <x',
    '(>= 1)',
    'a (=> 1)',
  ])
    assert.throws(() => parseRelations(text), FormatError, text);
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', ' ', '(', ')', '>', '=', '|', ',', '[', ']', '<', ':', '1') }),
      (text) => {
        try {
          parseRelations(text);
        } catch (error) {
          assert.ok(error instanceof FormatError);
        }
      },
    ),
    randomRuns(100),
  );
});
