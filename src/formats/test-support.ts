/** What the tests of formats/ share: byte streams from buffers, archives read whole, temporary directories. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AT_FDCWD, close, fsetxattr, O_RDONLY, openat } from '../sys/index.ts';
import type { ArchiveEntry, ArchiveItem } from './contract.ts';

/** The buffer as a stream of pieces of `pieceBytes`. */
export async function* stream(bytes: Uint8Array, pieceBytes = 65536): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < bytes.length; i += pieceBytes) yield bytes.subarray(i, i + pieceBytes);
}

export async function readWhole(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts);
}

/** All entries with their stored data. */
export async function readItems(
  items: AsyncIterable<ArchiveItem>,
): Promise<{ entry: ArchiveEntry; bytes: Buffer }[]> {
  const all: { entry: ArchiveEntry; bytes: Buffer }[] = [];
  for await (const { entry, data } of items) all.push({ entry, bytes: await readWhole(data) });
  return all;
}

/** Runs `body` with a fresh directory, which is gone afterwards. */
export async function withDirectory<T>(body: (dir: string) => Promise<T> | T): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'strata-formats-'));
  try {
    return await body(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Sets an extended attribute to the bytes that `hex` spells. */
export function setXattr(path: string, name: string, hex: string): void {
  const fd = openat(AT_FDCWD, path, O_RDONLY);
  assert.ok(fd >= 0, path);
  try {
    assert.equal(fsetxattr(fd, name, Buffer.from(hex, 'hex')), 0, `${path} ${name}`);
  } finally {
    close(fd);
  }
}
