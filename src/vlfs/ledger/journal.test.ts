/** Answers that are given later than their request ended: a process that takes over knows them still. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createJournal } from './journal.ts';
import { JOURNAL_AT, JOURNAL_BYTES, JOURNALS, PHASE, STEP } from './layout.ts';

function words(memory: ArrayBuffer, area: number): Uint32Array {
  return new Uint32Array(memory, JOURNAL_AT + area * JOURNAL_BYTES, 8);
}

test('an answer that was set aside stays while other requests come and go, until it is given', () => {
  const memory = new ArrayBuffer(JOURNAL_AT + JOURNALS * JOURNAL_BYTES);
  const journal = createJournal(memory);
  const reply = Uint8Array.from([16, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
  const areas: number[] = [];
  for (let i = 0; i < JOURNALS; i++) {
    journal.begin(7 + i, 0);
    journal.step('unlink');
    journal.answered(reply, reply.length);
    areas.push(journal.setAside());
    journal.end();
  }
  assert.deepEqual(areas, [1, 2, 3, 0], 'the last one has no area: it is answered at once');
  journal.begin(100, 0);
  journal.answered(new Uint8Array(reply.length), reply.length);
  journal.end();
  assert.deepEqual([...words(memory, 1).slice(0, 3)], [7, 0, PHASE.answered]);
  assert.deepEqual([...new Uint8Array(memory, JOURNAL_AT + JOURNAL_BYTES + 128, reply.length)], [...reply]);
  journal.settle(1);
  assert.equal(words(memory, 1)[2], PHASE.none);
  journal.begin(200, 0);
  journal.answered(reply, reply.length);
  assert.equal(journal.setAside(), 1, 'its area is free again');
});

test('what slow work of a repeated request changes meanwhile does not overwrite how far a former process had come', () => {
  const memory = new ArrayBuffer(JOURNAL_AT + JOURNALS * JOURNAL_BYTES);
  const journal = createJournal(memory);
  const done = { phase: PHASE.begun, step: STEP.rename, notes: [1, 2, 3, 4], reply: new Uint8Array() };
  journal.carry([{ uniqueLow: 7, uniqueHigh: 0, ...done }]);
  assert.equal(journal.begin(7, 0), false);
  journal.postpone();
  journal.step('copy-up directory');
  assert.deepEqual([...words(memory, 1).slice(0, 4)], [7, 0, PHASE.begun, STEP.rename]);
  journal.begin(7, 0);
  assert.equal(journal.resumed?.step, STEP.rename);
});
