/**
 * Reads exact numbers of bytes from a stream of chunks, knows the offset, and never holds more than one chunk plus what was
 * asked for. The archive readers stand on it. A source that ends too early is a FormatError with the offset.
 */
import { FormatError, StrataError } from '../base/index.ts';

const EMPTY = Buffer.alloc(0);

export class ByteReader {
  readonly format: string;
  /** Bytes given out so far. */
  offset = 0;
  private readonly source: AsyncIterator<Uint8Array>;
  private chunk: Buffer = EMPTY;
  private pos = 0;
  private ended = false;

  constructor(source: AsyncIterable<Uint8Array>, format: string) {
    this.source = source[Symbol.asyncIterator]();
    this.format = format;
  }

  /** Makes at least one byte available; false at the end of the source. */
  private async more(): Promise<boolean> {
    while (this.pos >= this.chunk.length) {
      if (this.ended) return false;
      const { value, done } = await this.source.next();
      if (done) {
        this.ended = true;
        return false;
      }
      this.chunk = Buffer.isBuffer(value)
        ? value
        : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
      this.pos = 0;
    }
    return true;
  }

  private truncated(missing: number, what: string): FormatError {
    return new FormatError(this.format, this.offset, `it ends ${missing} bytes before the end of ${what}`, {
      hint: 'the file is truncated or damaged; get it again',
    });
  }

  /** Whether the source has no more bytes. */
  async atEnd(): Promise<boolean> {
    return !(await this.more());
  }

  /** Exactly `length` bytes (the caller has bounded it). The result must not be changed; it may be kept. */
  async read(length: number, what: string): Promise<Buffer> {
    if (this.pos + length <= this.chunk.length) {
      const piece = this.chunk.subarray(this.pos, this.pos + length);
      this.pos += length;
      this.offset += length;
      return piece;
    }
    const out = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      if (!(await this.more())) throw this.truncated(length - filled, what);
      const n = Math.min(length - filled, this.chunk.length - this.pos);
      this.chunk.copy(out, filled, this.pos, this.pos + n);
      this.pos += n;
      this.offset += n;
      filled += n;
    }
    return out;
  }

  /** As read, but fewer bytes when the source ends before. */
  async readUpTo(length: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    let filled = 0;
    while (filled < length && (await this.more())) {
      const n = Math.min(length - filled, this.chunk.length - this.pos);
      parts.push(this.chunk.subarray(this.pos, this.pos + n));
      this.pos += n;
      this.offset += n;
      filled += n;
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** The next piece that is at hand, at most `length` > 0 bytes. */
  async readSome(length: number, what: string): Promise<Buffer> {
    if (!(await this.more())) throw this.truncated(length, what);
    const n = Math.min(length, this.chunk.length - this.pos);
    const piece = this.chunk.subarray(this.pos, this.pos + n);
    this.pos += n;
    this.offset += n;
    return piece;
  }

  async skip(length: number, what: string): Promise<void> {
    for (let left = length; left > 0; ) left -= (await this.readSome(left, what)).length;
  }

  /** Reads to the end, so that a decoder below checks its last checksum. */
  async drain(): Promise<void> {
    while (await this.more()) {
      this.offset += this.chunk.length - this.pos;
      this.pos = this.chunk.length;
    }
  }

  /** Lets the source go. */
  async close(): Promise<void> {
    this.ended = true;
    this.chunk = EMPTY;
    this.pos = 0;
    await this.source.return?.();
  }
}

/** A stretch of a reader's bytes, given to a consumer as an async iterable; the owner skips what is left before it goes on. */
export interface Stretch {
  data: AsyncIterable<Uint8Array>;
  /** Skips what was not read and ends `data`. */
  finish(): Promise<void>;
}

/** The next `length` bytes of `reader`, then `padding` bytes that only finish() passes over. */
export function stretch(reader: ByteReader, length: number, padding: number, what: string): Stretch {
  let left = length;
  let open = true;
  async function* data(): AsyncGenerator<Uint8Array> {
    while (left > 0) {
      if (!open) throw new Error(`${what} is read after the next entry was asked for`);
      const piece = await reader.readSome(left, what);
      left -= piece.length;
      yield piece;
    }
  }
  return {
    data: data(),
    async finish() {
      open = false;
      const rest = left + padding;
      left = 0;
      await reader.skip(rest, what);
    },
  };
}

/** All bytes of a stream, at most `maxBytes`; more is LIMIT. */
export async function collect(
  source: AsyncIterable<Uint8Array>,
  maxBytes: number,
  what: string,
): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of source) {
    total += part.length;
    if (total > maxBytes) throw new StrataError('LIMIT', `${what} is larger than ${maxBytes} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts, total);
}
