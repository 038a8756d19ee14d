/** Types of two fast Buffer methods that Node has always had and @types/node leaves out. */
declare global {
  interface Buffer<TArrayBuffer extends ArrayBufferLike = ArrayBufferLike> {
    /** toString('latin1', start, end) without the argument checks. */
    latin1Slice(start?: number, end?: number): string;
    /** write(text, offset, length, 'latin1'); returns the bytes written. */
    latin1Write(text: string, offset?: number, length?: number): number;
  }
}

export {};
