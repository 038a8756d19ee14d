/**
 * The text of a policy, one rule a line:
 *   exclude PATTERN
 *   substitute PATH = empty | locked-passwords | file NAME
 * '#' begins a comment line; those right above a rule say what the rule protects. Written by `strata policy create`, or by hand.
 */
import { StrataError } from '../../base/index.ts';
import { exactPattern, parsePattern } from '../../vlfs/index.ts';

/**
 * What stands in place of an excluded file. 'empty': nothing; 'locked-passwords': the lines of shadow or gshadow that the appliance has, with
 * passwords that match nothing; 'file': one of the policy's own files.
 */
export type Substitute = { kind: 'empty' } | { kind: 'locked-passwords' } | { kind: 'file'; file: string };

export interface PolicyRule {
  pattern: string;
  /** What it protects, for people. */
  protects: string;
  /** With a substitute, `pattern` is that of exactly this path. */
  path?: string;
  substitute?: Substitute;
}

export const POLICY_TEXT_BYTES = 1 << 20;

/** Reads a policy. Throws BAD_FORMAT with the number of the line. */
export function parsePolicy(text: string, name: string): PolicyRule[] {
  if (text.length > POLICY_TEXT_BYTES) throw new StrataError('LIMIT', `policy ${name} is longer than 1 MiB`);
  const rules: PolicyRule[] = [];
  let comment: string[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    const trimmed = line.trim();
    if (trimmed.startsWith('#')) comment.push(trimmed.slice(1).trim());
    else if (trimmed === '') comment = [];
    else {
      rules.push({ ...ruleAt(trimmed, `policy ${name}, line ${i + 1}`), protects: comment.join(' ') });
      comment = [];
    }
  }
  return rules;
}

function ruleAt(line: string, where: string): Omit<PolicyRule, 'protects'> {
  const space = line.search(/\s/);
  const word = space < 0 ? line : line.slice(0, space);
  const rest = space < 0 ? '' : line.slice(space).trim();
  if (word === 'exclude' && rest !== '') {
    parsePattern(rest);
    return { pattern: rest };
  }
  const equals = rest.lastIndexOf(' = ');
  if (word === 'substitute' && equals > 0) {
    return substituteRule(rest.slice(0, equals).trim(), substituteOf(rest.slice(equals + 3).trim(), where));
  }
  throw new StrataError('BAD_FORMAT', `${where}: ${JSON.stringify(line)} is no rule`, {
    hint: 'exclude PATTERN, or: substitute PATH = empty | locked-passwords | file NAME',
  });
}

function substituteOf(text: string, where: string): Substitute {
  if (text === 'empty' || text === 'locked-passwords') return { kind: text };
  const file = /^file ([A-Za-z0-9][A-Za-z0-9._-]*)$/.exec(text)?.[1];
  if (file !== undefined) return { kind: 'file', file };
  throw new StrataError('BAD_FORMAT', `${where}: ${JSON.stringify(text)} is no substitute`);
}

/** The rule that a path shows something else. Throws USAGE for what is no path. */
export function substituteRule(path: string, substitute: Substitute): Omit<PolicyRule, 'protects'> {
  const parts = path.split('/').filter((part) => part !== '');
  if (!path.startsWith('/') || parts.length === 0 || parts.some((part) => part === '.' || part === '..')) {
    throw new StrataError('USAGE', `${JSON.stringify(path)} is not an absolute path of a file`);
  }
  const clean = `/${parts.join('/')}`;
  return { pattern: exactPattern(clean), path: clean, substitute };
}

export function formatPolicy(rules: readonly PolicyRule[]): string {
  return rules
    .map(({ pattern, protects, path, substitute }) => {
      const comment = protects === '' ? '' : `# ${protects}\n`;
      if (substitute === undefined) return `${comment}exclude ${pattern}\n`;
      const what = substitute.kind === 'file' ? `file ${substitute.file}` : substitute.kind;
      return `${comment}substitute ${path} = ${what}\n`;
    })
    .join('\n');
}
