import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLongWork } from './long-work.ts';

test('long work takes a third of the time while requests come, and all of it when none do', () => {
  let clock = 0;
  const work = createLongWork(() => clock);
  let worked = 0;
  let left = 10;
  work.add((untilMs) => {
    const spent = Math.min(untilMs - clock, left);
    clock += spent;
    worked += spent;
    left -= spent;
    return left <= 0;
  });

  // A request every 20 us: the next one comes as soon as the last is answered.
  for (; clock < 6; clock += 0.02) work.turn(true);
  assert.ok(worked > 1.5 && worked < 2.6, `${worked} of 6 ms`);

  // Nobody asks: after a millisecond it goes on to its end.
  clock += 1;
  let turns = 0;
  for (; work.sleepMs() === 0; turns++) work.turn(false);
  assert.equal(left, 0);
  assert.ok(turns <= 20, `${turns} turns`);
  assert.equal(work.sleepMs(), -1);
});

test('what a request waits for comes first, but does not keep other work from its end', () => {
  let clock = 0;
  const work = createLongWork(() => clock);
  const spent = { other: 0, listing: 0 };
  const task = (of: keyof typeof spent, ms: number) => (untilMs: number) => {
    const now = Math.min(untilMs - clock, ms - spent[of]);
    clock += now;
    spent[of] += now;
    return spent[of] >= ms;
  };
  work.add(task('other', 10));
  work.add(task('listing', 3), { waitedFor: true });
  for (; spent.listing < 3 && clock < 20; clock += 0.02) work.turn(true);
  assert.ok(clock < 8, `a listing of 3 ms took ${clock} ms beside other work`);

  // Somebody lists without end.
  work.add(task('listing', Number.POSITIVE_INFINITY), { waitedFor: true });
  for (; spent.other < 10 && clock < 1000; clock += 0.02) work.turn(true);
  assert.equal(spent.other, 10);
});

test('a thread with work that rests sleeps a millisecond at most', () => {
  let clock = 0;
  const work = createLongWork(() => clock);
  work.add(() => {
    clock += 5;
    return false;
  });
  work.turn(true);
  work.turn(true);
  assert.equal(work.sleepMs(), 1);
  clock += 1;
  assert.equal(work.sleepMs(), 0);
});

test('what a request waits for goes on at once where requests come with pauses', () => {
  let clock = 0;
  const work = createLongWork(() => clock);
  let left = 3;
  let longest = 0;
  work.add(
    (untilMs) => {
      const spent = Math.min(untilMs - clock, left);
      longest = Math.max(longest, spent);
      clock += spent;
      left -= spent;
      return left <= 0;
    },
    { waitedFor: true },
  );
  // Others ask every half a millisecond.
  for (let asked = 0; left > 0; clock += 0.01) {
    assert.equal(work.sleepMs(), 0);
    const served = clock >= asked + 0.5;
    if (served) asked = clock;
    work.turn(served);
  }
  assert.ok(clock < 4.5, `a listing of 3 ms took ${clock} ms`);
  assert.ok(longest < 0.3, `a turn of ${longest} ms`);
});
