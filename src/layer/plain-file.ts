/**
 * Reading the files of a repository, where others may write: only plain files of bounded size, not what a link leads to, and never a pipe, for which a
 * thread would wait for ever.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { FormatError, LIMITS } from '../base/index.ts';

const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW;

/** A descriptor for reading, which the caller closes. Throws the system's error, FormatError for what is not a plain file. */
export function openPlainFile(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, FLAGS);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ELOOP' || code === 'ENXIO') throw notPlain(path);
    throw error;
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw notPlain(path);
}

/** Its content. Throws as openPlainFile, and FormatError for more than `mostBytes`. */
export function readPlainFile(path: string, mostBytes: number = LIMITS.controlBytes): Buffer {
  const fd = openPlainFile(path);
  try {
    if (fstatSync(fd).size > mostBytes) throw new FormatError(path, 0, `is larger than ${mostBytes} bytes`);
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}

function notPlain(path: string): FormatError {
  return new FormatError(path, 0, 'is not a plain file');
}
