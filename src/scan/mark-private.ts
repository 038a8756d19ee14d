/**
 * After contents went into quarantine: marks every private and frozen file that has one of them, and takes marks away from files that have
 * another content now. Only files of the size of such a content are read.
 */

import { createHash } from 'node:crypto';
import { setImmediate as breathe } from 'node:timers/promises';
import type { Digest, Progress } from '../base/index.ts';
import * as sys from '../sys/index.ts';
import { QUARANTINE_XATTR } from '../vlfs/index.ts';
import type { MarkJob, MarkResult } from './contract.ts';
import { markFile } from './marks.ts';
import { verdictFile } from './run-scan.ts';
import { openVerdictStore } from './store.ts';
import { walkedFiles } from './walk.ts';

const BREATH = 512;

export async function markPrivate(job: MarkJob, progress: Progress): Promise<MarkResult> {
  const store = openVerdictStore(verdictFile(job.dir), { kind: 'mark', stamp: 'mark' });
  const digests = new Set(job.contents.map(({ digest }) => digest));
  const sizes = new Set(job.contents.map(({ bytes }) => bytes));
  const result: MarkResult = { marked: 0, failed: [] };
  try {
    let looked = 0;
    for (const [at, dir] of job.dirs.entries()) {
      progress({ phase: 'quarantine', message: 'private files', done: at, total: job.dirs.length });
      for (const file of walkedFiles(dir, () => {})) {
        if (++looked % BREATH === 0) await breathe();
        const marked = file.attribute(QUARANTINE_XATTR);
        const mark = typeof marked === 'number' ? null : Buffer.from(marked).toString('latin1');
        const isWanted = sizes.has(file.size) || sizes.has(-1);
        if (!isWanted && (mark === null || !digests.has(mark as Digest))) continue;
        const fd = file.open();
        if (fd < 0) continue;
        try {
          const shown = file.openShown();
          const digest = shown === null ? (store.digestOf(file.stat!) ?? digestOf(fd)) : digestOf(shown);
          if (shown !== null && shown >= 0) sys.close(shown);
          if (digest !== null && digests.has(digest)) {
            const errno = markFile(fd, digest, store);
            if (errno < 0) result.failed.push(`${dir}/${file.path()}: ${sys.errnoName(-errno)}`);
            else result.marked++;
          } else if (mark !== null && digests.has(mark as Digest)) sys.fremovexattr(fd, QUARANTINE_XATTR);
        } finally {
          sys.close(fd);
        }
      }
    }
    return result;
  } finally {
    store.close();
  }
}

const chunk = Buffer.allocUnsafeSlow(1 << 20);

function digestOf(fd: number): Digest | null {
  const digest = createHash('sha256');
  for (let at = 0; ; ) {
    const got = sys.pread(fd, chunk, chunk.length, at);
    if (got < 0) return null;
    if (got === 0) return digest.digest('hex') as Digest;
    digest.update(chunk.subarray(0, got));
    at += got;
  }
}
