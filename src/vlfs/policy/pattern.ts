/**
 * The patterns of a policy: those of gitignore, on bytes, without '!', because a policy only excludes.
 *   NAME            at any depth: a pattern without '/' but at its end
 *   DIR/NAME, /NAME from the root
 *   *  ?  [a-z]     within one name, a leading dot too; [!a] all but a; a backslash takes the next byte as it is
 *   **              as a whole part, any number of directories; at the end, all that is in the directory but not the directory
 *   DIR/            directories only
 * What matches is excluded with all below it. Matching a name takes time linear in pattern and name, and no memory.
 */
import { LIMITS, nameFromText, StrataError } from '../../base/index.ts';

/** One part of a pattern, between slashes. */
export type Part =
  | { kind: 'literal'; name: string }
  | { kind: 'glob'; glob: readonly Piece[] }
  | { kind: 'any-depth' };

/** One place of a glob: a byte, one byte of a class, or any number of bytes. */
export type Piece = { byte: number } | { set: Uint8Array } | { star: true };

export interface Pattern {
  text: string;
  parts: readonly Part[];
  directoriesOnly: boolean;
}

function refuse(text: string, why: string): StrataError {
  return new StrataError('USAGE', `the pattern ${JSON.stringify(text)} ${why}`, {
    hint: 'patterns are those of .gitignore without "!": /etc/ssh/*_key, **/.env, .aws/',
  });
}

/** Reads a pattern. Throws USAGE for one that is none. */
export function parsePattern(text: string): Pattern {
  if (text.includes('\0')) throw refuse(text, 'holds a NUL');
  if (text.startsWith('!')) throw refuse(text, 'begins with "!": a policy only excludes');
  const bytes: string = nameFromText(text);
  if (bytes.length > LIMITS.pathBytes) throw refuse(text, `is longer than ${LIMITS.pathBytes} bytes`);
  const directoriesOnly = bytes.endsWith('/');
  const body = bytes.replace(/\/+$/, '');
  const anchored = body.replace(/^\/+/, '').includes('/') || body.startsWith('/');
  const names = body.split('/').filter((part) => part !== '');
  if (names.length === 0) throw refuse(text, 'excludes nothing, or all');
  if (names.some((part) => part === '.' || part === '..')) throw refuse(text, 'has a part "." or ".."');
  const parts: Part[] = anchored ? [] : [{ kind: 'any-depth' }];
  for (const name of names) {
    const part = partOf(text, name);
    if (part.kind !== 'any-depth' || parts.at(-1)?.kind !== 'any-depth') parts.push(part);
  }
  if (parts.at(-1)!.kind === 'any-depth') {
    if (parts.length === 1) throw refuse(text, 'excludes everything');
    parts.push({ kind: 'glob', glob: [{ star: true }] });
  }
  return { text, parts, directoriesOnly };
}

/** The pattern that matches one path only. */
export function exactPattern(path: string): string {
  const escaped = path.replace(/[\\*?[\]!]/g, (character) => `\\${character}`);
  return escaped.startsWith('/') ? escaped : `/${escaped}`;
}

function partOf(text: string, name: string): Part {
  if (name === '**') return { kind: 'any-depth' };
  const glob: Piece[] = [];
  let literal = '';
  for (let i = 0; i < name.length; i++) {
    const character = name[i]!;
    if (character === '*') {
      if (!(glob.at(-1) && 'star' in glob.at(-1)!)) glob.push({ star: true });
      continue;
    }
    if (character === '?') glob.push({ set: new Uint8Array(256).fill(1) });
    else if (character === '[') {
      const { set, next } = classAt(text, name, i);
      glob.push({ set });
      i = next;
    } else {
      if (character === '\\') {
        i++;
        if (i === name.length) throw refuse(text, 'ends with a backslash');
      }
      glob.push({ byte: name.charCodeAt(i) });
      literal += name[i];
    }
  }
  return glob.every((piece) => 'byte' in piece) ? { kind: 'literal', name: literal } : { kind: 'glob', glob };
}

/** The class that begins at `at`; `next` is its closing bracket. */
function classAt(text: string, name: string, at: number): { set: Uint8Array; next: number } {
  const set = new Uint8Array(256);
  let i = at + 1;
  const negated = name[i] === '!' || name[i] === '^';
  if (negated) i++;
  for (let first = true; first || name[i] !== ']'; first = false) {
    if (i >= name.length) throw refuse(text, 'has a "[" without "]"');
    const low = byteOfClass(name, i);
    i = low.next;
    let high = low.byte;
    if (name[i] === '-' && i + 1 < name.length && name[i + 1] !== ']') {
      const end = byteOfClass(name, i + 1);
      high = end.byte;
      i = end.next;
    }
    for (let byte = low.byte; byte <= high; byte++) set[byte] = 1;
  }
  if (negated) for (let byte = 0; byte < 256; byte++) set[byte] = 1 - set[byte]!;
  return { set, next: i };
}

function byteOfClass(name: string, at: number): { byte: number; next: number } {
  const escaped = name[at] === '\\' && at + 1 < name.length;
  return { byte: name.charCodeAt(escaped ? at + 1 : at), next: escaped ? at + 2 : at + 1 };
}

/** Whether a glob matches a whole name. One star is tried again at a time, so the time is at most the product of both lengths. */
export function matchesGlob(glob: readonly Piece[], name: string): boolean {
  let piece = 0;
  let at = 0;
  let star = -1;
  let resume = 0;
  while (at < name.length) {
    const wanted = glob[piece];
    if (wanted !== undefined && 'star' in wanted) {
      star = piece++;
      resume = at;
    } else if (wanted !== undefined && matchesByte(wanted, name.charCodeAt(at))) {
      piece++;
      at++;
    } else if (star >= 0) {
      piece = star + 1;
      at = ++resume;
    } else return false;
  }
  while (piece < glob.length && 'star' in glob[piece]!) piece++;
  return piece === glob.length;
}

function matchesByte(piece: Exclude<Piece, { star: true }>, byte: number): boolean {
  return 'byte' in piece ? piece.byte === byte : piece.set[byte] === 1;
}
