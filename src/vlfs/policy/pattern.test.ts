/** Patterns and the state machine, with git's own ignore rules as the oracle. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { createMatcher, NO_RULE, TOO_MANY_COMBINATIONS } from './matcher.ts';
import { exactPattern, matchesGlob, type Part, parsePattern } from './pattern.ts';

const piece = fc.constantFrom(
  'a',
  'b',
  '.c',
  '*',
  '?',
  'a*',
  '*b',
  'a*b*',
  '[ab]',
  '[!a]',
  '\\a',
  '**',
  'ab',
);
const patterns = fc.array(
  fc.record({
    parts: fc.array(piece, { minLength: 1, maxLength: 4 }),
    lead: fc.constantFrom('', '/'),
    trail: fc.constantFrom('', '', '/'),
  }),
  { minLength: 1, maxLength: 4 },
);
const paths = fc.array(
  fc.array(fc.constantFrom('a', 'b', '.c', 'ab', 'aab', 'x'), { minLength: 1, maxLength: 4 }),
  {
    minLength: 5,
    maxLength: 20,
  },
);

test('patterns mean what they mean in .gitignore', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-pattern-'));
  try {
    execFileSync('git', ['init', '-q', dir]);
    fc.assert(
      fc.property(patterns, paths, (made, given) => {
        // All of nothing is refused here; "/" and "**" alone say no more than that.
        const texts = made
          .map(({ parts, lead, trail }) => lead + parts.join('/') + trail)
          .filter((text) => !/^\/*\**\/*(\*\*\/*)*$/.test(text));
        if (texts.length === 0) return;
        writeFileSync(join(dir, '.gitignore'), `${texts.join('\n')}\n`);
        const asked = given.map((parts) => parts.join('/'));
        const { stdout } = spawnSync('git', ['-C', dir, 'check-ignore', '--no-index', '-z', '--stdin'], {
          input: `${asked.join('\0')}\0`,
          encoding: 'utf8',
        });
        const ignored = new Set(stdout.split('\0'));
        const matcher = createMatcher(texts);
        for (const path of asked)
          assert.equal(matcher.ruleOfPath(path, false) !== NO_RULE, ignored.has(path), `${texts} on ${path}`);
      }),
      randomRuns(150),
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test('what is no pattern is refused, a hostile glob is not slow, an exact path matches itself alone', () => {
  for (const text of ['', '/', '!a', 'a/../b', './a', '[a', 'a\\', '**', `${'a/'.repeat(3000)}`, 'a\0'])
    assert.throws(() => parsePattern(text), { code: 'USAGE' }, text);
  const { parts } = parsePattern(`/${'*a'.repeat(100)}b`);
  const started = performance.now();
  assert.ok(!matchesGlob((parts[0] as Extract<Part, { kind: 'glob' }>).glob, 'a'.repeat(255)));
  assert.ok(performance.now() - started < 60_000, 'the time is a product, not a power');
  const path = '/a [1]/*?\\!b';
  const matcher = createMatcher([exactPattern(path)]);
  assert.equal(matcher.ruleOfPath(path, false), 0);
  assert.equal(matcher.ruleOfPath('/a 1/xx\\!b', false), NO_RULE);
});

test('a step does not get slower with the number of patterns', () => {
  const cost = (rules: number): number => {
    const matcher = createMatcher(
      Array.from({ length: rules }, (_, i) => (i % 2 ? `name-${i}` : `${i}-*.key`)),
    );
    const names = Array.from({ length: 2000 }, (_, i) => `file-${i}.c`);
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 8; round++) {
      const started = performance.now();
      for (const name of names) matcher.step(matcher.start, name);
      best = Math.min(best, performance.now() - started);
    }
    return best;
  };
  assert.ok(cost(4000) < 100 * cost(4) + 5);
});

test('names that reach every combination of overlapping patterns take bounded memory; what is behind the bound is excluded', () => {
  const bits = 24;
  const rules = Array.from({ length: bits }, (_, i) => `**/${'?'.repeat(i)}1*/secret`);
  const matcher = createMatcher(['/known', ...rules]);
  const shown = matcher.step(matcher.start, '0'.repeat(bits));
  assert.equal(matcher.rule(matcher.step(matcher.start, 'known'), false), 0);
  const before = process.memoryUsage().heapUsed;
  let full = matcher.start;
  for (let i = 0; i < 100_000 && matcher.rule(full, true) === NO_RULE; i++)
    full = matcher.step(matcher.start, (i * 167).toString(2).padStart(bits, '0'));
  assert.ok(process.memoryUsage().heapUsed - before < 200e6);
  assert.equal(matcher.rule(full, true), TOO_MANY_COMBINATIONS);
  assert.equal(matcher.rule(matcher.step(full, 'x'), false), TOO_MANY_COMBINATIONS);
  assert.equal(matcher.rule(matcher.union(shown, full), false), TOO_MANY_COMBINATIONS);
  // What was met before goes on as before.
  assert.equal(matcher.step(matcher.start, '0'.repeat(bits)), shown);
  assert.equal(matcher.rule(matcher.step(matcher.start, 'known'), false), 0);
  // Patterns that end in a name do not combine.
  const many = createMatcher(Array.from({ length: 4000 }, (_, i) => `**/dir-${i}/*.key`));
  for (let i = 0; i < 4000; i++) {
    const directory = many.step(many.start, `dir-${i}`);
    assert.equal(many.rule(many.step(directory, 'a.key'), false), i);
    assert.equal(many.rule(many.step(directory, 'a.pub'), false), NO_RULE);
  }
});
