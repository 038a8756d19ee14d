/** What a process finds in the ledger of one that was killed in the midst; the takeover itself is tested in fuse/ and test/e2e. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dup } from '../../sys/index.ts';
import { Client, sandboxed, stackOf } from '../test-support/vlfs.test-support.ts';
import { HEADER_BYTES, SLOT_BYTES } from './layout.ts';
import { createLedger, type LedgerMemory } from './ledger.ts';
import { type LedgerContent, readLedger } from './read-ledger.ts';

const O_RDWR = 2;

function memory(): LedgerMemory {
  const bytes = new ArrayBuffer(HEADER_BYTES + 256 * SLOT_BYTES);
  return { bytes, grow: () => null };
}

function left(from: LedgerMemory): LedgerContent {
  const content = readLedger(from.bytes.slice(0));
  assert.ok(content !== null);
  return content;
}

test(
  'the number of a closed file is given out again only when the repeated requests have been answered',
  sandboxed(async (box) => {
    const spec = box.spec('m', [await box.unit('base', '1', { a: 'a', b: 'b', c: 'c' })]);
    const dead = memory();
    const before = new Client(spec, { ledger: createLedger(dead) });
    const [a, b, c] = ['a', 'b', 'c'].map((name) => before.open(name, O_RDWR));
    before.writeHandle(a!, 'A');
    // Closed, but killed before the kernel heard of it: it will send these again.
    before.release(b!);
    before.release(c!);
    const revive = { content: left(dead), take: dup };
    const after = new Client(spec, { ledger: createLedger(memory()), revive });
    assert.equal(after.readHandle(a!), 'A');
    assert.equal(after.fs.stats().openFiles, 1);
    // Another repeated request comes first.
    const repeated = after.open('c', O_RDWR);
    after.release(b!);
    after.release(c!);
    after.writeHandle(repeated, 'C');
    after.fs.resentAnswered();
    const later = [after.open('a', O_RDWR), after.open('b', O_RDWR)];
    assert.deepEqual(later.map(({ fh }) => fh).sort(), [b!.fh, c!.fh].sort());
    for (const handle of [a!, repeated, ...later]) after.release(handle);
    assert.equal(after.fs.stats().openFiles, 0);
    after.close();
    before.close();
  }),
);

test(
  'a relayer counts from its decision on, and its files are put in place by who takes over',
  sandboxed(async (box) => {
    const one = await box.unit('base', '1', { v: '1' });
    const two = await box.unit('base', '2', { v: '2' });
    for (const dieAt of ['relayer', 'relayer: decided', 'relayer: private file']) {
      const spec = box.spec(dieAt.replaceAll(/\W/g, '-'), [one]);
      const dead = memory();
      const ledger = createLedger(dead);
      ledger.setStack('one');
      let content: LedgerContent | null = null;
      const before = new Client(spec, {
        ledger,
        onStep(step) {
          if (step !== dieAt) return;
          content ??= left(dead);
          throw new Error('killed');
        },
      });
      const files = ['x', 'y'].map((path) => ({ path, content: Buffer.from(path) }));
      ledger.setNextStack('two');
      assert.throws(() => before.fs.relayer(stackOf([two]), files), /killed/);
      const { stack, decided } = content as unknown as LedgerContent;
      assert.deepEqual(
        { stack, decided },
        dieAt === 'relayer' ? { stack: 'one', decided: false } : { stack: 'two', decided: true },
      );
      const after = new Client(
        { ...spec, stack: stackOf([decided ? two : one]) },
        { ledger: createLedger(memory()), revive: { content: content!, take: dup } },
      );
      assert.deepEqual(Object.keys(after.tree()).sort(), decided ? ['v', 'x', 'y'] : ['v'], dieAt);
      after.close();
    }
  }),
);
