import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { runPoolJob } from './jobs.ts';

test('copies keep content, length and holes; ranges end where the source ends', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-fuse-pool-'));
  try {
    const from = openSync(join(dir, 'from'), 'w+');
    writeSync(from, 'head', 0);
    writeSync(from, Buffer.alloc(3_000_000, 'middle'), 0, 3_000_000, 50_000_000);
    ftruncateSync(from, 400_000_000);
    const to = openSync(join(dir, 'to'), 'w+');
    // biome-ignore lint/suspicious/noThenProperty: the contract's field
    const job = { kind: 'copy-data', then: 'retry', fromFd: from, toFd: to, sizeBytes: 400_000_000 } as const;
    assert.equal(await runPoolJob(job), 0);
    execFileSync('cmp', [join(dir, 'from'), join(dir, 'to')]);
    assert.ok(statSync(join(dir, 'to')).blocks * 512 < 8_000_000, 'the holes stay holes');
    writeFileSync(join(dir, 'small'), 'abcdef');
    const small = openSync(join(dir, 'small'), 'r');
    const part = openSync(join(dir, 'part'), 'w+');
    const range = {
      kind: 'copy-range',
      // biome-ignore lint/suspicious/noThenProperty: the contract's field
      then: 'reply',
      fromFd: small,
      fromOffset: 2,
      toFd: part,
      toOffset: 1,
      sizeBytes: 100,
    } as const;
    assert.equal(await runPoolJob(range), 4);
    assert.equal(readFileSync(join(dir, 'part'), 'latin1'), '\0cdef');
    assert.equal(await runPoolJob({ ...range, fromFd: 999_999 }), -9);
    // Between file systems, where the kernel may not copy by itself.
    const proc = openSync('/proc/self/status', 'r');
    assert.ok((await runPoolJob({ ...range, fromFd: proc, fromOffset: 0, toOffset: 0 })) > 0);
    for (const fd of [from, to, small, part, proc]) closeSync(fd);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
