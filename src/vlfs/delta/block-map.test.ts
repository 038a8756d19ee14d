/** The map of a partial file beside a plain array of blocks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import {
  type BlockMap,
  claim,
  decodeMap,
  drop,
  encodeMap,
  gaps,
  hasBlock,
  hasBlocks,
  newBlockMap,
  settle,
  settleAll,
} from './block-map.ts';

const LIMIT = 60;
const block = fc.nat(LIMIT);
const operation = fc.tuple(fc.constantFrom('claim', 'settle', 'drop', 'settleAll'), block, block);

/** Per block: 0 not in the map, 1 not settled, 2 settled. */
function apply(model: number[], map: BlockMap, [op, a, b]: [string, number, number]): void {
  const [from, to] = [Math.min(a, b), Math.max(a, b)];
  for (let i = 0; i < LIMIT; i++) {
    if (op === 'settleAll' && model[i] === 1) model[i] = 2;
    if (i < from || i >= to) continue;
    if (op === 'claim' && model[i] === 0) model[i] = 1;
    if (op === 'settle') model[i] = 2;
    if (op === 'drop') model[i] = 0;
  }
  if (op === 'claim') claim(map, from, to);
  else if (op === 'settle') settle(map, from, to);
  else if (op === 'drop') drop(map, from, to);
  else settleAll(map);
}

test('a map of blocks is what an array of blocks is, also when it is written and read again', () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 40 }), block, block, (operations, a, b) => {
      const model = new Array<number>(LIMIT).fill(0);
      const map = newBlockMap();
      for (const one of operations) apply(model, map, one);
      const bytes: number[] = [];
      encodeMap(map, bytes);
      const again = decodeMap(Uint8Array.from(bytes), 0, LIMIT)!;
      for (const one of [map, again]) {
        assert.deepEqual(
          model,
          model.map((_, i) => {
            const run = one.runs.find(({ from, to }) => from <= i && i < to);
            return run === undefined ? 0 : run.settled ? 2 : 1;
          }),
        );
        assert.equal(one.blocks, model.filter((state) => state > 0).length);
        for (const [i, run] of one.runs.slice(1).entries()) {
          const before = one.runs[i]!;
          assert.ok(before.to < run.from || (before.to === run.from && before.settled !== run.settled));
        }
      }
      const [from, to] = [Math.min(a, b), Math.max(a, b)];
      const missing = gaps(map, from, to).flatMap(([x, y]) => Array.from({ length: y - x }, (_, i) => x + i));
      const expected = model.flatMap((state, i) => (i >= from && i < to && state === 0 ? [i] : []));
      assert.deepEqual(missing, expected);
      assert.equal(hasBlocks(map, from, to), expected.length === 0);
      for (let i = 0; i < LIMIT; i++) assert.equal(hasBlock(map, i), model[i]! > 0);
    }),
    randomRuns(500),
  );
});

test('a damaged map is refused', () => {
  const bytes: number[] = [];
  const map = newBlockMap();
  claim(map, 3, 9);
  settle(map, 300, 310);
  encodeMap(map, bytes);
  assert.equal(decodeMap(Uint8Array.from(bytes), 0, 309), null, 'a block behind the end');
  for (let length = 1; length < bytes.length; length++) {
    const cut = decodeMap(Uint8Array.from(bytes.slice(0, length)), 0, 310);
    assert.ok(cut === null || cut.blocks < map.blocks, `${length} bytes`);
  }
  assert.equal(decodeMap(Uint8Array.from([1, 0]), 0, 310), null, 'an empty run');
});
