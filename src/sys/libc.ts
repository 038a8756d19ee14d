/**
 * The C library through koffi, and the two conventions every call here keeps: it returns its result or a negative errno (never
 * throws), and names and paths are latin1 strings (one character a byte) without NUL. Only this folder imports koffi.
 */
import koffi from 'koffi';

export const libc = koffi.load('libc.so.6');

/** The negative errno of the call that just returned -1. */
export function failed(): number {
  return -koffi.errno();
}

/** result >= 0, or the negative errno. */
export function orErrno(result: number): number {
  return result < 0 ? -koffi.errno() : result;
}

/** Scratch buffers for names: one system call uses at most two; calls are synchronous, so they never overlap within a thread. */
const scratchA = Buffer.alloc(8192);
const scratchB = Buffer.alloc(8192);

/** Up to this length a loop is faster than a call into Node. */
const SHORT = 64;

function intoScratch(scratch: Buffer, text: string): Buffer {
  const { length } = text;
  if (length >= scratch.length) return terminated(text);
  if (length > SHORT) scratch.latin1Write(text, 0);
  else for (let i = 0; i < length; i++) scratch[i] = text.charCodeAt(i);
  scratch[length] = 0;
  return scratch;
}

/** A NUL-terminated copy of a latin1 string in the first scratch buffer; valid until the next call of a function of sys. */
export function cstr(text: string): Buffer {
  return intoScratch(scratchA, text);
}

/**
 * Where a long-lived buffer lies: koffi passes a number in half the time that it takes to find out what a buffer is. Such a buffer must stay
 * referenced and be larger than 64 bytes (smaller ones may move).
 */
export function addressOf(buffer: Uint8Array): number {
  return Number(koffi.address(buffer));
}

const scratchAddress = addressOf(scratchA);
let longText: Buffer | null = null;

/** As cstr: where the copy is. */
export function cstrAddress(text: string): number {
  const copy = cstr(text);
  if (copy === scratchA) return scratchAddress;
  longText = copy;
  return addressOf(longText);
}

/** As cstr, in the second scratch buffer, for calls with two names. */
export function cstr2(text: string): Buffer {
  return intoScratch(scratchB, text);
}

/** A NUL-terminated copy of its own. */
export function terminated(text: string): Buffer {
  const bytes = Buffer.alloc(text.length + 1);
  bytes.latin1Write(text, 0);
  return bytes;
}
