/**
 * Names and paths are byte strings on Linux. Inside Strata they are latin1 strings (type Name); UTF-8 text
 * exists only at the edges (CLI, JSON), converted by these functions.
 */
import type { Name } from './brand.ts';

/** UTF-8 text from a user or a JSON document to a Name. */
export function nameFromText(text: string): Name {
  return Buffer.from(text, 'utf8').toString('latin1') as Name;
}

/** A backslash that would read as the beginning of a printed byte. */
const AMBIGUOUS = /\\(?=x[0-9a-f]{2})/g;

/**
 * A Name as text for people and JSON; bytes that are not UTF-8 and control characters become \xNN, and so does a backslash before such a sequence:
 * nameFromPrinted gives the Name back.
 */
export function nameToText(name: string): string {
  const bytes = Buffer.from(name.replace(AMBIGUOUS, '\\x5c'), 'latin1');
  const text = bytes.toString('utf8');
  if (!text.includes('�') && !/[\x00-\x1f\x7f]/.test(text)) return text;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let out = '';
  for (let i = 0; i < bytes.length; ) {
    const b = bytes[i]!;
    const length = b < 0x80 ? 1 : b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc2 ? 2 : 1;
    try {
      const piece = decoder.decode(bytes.subarray(i, i + length));
      out += /[\x00-\x1f\x7f]/.test(piece) ? `\\x${b.toString(16).padStart(2, '0')}` : piece;
      i += length;
    } catch {
      out += `\\x${b.toString(16).padStart(2, '0')}`;
      i += 1;
    }
  }
  return out;
}

/** The Name that nameToText printed, from what a user typed: \xNN of a byte that it prints so becomes that byte. */
export function nameFromPrinted(text: string): Name {
  const bytes = nameFromText(text).replace(/\\x([0-9a-f]{2})/g, (whole, hex: string) => {
    const byte = Number.parseInt(hex, 16);
    const isPrintedSo = (byte > 0 && byte < 0x20) || byte === 0x5c || byte >= 0x7f;
    return isPrintedSo ? String.fromCharCode(byte) : whole;
  });
  return bytes as Name;
}

/** A Name (latin1) as the bytes the kernel wants. */
export function nameToBuffer(name: string): Buffer {
  return Buffer.from(name, 'latin1');
}

/** Order of Names by their bytes (latin1 code units are bytes). */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
