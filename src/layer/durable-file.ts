/** Writing one file so that a crash at any instant leaves the old one or the new one, whole: temporary, fsync, rename, fsync the directory. */
import { closeSync, fsyncSync, openSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { asStrataError } from '../base/index.ts';

let counter = 0;

/** Replaces `file` by `bytes`. Throws IO or NO_SPACE; then the old file is unchanged. */
export function writeFileDurably(file: string, bytes: Uint8Array | string, mode = 0o644): void {
  const temporary = join(dirname(file), `.tmp-${basename(file)}-${process.pid}-${counter++}`);
  try {
    const fd = openSync(temporary, 'wx', mode);
    try {
      writeFileSync(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, file);
  } catch (error) {
    try {
      unlinkSync(temporary);
    } catch {
      // Never made, or gone.
    }
    throw asStrataError(error);
  }
  syncDirectory(dirname(file));
}

/** fsync of a directory: renames in it survive a power loss. */
export function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } catch (error) {
    throw asStrataError(error);
  } finally {
    closeSync(fd);
  }
}
