/** Notes of any length are read as they were written. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { dropStagedNote, putNote, readNote, removeNote, stageNote } from './note.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-note-'));
const path = join(dir, 'a.note');
after(() => rmSync(dir, { recursive: true, force: true }));

test('a note is there when it is put, whole, and leaves nothing', () => {
  for (const length of [1, 1000, 1023, 1024, 4095, 4096, 50_000]) {
    const text = 'ä1'.repeat(length).slice(0, length);
    stageNote(path, text);
    assert.deepEqual(
      readdirSync(dir).filter((name) => !name.startsWith('.')),
      [],
    );
    putNote(path);
    assert.equal(readNote(path), text);
    removeNote(path);
    assert.deepEqual(readdirSync(dir), []);
  }
  stageNote(path, 'x'.repeat(9000));
  dropStagedNote(path);
  assert.deepEqual(readdirSync(dir), []);
});
