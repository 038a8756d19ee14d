/**
 * The order of Debian versions, exactly as dpkg's lib/dpkg/version.c has it: epoch, then upstream version, then revision;
 * '~' sorts before the end of a part, letters before other characters, runs of digits by value (any length).
 * Works on char codes and allocates nothing: the resolver calls it millions of times. Never throws: a malformed
 * version still has a place in a total preorder.
 */
import type { Relation } from './contract.ts';

const COLON = 58;
const DASH = 45;
const TILDE = 126;

function isDigit(c: number): boolean {
  return c >= 48 && c <= 57;
}

/** dpkg's order() of one character outside a run of digits; 0 is a digit or the end of the part. */
function weight(c: number): number {
  if (isDigit(c)) return 0;
  if ((c >= 65 && c <= 90) || (c >= 97 && c <= 122)) return c;
  if (c === TILDE) return -1;
  return c + 256;
}

/** Position of the upstream version: after `EPOCH:` when what precedes the first colon is a number, else 0. */
function upstreamStart(version: string): number {
  for (let i = 0; i < version.length; i++) {
    const c = version.charCodeAt(i);
    if (c === COLON) return i === 0 ? 0 : i + 1;
    if (!isDigit(c)) return 0;
  }
  return 0;
}

/** Position of the last '-' at or after `from`, or the length: where the upstream version ends. */
function upstreamEnd(version: string, from: number): number {
  for (let i = version.length - 1; i >= from; i--) if (version.charCodeAt(i) === DASH) return i;
  return version.length;
}

/** Compares two digit strings of any length by value. */
function compareDigits(a: string, aEnd: number, b: string, bEnd: number): number {
  let i = 0;
  let j = 0;
  while (i < aEnd && a.charCodeAt(i) === 48) i++;
  while (j < bEnd && b.charCodeAt(j) === 48) j++;
  if (aEnd - i !== bEnd - j) return aEnd - i - (bEnd - j);
  for (; i < aEnd; i++, j++) {
    const difference = a.charCodeAt(i) - b.charCodeAt(j);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** dpkg's verrevcmp() over a[i, aEnd) and b[j, bEnd). */
function comparePart(a: string, i: number, aEnd: number, b: string, j: number, bEnd: number): number {
  while (i < aEnd || j < bEnd) {
    let firstDifference = 0;
    while ((i < aEnd && !isDigit(a.charCodeAt(i))) || (j < bEnd && !isDigit(b.charCodeAt(j)))) {
      const x = i < aEnd ? weight(a.charCodeAt(i)) : 0;
      const y = j < bEnd ? weight(b.charCodeAt(j)) : 0;
      if (x !== y) return x - y;
      i++;
      j++;
    }
    while (i < aEnd && a.charCodeAt(i) === 48) i++;
    while (j < bEnd && b.charCodeAt(j) === 48) j++;
    for (;;) {
      const moreA = i < aEnd && isDigit(a.charCodeAt(i));
      const moreB = j < bEnd && isDigit(b.charCodeAt(j));
      if (!moreA || !moreB) {
        if (moreA) return 1;
        if (moreB) return -1;
        break;
      }
      if (firstDifference === 0) firstDifference = a.charCodeAt(i) - b.charCodeAt(j);
      i++;
      j++;
    }
    if (firstDifference !== 0) return firstDifference;
  }
  return 0;
}

/** Negative, zero or positive as `a` sorts before, with or after `b`. Versions that differ in text may be equal (`1.0` and `1.00`). */
export function compareVersions(a: string, b: string): number {
  if (a === b) return 0;
  const aStart = upstreamStart(a);
  const bStart = upstreamStart(b);
  if (aStart !== 0 || bStart !== 0) {
    const epochs = compareDigits(a, aStart === 0 ? 0 : aStart - 1, b, bStart === 0 ? 0 : bStart - 1);
    if (epochs !== 0) return epochs;
  }
  const aEnd = upstreamEnd(a, aStart);
  const bEnd = upstreamEnd(b, bStart);
  const upstream = comparePart(a, aStart, aEnd, b, bStart, bEnd);
  if (upstream !== 0) return upstream;
  const aRevision = aEnd < a.length ? aEnd + 1 : aEnd;
  const bRevision = bEnd < b.length ? bEnd + 1 : bEnd;
  return comparePart(a, aRevision, a.length, b, bRevision, b.length);
}

/** Whether `version` stands in the relation `op` to `wanted`, e.g. satisfies('1.2', '>=', '1.0'). */
export function satisfies(version: string, op: NonNullable<Relation['op']>, wanted: string): boolean {
  const order = compareVersions(version, wanted);
  switch (op) {
    case '<<':
      return order < 0;
    case '<=':
      return order <= 0;
    case '=':
      return order === 0;
    case '>=':
      return order >= 0;
    case '>>':
      return order > 0;
  }
}
