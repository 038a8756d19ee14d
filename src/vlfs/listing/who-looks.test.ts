import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createWhoLooks } from './who-looks.ts';

const NAMES = 20;
const DIRECTORIES = 200;

/** How many of its listings come with nodes, to a program that looks at so many names of each that came without. */
function withNodes(looks: number): number {
  const who = createWhoLooks();
  let count = 0;
  for (let directory = 1; directory <= DIRECTORIES; directory++) {
    if (who.wantsNodes(7, directory, NAMES)) count++;
    else for (let i = 0; i < looks; i++) who.looked(7, directory);
    who.looked(8, directory);
  }
  return count;
}

test('who looks at what it lists gets nodes, but for a listing now and then; who does not, gets none after the first', () => {
  assert.equal(withNodes(0), 4);
  assert.equal(withNodes(1), 4);
  assert.ok(withNodes(5) > DIRECTORIES * 0.95);
  assert.ok(withNodes(NAMES) > DIRECTORIES * 0.95);
});

test('of many programs, and of one that begins to look, the last are known', () => {
  const who = createWhoLooks();
  for (let i = 1; i <= 10; i++) who.wantsNodes(1, i, NAMES);
  assert.equal(who.wantsNodes(1, 11, NAMES), false);
  for (let i = 0; i < NAMES; i++) who.looked(1, 11);
  assert.equal(who.wantsNodes(1, 12, NAMES), true);
  for (let pid = 2; pid < 1000; pid++) assert.equal(who.wantsNodes(pid, 1, NAMES), true);
  assert.equal(who.wantsNodes(1, 13, NAMES), true);
  assert.equal(who.wantsNodes(3, 14, 0), true);
});
