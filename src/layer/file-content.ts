/**
 * The content of one new file: written and hashed in one pass. Small files take one write and one hash call; large and sparse ones
 * stream in bounded memory. The stream must give exactly the bytes that were promised.
 */
import { createHash, type Hash, hash } from 'node:crypto';
import type { Digest } from '../base/index.ts';
import { FormatError } from '../base/index.ts';
import { ftruncate, pwrite } from '../sys/index.ts';
import { checked } from './checked.ts';
import { turnKeeper } from './give-way.ts';

export interface FileContent {
  sizeBytes: number;
  /** The stored bytes; of a sparse file its extents one after the other. */
  data: AsyncIterable<Uint8Array> | Uint8Array;
  /** Data extents in order; absent: one over the whole file. */
  sparse?: readonly { offset: number; length: number }[];
  /** Compute the MD5 too (for dpkg's conffiles). */
  md5?: boolean;
}

export interface Written {
  sha256: Digest;
  md5?: string;
  /** 512-byte units; only for a sparse file. */
  blocks?: number;
}

const SMALL_BYTES = 1 << 20;
const ZEROS = Buffer.alloc(1 << 18);

/** Writes `content` into the empty file `fd`. Throws FormatError when there are more or fewer bytes than promised. */
export async function writeContent(
  fd: number,
  path: string,
  label: string,
  content: FileContent,
): Promise<Written> {
  if (content.sparse !== undefined) return writeSparse(fd, path, label, content, content.sparse);
  if (content.data instanceof Uint8Array) return writeSmall(fd, path, content.data, content);
  if (content.sizeBytes <= SMALL_BYTES) {
    const bytes = await gather(content.data, content.sizeBytes, path, label);
    return writeSmall(fd, path, bytes, content);
  }
  const sha256 = createHash('sha256');
  const md5 = content.md5 ? createHash('md5') : null;
  const giveWay = turnKeeper();
  let at = 0;
  for await (const piece of content.data) {
    if (at + piece.length > content.sizeBytes) throw wrongSize(path, label, content.sizeBytes);
    sha256.update(piece);
    md5?.update(piece);
    writeAll(fd, piece, at, path);
    at += piece.length;
    const turn = giveWay();
    if (turn !== undefined) await turn;
  }
  if (at !== content.sizeBytes) throw wrongSize(path, label, content.sizeBytes);
  return result(sha256.digest('hex'), md5?.digest('hex'));
}

function result(sha256: string, md5?: string): Written {
  return { sha256: sha256 as Digest, ...(md5 === undefined ? {} : { md5 }) };
}

function wrongSize(path: string, label: string, sizeBytes: number): FormatError {
  return new FormatError(label, 0, `${JSON.stringify(path)} does not have the ${sizeBytes} bytes it says`);
}

function writeAll(fd: number, bytes: Uint8Array, offset: number, path: string): void {
  for (let done = 0; done < bytes.length; ) {
    const rest = done === 0 ? bytes : bytes.subarray(done);
    done += checked(pwrite(fd, rest, rest.length, offset + done), 'write', path);
  }
}

function writeSmall(fd: number, path: string, bytes: Uint8Array, content: FileContent): Written {
  if (bytes.length !== content.sizeBytes) throw wrongSize(path, path, content.sizeBytes);
  if (bytes.length > 0) writeAll(fd, bytes, 0, path);
  return result(hash('sha256', bytes, 'hex'), content.md5 ? hash('md5', bytes, 'hex') : undefined);
}

/** All bytes of a small stream; without a copy when they come in one piece. */
async function gather(
  data: AsyncIterable<Uint8Array>,
  size: number,
  path: string,
  label: string,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  if (size === 0) return ZEROS.subarray(0, 0);
  for await (const piece of data) {
    length += piece.length;
    if (length > size) throw wrongSize(path, label, size);
    // A stream may use its buffer again for its next piece; the last one is written before that is asked for.
    pieces.push(length === size ? piece : Buffer.from(piece));
    if (length === size) break;
  }
  if (length !== size) throw wrongSize(path, label, size);
  return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, length);
}

/** Hashes of the whole content, holes included. */
class SparseHash {
  readonly sha256: Hash = createHash('sha256');
  readonly md5: Hash | null;
  #at = 0;

  constructor(md5: boolean) {
    this.md5 = md5 ? createHash('md5') : null;
  }

  add(bytes: Uint8Array): void {
    this.sha256.update(bytes);
    this.md5?.update(bytes);
    this.#at += bytes.length;
  }

  async zerosUpTo(offset: number): Promise<void> {
    const giveWay = turnKeeper();
    while (this.#at < offset) {
      this.add(ZEROS.subarray(0, Math.min(ZEROS.length, offset - this.#at)));
      await giveWay();
    }
  }
}

async function writeSparse(
  fd: number,
  path: string,
  label: string,
  content: FileContent,
  extents: readonly { offset: number; length: number }[],
): Promise<Written> {
  let end = 0;
  let pages = 0;
  for (const { offset, length } of extents) {
    if (offset < end || length < 0 || offset + length > content.sizeBytes) {
      throw new FormatError(label, 0, `${JSON.stringify(path)} has impossible sparse extents`);
    }
    end = offset + length;
    if (length > 0) pages += Math.ceil(end / 4096) - Math.floor(offset / 4096);
  }
  checked(ftruncate(fd, content.sizeBytes), 'ftruncate', path);
  const hashes = new SparseHash(content.md5 ?? false);
  const data = content.data instanceof Uint8Array ? [content.data] : content.data;
  let extent = 0;
  let inExtent = 0;
  for await (const piece of data) {
    for (let at = 0; at < piece.length; ) {
      while (extent < extents.length && inExtent === extents[extent]!.length) {
        extent++;
        inExtent = 0;
      }
      const current = extents[extent];
      if (current === undefined) throw wrongSize(path, label, content.sizeBytes);
      const part = piece.subarray(at, at + Math.min(piece.length - at, current.length - inExtent));
      await hashes.zerosUpTo(current.offset + inExtent);
      hashes.add(part);
      writeAll(fd, part, current.offset + inExtent, path);
      inExtent += part.length;
      at += part.length;
    }
  }
  const complete = extents.every(
    ({ length }, i) => i < extent || (i === extent ? inExtent === length : length === 0),
  );
  if (!complete) throw wrongSize(path, label, content.sizeBytes);
  await hashes.zerosUpTo(content.sizeBytes);
  const blocks = Math.min(pages, Math.ceil(content.sizeBytes / 4096)) * 8;
  return { ...result(hashes.sha256.digest('hex'), hashes.md5?.digest('hex')), blocks };
}
