/** Shell-like patterns on layer names: '*' any run, '?' one character, '[a-z]' or '[!a-z]' one of a set. Linear time, whatever the pattern. */
import { StrataError } from '../base/index.ts';

type Piece =
  | { kind: 'star' }
  | { kind: 'any' }
  | { kind: 'char'; char: string }
  | { kind: 'set'; not: boolean; ranges: string[] };

const MAX_PATTERN_CHARS = 256;

function compile(pattern: string): Piece[] {
  const bad = (why: string): never => {
    throw new StrataError('USAGE', `${JSON.stringify(pattern)} is not a pattern of layer names: ${why}`, {
      hint: "use names with '*', '?' and '[a-z]', e.g. 'lib*'",
    });
  };
  if (pattern === '' || pattern.length > MAX_PATTERN_CHARS)
    bad(`1 to ${MAX_PATTERN_CHARS} characters are allowed`);
  const pieces: Piece[] = [];
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern[i]!;
    if (char === '*') {
      if (pieces.at(-1)?.kind !== 'star') pieces.push({ kind: 'star' });
    } else if (char === '?') pieces.push({ kind: 'any' });
    else if (char === '[') {
      const close = pattern.indexOf(']', i + 2);
      if (close === -1) bad("']' is missing");
      const body = pattern.slice(i + 1, close);
      const not = body.startsWith('!') || body.startsWith('^');
      const set = not ? body.slice(1) : body;
      if (set === '') bad('an empty set');
      const ranges: string[] = [];
      for (let j = 0; j < set.length; j++) {
        const isRange = set[j + 1] === '-' && j + 2 < set.length;
        ranges.push(isRange ? set[j]! + set[j + 2]! : set[j]! + set[j]!);
        if (isRange) j += 2;
      }
      pieces.push({ kind: 'set', not, ranges });
      i = close;
    } else if (/[\s/]/.test(char)) bad(`${JSON.stringify(char)} cannot be in a layer's name`);
    else pieces.push({ kind: 'char', char });
  }
  return pieces;
}

function matchesOne(piece: Piece, char: string): boolean {
  switch (piece.kind) {
    case 'star':
    case 'any':
      return true;
    case 'char':
      return piece.char === char;
    case 'set':
      return piece.ranges.some((r) => char >= r[0]! && char <= r[1]!) !== piece.not;
  }
}

/** Greedy matching that goes back only to the last star. */
function matches(pieces: Piece[], name: string): boolean {
  let p = 0;
  let star = -1;
  let starAt = 0;
  for (let n = 0; n < name.length; ) {
    const piece = pieces[p];
    if (piece?.kind === 'star') {
      star = p++;
      starAt = n;
    } else if (piece !== undefined && matchesOne(piece, name[n]!)) {
      p++;
      n++;
    } else if (star !== -1) {
      p = star + 1;
      n = ++starAt;
    } else return false;
  }
  while (pieces[p]?.kind === 'star') p++;
  return p === pieces.length;
}

/**
 * The filter of a repository: a layer is offered when it matches one of `allow` (or `allow` is empty) and none of `deny`. Throws USAGE
 * for a bad pattern. Returns null when everything is offered.
 */
export function layerFilter(
  allow: readonly string[],
  deny: readonly string[],
): ((layer: string) => boolean) | null {
  if (allow.length === 0 && deny.length === 0) return null;
  const allowed = allow.map(compile);
  const denied = deny.map(compile);
  return (layer) =>
    (allowed.length === 0 || allowed.some((p) => matches(p, layer))) &&
    !denied.some((p) => matches(p, layer));
}
