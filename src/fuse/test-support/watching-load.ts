/**
 * Programs at work in a mount while it is changed and its server is killed. `node watching-load.ts DIR EXPECTED` gets, as JSON, for each path its
 * content before and after (null: it is not there), and reads them until its stdin ends: each must be the one or the other, and never the
 * former again after the latter. Beside that, unless a third word is `look`, it creates, appends to, renames and deletes in DIR/work, and counts. Prints 'up' when it has begun;
 * any difference is an error on stderr and status 1.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';

type Expected = Record<string, { before: string | null; after: string | null }>;

const [dir, text, what] = process.argv.slice(2) as [string, string, string?];
const expected = JSON.parse(text) as Expected;
let going = true;
process.stdin.on('end', () => {
  going = false;
});
process.stdin.resume();

function content(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOENT', path);
    return null;
  }
}

const changed = new Set<string>();
function look(path: string): void {
  const { before, after } = expected[path]!;
  const now = content(join(dir, path));
  assert.ok(now === after || now === before, `${path}: ${now}`);
  const listed = readdirSync(join(dir, dirname(path))).includes(basename(path));
  if (now === after && before !== after) changed.add(path);
  else assert.ok(!changed.has(path), `${path} is as before again`);
  if (before !== null && after !== null) assert.ok(listed, `${path} is listed`);
}

const work = join(dir, 'work');
const works = what !== 'look';
const log = works ? openSync(join(work, 'open'), 'w+') : -1;
let lines = 0;
function doWork(): void {
  lines++;
  writeSync(log, `${lines}\n`);
  appendFileSync(join(work, 'appended'), `${lines}\n`);
  closeSync(openSync(join(work, 'new'), 'wx'));
  renameSync(join(work, 'new'), join(work, 'renamed'));
  unlinkSync(join(work, 'renamed'));
  assert.equal(existsSync(join(work, 'renamed')), false);
}

const whole = (): string => Array.from({ length: lines }, (_, i) => `${i + 1}\n`).join('');
let told = false;
while (going) {
  for (const path of Object.keys(expected)) look(path);
  if (works) doWork();
  if (!told) console.log('up');
  told = true;
  await breathe();
}
if (works) {
  assert.equal(readFileSync(join(work, 'appended'), 'utf8'), whole());
  assert.equal(readFileSync(join(work, 'open'), 'utf8'), whole());
  closeSync(log);
  unlinkSync(join(work, 'open'));
  unlinkSync(join(work, 'appended'));
}
