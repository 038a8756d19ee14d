/** The order of versions against dpkg itself. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { compareVersions, satisfies } from './debian-version.ts';

/** dpkg's answer for each pair, -1, 0 or 1, with one shell for all. */
function dpkgOrder(pairs: readonly (readonly [string, string])[]): number[] {
  const script = `while read -r a b; do
    if dpkg --compare-versions "$a" lt "$b"; then echo -1
    elif dpkg --compare-versions "$a" eq "$b"; then echo 0
    else echo 1; fi
  done`;
  const input = pairs.map((p) => p.join(' ')).join('\n');
  const out = execFileSync('sh', ['-c', script], {
    input: `${input}\n`,
    encoding: 'utf8',
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  return out.trim().split('\n').map(Number);
}

const version = fc
  .tuple(
    fc.option(fc.constantFrom('0', '1', '2', '10', '01'), { nil: undefined }),
    fc.constantFrom('0', '1', '2', '9', '10', '007'),
    fc.string({ unit: fc.constantFrom('0', '1', '9', 'a', 'Z', '~', '+', '.', '-'), maxLength: 7 }),
    fc.option(
      fc.string({
        unit: fc.constantFrom('0', '1', '9', 'a', 'b', '~', '+', '.'),
        minLength: 1,
        maxLength: 5,
      }),
      {
        nil: undefined,
      },
    ),
  )
  .map(([epoch, digit, rest, revision]) => {
    const upstream = `${digit}${rest}`.replace(/-+$/, '');
    return `${epoch === undefined ? '' : `${epoch}:`}${upstream}${revision === undefined ? '' : `-${revision}`}`;
  });

const KNOWN: [string, string, number][] = [
  ['1.0', '1.0', 0],
  ['1.0', '1.00', 0],
  ['1.0', '1.0-0', 0],
  ['0:1.0', '1.0', 0],
  ['1:0', '2', 1],
  ['1.0~rc1', '1.0', -1],
  ['1.0~~', '1.0~', -1],
  ['1.0~~a', '1.0~', -1],
  ['1.0', '1.0+b1', -1],
  ['1.0a', '1.0+', -1],
  ['1.0-1', '1.0-1~bpo12+1', 1],
  ['1.2-3-4', '1.2-3-10', -1],
  ['99999999999999999999999999', '100000000000000000000000000', -1],
  ['2.36-9+deb12u4', '2.36-9+deb12u13', -1],
  ['5.0.51a-3', '5.0.51a-24', -1],
  ['3:1', '10:0', -1],
  ['1.0.', '1.0', 1],
  ['1~', '1', -1],
];

test('the order is dpkg’s for known hard cases and for random versions', () => {
  const random = fc.sample(fc.tuple(version, version), { numRuns: 300, seed: 20261121 });
  const pairs = [...KNOWN.map(([a, b]) => [a, b] as const), ...random];
  const oracle = dpkgOrder(pairs);
  for (const [i, [a, b]] of pairs.entries()) {
    assert.equal(Math.sign(compareVersions(a, b)), oracle[i], `${a} against ${b}`);
    assert.equal(Math.sign(compareVersions(b, a)), -oracle[i]! + 0, `${b} against ${a}`);
  }
  for (const [a, b, order] of KNOWN)
    assert.equal(Math.sign(compareVersions(a, b)), order, `${a} against ${b}`);
});

test('it is a total preorder, also for malformed versions', () => {
  const any = fc.oneof(version, fc.string({ maxLength: 8 }));
  fc.assert(
    fc.property(any, any, any, (a, b, c) => {
      assert.equal(compareVersions(a, a), 0);
      assert.equal(Math.sign(compareVersions(a, b)) + Math.sign(compareVersions(b, a)), 0);
      if (compareVersions(a, b) <= 0 && compareVersions(b, c) <= 0) assert.ok(compareVersions(a, c) <= 0);
    }),
    randomRuns(2000),
  );
});

test('satisfies reads every operator', () => {
  const cases: [string, '<<' | '<=' | '=' | '>=' | '>>', string, boolean][] = [
    ['1.0', '<<', '1.1', true],
    ['1.0', '<<', '1.0', false],
    ['1.0', '<=', '1.00', true],
    ['1.0-1', '=', '1.0', false],
    ['1.0', '=', '1.0-0', true],
    ['2', '>=', '1:1', false],
    ['1.0', '>>', '1.0~rc2', true],
  ];
  for (const [a, op, b, answer] of cases) assert.equal(satisfies(a, op, b), answer, `${a} ${op} ${b}`);
});
