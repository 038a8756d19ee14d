/**
 * Programs that write in a mount while it is cloned, each keeping one rule by which a state of one instant is told from any other. `node clone-writer.ts KIND DIR`
 * prints 'up' when all its files are there, writes until its stdin ends, then checks that what it wrote is all there; any difference is an error on stderr and status 1.
 */
import assert from 'node:assert/strict';
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as rest } from 'node:timers/promises';
import * as sys from '../../src/sys/index.ts';

const [kind, dir] = process.argv.slice(2) as [string, string];
let going = true;
process.stdin.on('end', () => {
  going = false;
});
process.stdin.resume();
mkdirSync(dir, { recursive: true });
const at = (name: string): string => join(dir, name);
/** After the first round of writes: what is cloned from now on has all files. */
let told = false;
function up(): void {
  if (!told) console.log('up');
  told = true;
}
const line = (n: number): string => `${String(n).padStart(9, '0')}\n`;
const all = (count: number): string => Array.from({ length: count }, (_, i) => line(i)).join('');

const writers: Record<string, () => Promise<void>> = {
  /** Appends, mostly without rest; and a second log always gets a line after the first. */
  async log() {
    const [one, two] = [openSync(at('one'), 'a'), openSync(at('two'), 'a')];
    let n = 0;
    for (; going; n++) {
      writeSync(one, line(n));
      writeSync(two, line(n));
      up();
      if (n % 256 === 0) await rest(1);
    }
    closeSync(one);
    closeSync(two);
    for (const name of ['one', 'two']) assert.equal(readFileSync(at(name), 'utf8'), all(n), name);
  },
  /** Replaces one file after the other by rename. */
  async rename() {
    let n = 0;
    for (; going; n++) {
      for (const name of ['first', 'second']) {
        writeFileSync(at('new'), `${n}`);
        renameSync(at('new'), at(name));
      }
      up();
      await rest(1);
    }
    for (const name of ['first', 'second']) assert.equal(readFileSync(at(name), 'utf8'), `${n - 1}`);
  },
  /** Stores a number through a mapping in one page, then in another one. */
  async map() {
    const fd = openSync(at('mapped'), 'w+');
    sys.ftruncate(fd, 8192);
    const memory = sys.mapShared(fd, 8192);
    assert.ok(typeof memory !== 'number');
    const numbers = new Uint32Array(memory);
    let n = 0;
    for (; going; n++) {
      Atomics.store(numbers, 0, n);
      Atomics.store(numbers, 1024, n);
      up();
      await rest(1);
    }
    closeSync(fd);
    assert.equal(readFileSync(at('mapped')).readUInt32LE(4096), n - 1);
  },
  /** Makes a file, writes it with its length, and goes on to the next. */
  async files() {
    let n = 0;
    for (; going; n++) {
      writeFileSync(at(`f${n % 50}`), Buffer.alloc(4 + (n % 5000), `${n}.`));
      up();
      await rest(1);
    }
  },
};

await writers[kind]!();
