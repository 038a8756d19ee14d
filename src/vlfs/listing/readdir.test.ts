/** Listings that take more than one turn, while what they list changes. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { type DirectorySink, PENDING } from '../contract.ts';
import { Client, sandboxed } from '../test-support/vlfs.test-support.ts';

test(
  'a directory that is reverted while its listing is made shows what it has then',
  sandboxed(async (box) => {
    const names = Array.from({ length: 3000 }, (_, i) => `f${i}`);
    const files = Object.fromEntries(names.map((name) => [`dir/${name}`, '']));
    const spec = box.spec('one', [await box.unit('a', '1', files)]);
    const c = new Client(spec);
    for (const name of names) c.write(`dir/${name}`, 'mine');
    const { id } = c.walk('dir');
    const sink: DirectorySink = {
      plus: false,
      add: () => true,
      hasRoomFor: () => true,
      addPlus() {},
    };
    // However fast the machine is, a turn is one step.
    let clock = 0;
    const now = mock.method(performance, 'now', () => clock++ * 1000);
    assert.equal(c.fs.readdir(c.caller, id, 0, 0, sink), PENDING, 'more than one turn');
    now.mock.restore();
    const { job } = c.caller;
    assert.ok(job?.kind === 'steps');
    assert.equal(job.advance(0), null, 'some were read');
    c.fs.revert(['/dir']);
    let went = job.advance(0);
    while (went === null) went = job.advance(0);
    assert.equal(went, 0, 'asked for again');
    assert.deepEqual(c.readdir('dir'), [...names].sort());
    c.close();
  }),
);
