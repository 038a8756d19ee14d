/**
 * Layer definition files: the text that lists the layers of a template or an appliance (paper, section 5, figures 2 and 3).
 *   # comment        @template        =repo/layer version   (held)        repo/layer version
 * The first blank line after the first entry divides explicit layers from implicit ones. A document keeps every byte of the
 * lines that are not changed: comments, order, blank lines, spacing. Pure; knows nothing of repositories or files.
 */
import { checkObjectName, checkVersion, LIMITS, StrataError } from '../../base/index.ts';
import type { LdfLine } from '../contract.ts';

export type LdfSection = 'explicit' | 'implicit';

/** A unit line in its pieces; joined again they give the line as it was. */
export interface UnitLine extends LdfLine {
  kind: 'unit';
  indent: string;
  gap: string;
  tail: string;
}

export interface RefLine {
  kind: 'ref';
  indent: string;
  /** As written after '@': `web` or `main/sql-server`. */
  target: string;
  /** The template's name: what stands after the last '/'. */
  template: string;
  tail: string;
}

/** A comment or an empty line. */
export interface OtherLine {
  kind: 'other';
  text: string;
}

export type LdfDocumentLine = UnitLine | RefLine | OtherLine;

export interface Ldf {
  lines: LdfDocumentLine[];
  /** Number of lines that belong to the explicit block (its divider not included). */
  explicitEnd: number;
  /** Whether the text ends with a newline. */
  finalNewline: boolean;
}

const LINE_BYTES = 4096;
const UNIT = /^([ \t]*)(=?)([^\s/@=#][^\s/]*)\/([^\s/]+)([ \t]+)([^\s#]\S*)([ \t]*(?:[ \t]#.*)?\r?)$/;
const REF = /^([ \t]*)@([^\s#]+)([ \t]*(?:[ \t]#.*)?\r?)$/;
const BLANK = /^[ \t]*\r?$/;
const COMMENT = /^[ \t]*#/;

/** Parses an LDF. `source` names it in errors, which say the line. Throws BAD_FORMAT or LIMIT. */
export function parseLdf(text: string, source = 'LDF'): Ldf {
  if (Buffer.byteLength(text) > LIMITS.ldfBytes) {
    throw new StrataError('LIMIT', `${source} is larger than ${LIMITS.ldfBytes} bytes`);
  }
  const finalNewline = text.endsWith('\n');
  const raw = text.split('\n');
  if (finalNewline || text === '') raw.pop();
  const lines: LdfDocumentLine[] = [];
  const seen = new Map<string, number>();
  let explicitEnd = -1;
  let entries = 0;
  for (const [at, line] of raw.entries()) {
    const fail = (what: string, hint?: string): never => {
      throw new StrataError('BAD_FORMAT', `${source}, line ${at + 1}: ${what}`, { hint });
    };
    if (line.length > LINE_BYTES) fail(`longer than ${LINE_BYTES} characters`);
    if (line.includes('\0')) fail('contains a NUL byte');
    if (BLANK.test(line) || COMMENT.test(line)) {
      if (explicitEnd < 0 && entries > 0 && BLANK.test(line)) explicitEnd = at;
      lines.push({ kind: 'other', text: line });
      continue;
    }
    const parsed = parseEntry(line, fail);
    const key = parsed.kind === 'ref' ? `@${parsed.template}` : parsed.layer;
    const before = seen.get(key);
    if (before !== undefined) {
      fail(
        parsed.kind === 'ref'
          ? `refers to ${key} again (first in line ${before})`
          : `layer ${key} is listed twice (first in line ${before}); two units of one layer always conflict`,
      );
    }
    if (parsed.kind === 'ref' && explicitEnd >= 0) {
      fail('a reference stands among the implicit layers', 'move it above the first blank line');
    }
    seen.set(key, at + 1);
    if (++entries > LIMITS.stackLayers) fail(`more than ${LIMITS.stackLayers} layers`);
    lines.push(parsed);
  }
  return { lines, explicitEnd: explicitEnd < 0 ? lines.length : explicitEnd, finalNewline };
}

function parseEntry(line: string, fail: (what: string, hint?: string) => never): UnitLine | RefLine {
  const ref = REF.exec(line);
  if (ref) {
    const target = ref[2]!;
    const template = target.slice(target.lastIndexOf('/') + 1);
    for (const part of target.split('/')) checked(() => checkObjectName('template', part), fail);
    return { kind: 'ref', indent: ref[1]!, target, template, tail: ref[3]! };
  }
  const unit = UNIT.exec(line);
  if (!unit) {
    return fail(
      `cannot read ${JSON.stringify(line.trim().slice(0, 80))}`,
      'write REPOSITORY/LAYER VERSION, =REPOSITORY/LAYER VERSION to hold it, @TEMPLATE, or # and a comment',
    );
  }
  checked(() => checkObjectName('repository', unit[3]!), fail);
  checked(() => checkObjectName('layer', unit[4]!), fail);
  checked(() => checkVersion(unit[6]!), fail);
  return {
    kind: 'unit',
    indent: unit[1]!,
    held: unit[2] === '=',
    repo: unit[3]!,
    layer: unit[4]!,
    gap: unit[5]!,
    version: unit[6]!,
    tail: unit[7]!,
  };
}

function checked(check: () => void, fail: (what: string, hint?: string) => never): void {
  try {
    check();
  } catch (error) {
    if (error instanceof StrataError) fail(error.message, error.hint);
    throw error;
  }
}

function formatLine(line: LdfDocumentLine): string {
  if (line.kind === 'other') return line.text;
  if (line.kind === 'ref') return `${line.indent}@${line.target}${line.tail}`;
  return `${line.indent}${line.held ? '=' : ''}${line.repo}/${line.layer}${line.gap}${line.version}${line.tail}`;
}

/** The text again; what was not changed is byte for byte as it was parsed. */
export function formatLdf(ldf: Ldf): string {
  const text = ldf.lines.map(formatLine).join('\n');
  return ldf.finalNewline && ldf.lines.length > 0 ? `${text}\n` : text;
}

function unitsOf(lines: LdfDocumentLine[]): LdfLine[] {
  return lines
    .filter((line) => line.kind === 'unit')
    .map(({ repo, layer, version, held }) => ({ repo, layer, version, held }));
}

export function explicitLayers(ldf: Ldf): LdfLine[] {
  return unitsOf(ldf.lines.slice(0, ldf.explicitEnd));
}

export function implicitLayers(ldf: Ldf): LdfLine[] {
  return unitsOf(ldf.lines.slice(ldf.explicitEnd));
}

/** Names of the templates referred to, in order. */
export function ldfRefs(ldf: Ldf): string[] {
  return ldf.lines.filter((line) => line.kind === 'ref').map((line) => line.template);
}

function newUnitLine(unit: LdfLine): UnitLine {
  return { kind: 'unit', indent: '', gap: ' ', tail: '', ...unit };
}

/** A fresh LDF in the paper's form. */
export function createLdf(content: { refs: string[]; explicit: LdfLine[]; implicit: LdfLine[] }): Ldf {
  const top: LdfDocumentLine[] = [
    ...content.refs.map(
      (name): RefLine => ({ kind: 'ref', indent: '', target: name, template: name, tail: '' }),
    ),
    ...content.explicit.map(newUnitLine),
  ];
  const blank: OtherLine[] = content.implicit.length > 0 ? [{ kind: 'other', text: '' }] : [];
  return {
    lines: [...top, ...blank, ...content.implicit.map(newUnitLine)],
    explicitEnd: top.length,
    finalNewline: true,
  };
}

/**
 * The document with exactly these layers: lines of layers that stay keep their place, spacing and comments (only what differs
 * is exchanged), lines of layers that left are dropped, new layers come at the end of their block.
 */
export function rewriteLdf(ldf: Ldf, content: { explicit: LdfLine[]; implicit: LdfLine[] }): Ldf {
  const explicit = rewriteBlock(ldf.lines.slice(0, ldf.explicitEnd), content.explicit);
  const below = ldf.lines.slice(ldf.explicitEnd);
  const implicit = rewriteBlock(below, content.implicit);
  if (below.length === 0 && implicit.length > 0) implicit.unshift({ kind: 'other', text: '' });
  return { lines: [...explicit, ...implicit], explicitEnd: explicit.length, finalNewline: true };
}

function rewriteBlock(lines: LdfDocumentLine[], wanted: LdfLine[]): LdfDocumentLine[] {
  const left = new Map(wanted.map((unit) => [unit.layer, unit]));
  const out: LdfDocumentLine[] = [];
  for (const line of lines) {
    if (line.kind !== 'unit') {
      out.push(line);
      continue;
    }
    const unit = left.get(line.layer);
    if (unit === undefined) continue;
    left.delete(line.layer);
    out.push({ ...line, ...unit });
  }
  const added = wanted.filter((unit) => left.has(unit.layer)).map(newUnitLine);
  if (added.length === 0) return out;
  let end = out.length;
  while (end > 0 && out[end - 1]!.kind === 'other' && BLANK.test(formatLine(out[end - 1]!))) end--;
  if (end === 0) end = out.length;
  out.splice(end, 0, ...added);
  return out;
}

/** The document with one layer's hold set or cleared; null when the layer is not in it. */
export function holdInLdf(ldf: Ldf, layer: string, held: boolean): Ldf | null {
  if (!ldf.lines.some((line) => line.kind === 'unit' && line.layer === layer)) return null;
  const lines = ldf.lines.map((line) =>
    line.kind === 'unit' && line.layer === layer ? { ...line, held } : line,
  );
  return { ...ldf, lines };
}
