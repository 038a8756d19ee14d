/**
 * Depth does not cost: behind a line of many clones that were never merged, every operation makes the system calls, and asks the indexes of levels as often,
 * as behind one clone. Counted, so it does not matter how fast the machine is.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);
const CHILD = join(import.meta.dirname, 'test-support/depth-child.test-support.ts');
/** What allocation and collections of garbage do. */
const NOT_OURS = /^(?:madvise|mmap|munmap|mprotect|futex|brk|sched_|clock_|epoll_|rt_sig)/;

interface Counts {
  asked: Record<string, number>;
  calls: Record<string, number>;
  faults: unknown[];
}

async function countsAt(depth: number): Promise<Counts> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-depth-'));
  try {
    const log = join(dir, 'log');
    const node = [process.execPath, '--disable-warning=ExperimentalWarning', CHILD, String(depth)];
    const { stdout } = await run('strace', ['-qq', '-o', log, '-s', '64', ...node]);
    const counts = JSON.parse(stdout) as Pick<Counts, 'asked' | 'faults'>;
    return { ...counts, calls: callsIn(readFileSync(log, 'latin1')) };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

function callsIn(log: string): Record<string, number> {
  const calls: Record<string, number> = {};
  let operation: string | null = null;
  for (const line of log.split('\n')) {
    const began = /^write\(\d+, "operation (.*)\\n"/.exec(line);
    if (began !== null) operation = began[1] === 'end' ? null : began[1]!;
    else if (operation !== null && /^[a-z0-9_]+\(/.test(line) && !NOT_OURS.test(line))
      calls[operation] = (calls[operation] ?? 0) + 1;
  }
  return calls;
}

test('operations behind 300 clones cost what they cost behind one', { timeout: 300_000 }, async () => {
  const one = await countsAt(7);
  const deep = await countsAt(300);
  assert.deepEqual(one.faults, []);
  assert.ok(one.calls['unlink what is frozen']! > 0, 'system calls are seen');
  assert.deepEqual(deep.calls, one.calls);
  assert.deepEqual(deep.asked, one.asked);
});
