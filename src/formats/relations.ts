/**
 * Relations between layer units, in Debian's syntax (Debian Policy 7.1; the paper's figure 5):
 * `a (>= 1) | b:any, c [amd64 !i386] <!nocheck>`. Build profiles and, unless an architecture is given,
 * architecture lists are read and passed over. One scan over char codes: an archive has 200,000 of these.
 */
import { FormatError } from '../base/index.ts';
import type { Alternatives, Relation } from './contract.ts';

export interface ParseRelationsOptions {
  /** Leave out what an architecture list like `[amd64]` or `[!amd64]` says is not for this architecture. */
  architecture?: string;
}

type Operator = NonNullable<Relation['op']>;
/** Includes the obsolete `<` and `>`, which dpkg reads as `<=` and `>=`. */
const OPERATORS: Record<string, Operator> = {
  '<<': '<<',
  '<=': '<=',
  '=': '=',
  '>=': '>=',
  '>>': '>>',
  '<': '<=',
  '>': '>=',
};

function isSpace(c: number): boolean {
  return c === 32 || c === 10 || c === 9 || c === 13;
}

/** Letters, digits, '+', '-', '.', '_'. */
function isNameChar(c: number): boolean {
  return (
    (c >= 97 && c <= 122) ||
    (c >= 48 && c <= 57) ||
    c === 45 ||
    c === 46 ||
    c === 43 ||
    (c >= 65 && c <= 90) ||
    c === 95
  );
}

function fail(text: string, offset: number, what: string): never {
  const near = text.slice(Math.max(0, offset - 10), offset + 20);
  throw new FormatError('relations', offset, `${what} near ${JSON.stringify(near)}`);
}

/** Whether an architecture list holds for `architecture`; wildcards `any`, `linux-any`, `any-amd64` are understood for Linux. */
function architectureApplies(list: string, architecture: string): boolean {
  const words = list.split(/\s+/).filter(Boolean);
  const matches = (word: string): boolean =>
    word === architecture || word === 'any' || word === 'linux-any' || word === `any-${architecture}`;
  const negative = words.filter((w) => w.startsWith('!')).map((w) => w.slice(1));
  if (negative.length > 0) return !negative.some(matches);
  return words.some(matches);
}

/**
 * Parses a relation field. Empty text gives []; empty members between commas are passed over, as apt and dpkg do.
 * Throws FormatError with the offset of what is wrong.
 */
export function parseRelations(text: string, options: ParseRelationsOptions = {}): Alternatives[] {
  const groups: Alternatives[] = [];
  const end = text.length;
  let group: Alternatives = [];
  let pos = 0;
  let afterBar = false;

  const skipSpaces = (): void => {
    while (pos < end && isSpace(text.charCodeAt(pos))) pos++;
  };

  for (;;) {
    skipSpaces();
    if (pos >= end || text.charCodeAt(pos) === 44 /* , */) {
      if (afterBar) fail(text, pos, 'an alternative is missing after |');
      if (group.length > 0) groups.push(group);
      group = [];
      if (pos >= end) return groups;
      pos++;
      continue;
    }
    let start = pos;
    while (pos < end && isNameChar(text.charCodeAt(pos))) pos++;
    if (pos === start) fail(text, pos, 'a layer name is expected');
    const relation: Relation = { name: text.slice(start, pos) };
    let applies = true;

    if (pos < end && text.charCodeAt(pos) === 58 /* : */) {
      start = ++pos;
      while (pos < end && isNameChar(text.charCodeAt(pos))) pos++;
      if (pos === start) fail(text, pos, 'an architecture is expected after :');
      relation.arch = text.slice(start, pos);
    }
    skipSpaces();
    if (pos < end && text.charCodeAt(pos) === 40 /* ( */) {
      pos++;
      skipSpaces();
      start = pos;
      while (pos < end && text.charCodeAt(pos) >= 60 && text.charCodeAt(pos) <= 62) pos++;
      const op = OPERATORS[text.slice(start, pos)];
      if (op === undefined) fail(text, start, 'an operator << <= = >= >> is expected');
      skipSpaces();
      start = pos;
      while (pos < end && text.charCodeAt(pos) !== 41 && !isSpace(text.charCodeAt(pos))) pos++;
      if (pos === start) fail(text, pos, 'a version is expected');
      const version = text.slice(start, pos);
      skipSpaces();
      if (pos >= end || text.charCodeAt(pos) !== 41 /* ) */) fail(text, pos, ') is expected');
      pos++;
      relation.op = op;
      relation.version = version;
      skipSpaces();
    }
    if (pos < end && text.charCodeAt(pos) === 91 /* [ */) {
      const close = text.indexOf(']', pos);
      if (close === -1) fail(text, pos, '] is missing');
      if (options.architecture !== undefined)
        applies = architectureApplies(text.slice(pos + 1, close), options.architecture);
      pos = close + 1;
      skipSpaces();
    }
    while (pos < end && text.charCodeAt(pos) === 60 /* < */) {
      const close = text.indexOf('>', pos);
      if (close === -1) fail(text, pos, '> is missing');
      pos = close + 1;
      skipSpaces();
    }
    if (applies) group.push(relation);
    afterBar = false;
    if (pos >= end) continue;
    const separator = text.charCodeAt(pos);
    if (separator === 124 /* | */) {
      afterBar = true;
      pos++;
    } else if (separator !== 44) fail(text, pos, ', or | is expected');
  }
}

/** One relation as text: `name:arch (op version)`. */
export function formatRelation(relation: Relation): string {
  const name = relation.arch === undefined ? relation.name : `${relation.name}:${relation.arch}`;
  return relation.op === undefined ? name : `${name} (${relation.op} ${relation.version})`;
}

/** The inverse of parseRelations. */
export function formatRelations(groups: readonly Alternatives[]): string {
  return groups.map((group) => group.map(formatRelation).join(' | ')).join(', ');
}
