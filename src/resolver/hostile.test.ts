/** Universes made to hurt: long chains, thousands of versions, a problem that is hard for every resolver. Bounded answers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StrataError } from '../base/index.ts';
import { buildUniverse } from './index.ts';
import { unit } from './test-support.ts';

const LENGTH = 20_000;
const chain = Array.from({ length: LENGTH }, (_, i) => unit(`x${i}`, { depends: `x${i + 1}` }));

test('a chain of 20,000 relations is followed, and explained when its end is missing', () => {
  const whole = buildUniverse([...chain, unit(`x${LENGTH}`)]).resolve({ wishes: [{ layer: 'x0' }] });
  assert.equal(whole.ok && whole.units.length, LENGTH + 1);
  const broken = buildUniverse(chain).resolve({ wishes: [{ layer: 'x0' }] });
  assert.ok(!broken.ok);
  assert.equal(
    broken.explanation.summary,
    `cannot add x0: no repository offers x${LENGTH}, which x${LENGTH - 1} 1 depends on`,
  );
  assert.ok(broken.explanation.chain.length < 40, 'the chain is cut for people');
});

test('5,000 versions of one layer, none of which can be in', () => {
  const versions = Array.from({ length: 5000 }, (_, i) => unit(`x ${i}`, { depends: 'gone' }));
  const result = buildUniverse(versions).resolve({ wishes: [{ layer: 'x' }] });
  assert.ok(!result.ok);
  assert.equal(
    result.explanation.summary,
    'cannot add x: no repository offers gone, which x 4999 depends on',
  );
});

test('the pigeonhole problem is refused with LIMIT, not called unsatisfiable', () => {
  const holes = Array.from({ length: 11 }, (_, hole) => hole);
  const pigeons = Array.from({ length: 12 }, (_, pigeon) => [
    unit(`p${pigeon}`, { depends: holes.map((hole) => `p${pigeon}in${hole}`).join(' | ') }),
    ...holes.map((hole) =>
      unit(`p${pigeon}in${hole}`, { provides: `hole${hole}`, conflicts: `hole${hole}` }),
    ),
  ]).flat();
  const wishes = Array.from({ length: 12 }, (_, pigeon) => ({ layer: `p${pigeon}` }));
  assert.throws(
    () => buildUniverse(pigeons).resolve({ wishes }),
    (error) => error instanceof StrataError && error.code === 'LIMIT',
  );
});
