/**
 * Policies by name: policies/NAME/policy, a text, and policies/NAME/files/ with the content of its substitutes. An appliance keeps what a policy said when
 * it was given to it: changing or deleting the policy afterwards changes no appliance.
 */
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { checkObjectName, StrataError } from '../../base/index.ts';
import { matcherOf, parsePattern } from '../../vlfs/index.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { PolicyInfo, PolicySource } from '../contract.ts';
import {
  isThere,
  makeDirectory,
  namesIn,
  readTextIfThere,
  removeTree,
  writeNewFile,
} from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import {
  formatPolicy,
  POLICY_TEXT_BYTES,
  type PolicyRule,
  parsePolicy,
  substituteRule,
} from './policy-text.ts';
import { SECRETS, secretsText } from './secrets.ts';

/** Bytes of one substitute. */
export const SUBSTITUTE_BYTES = 16 << 20;

/** A policy as it can be given to an appliance. */
export interface Policy {
  name: string;
  rules: PolicyRule[];
  /** Content of the files that its substitutes name. */
  files: ReadonlyMap<string, Uint8Array>;
}

function unknown(context: FleetContext, name: string): StrataError {
  const known = [...SECRETS, ...ownNames(context)].join(', ');
  return new StrataError('NOT_FOUND', `there is no policy ${JSON.stringify(name)}`, {
    hint: `policies here: ${known}`,
  });
}

function ownNames(context: FleetContext): string[] {
  return namesIn(context.paths.policies)
    .filter((name) => !name.startsWith('.'))
    .sort();
}

function textOf(context: FleetContext, name: string): string {
  checkObjectName('policy', name);
  const text = secretsText(name) ?? readTextIfThere(join(context.paths.policies, name, 'policy'));
  if (text === null) throw unknown(context, name);
  return text;
}

/** The offered ones: they never change. */
const offered = new Map<string, Policy>();

/** Throws NOT_FOUND, BAD_FORMAT. */
export function policyNamed(context: FleetContext, name: string): Policy {
  const known = offered.get(name);
  if (known !== undefined) return known;
  const rules = parsePolicy(textOf(context, name), name);
  const files = new Map<string, Uint8Array>();
  for (const { substitute } of rules) {
    if (substitute?.kind !== 'file') continue;
    const file = join(context.paths.policies, name, 'files', substitute.file);
    files.set(substitute.file, readSubstitute(file));
  }
  const policy: Policy = { name, rules, files };
  if (SECRETS.includes(name)) offered.set(name, policy);
  return policy;
}

/** Reads the offered policies and compiles them, so that the first command that gives them finds that done. */
export function warmPolicies(context: FleetContext): void {
  const patterns = SECRETS.flatMap((name) => policyNamed(context, name).rules.map(({ pattern }) => pattern));
  matcherOf([...new Set(patterns)]);
}

/** The content that a path shall show. Throws USAGE, LIMIT. */
export function readSubstitute(file: string): Uint8Array {
  if (!isAbsolute(file)) throw new StrataError('USAGE', `${file} is not an absolute path`);
  const stat = statSync(file, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isFile()) throw new StrataError('NOT_FOUND', `there is no file ${file}`);
  if (stat.size > SUBSTITUTE_BYTES) {
    throw new StrataError(
      'LIMIT',
      `${file} has more than ${SUBSTITUTE_BYTES >> 20} MiB, too much for a substitute`,
    );
  }
  return readFileSync(file);
}

/** The rules that the options of a command give, beside those of policies by name. */
export function policyOfOptions(o: Pick<PolicySource, 'exclude' | 'substitutes'>): Policy {
  const files = new Map<string, Uint8Array>();
  const rules: PolicyRule[] = [];
  for (const pattern of o.exclude ?? []) {
    parsePattern(pattern);
    rules.push({ pattern, protects: '' });
  }
  for (const [i, { path, file }] of (o.substitutes ?? []).entries()) {
    files.set(`${i + 1}`, readSubstitute(file));
    rules.push({ ...substituteRule(path, { kind: 'file', file: `${i + 1}` }), protects: '' });
  }
  return { name: '', rules, files };
}

export async function createPolicy(
  context: FleetContext,
  o: { name: string; from?: string | undefined } & Pick<PolicySource, 'exclude' | 'substitutes'>,
): Promise<PolicyInfo> {
  const name = checkObjectName('policy', o.name);
  const made = policyOfOptions(o);
  const text = o.from === undefined ? '' : readText(o.from);
  const given = parsePolicy(text, name);
  if (given.some(({ substitute }) => substitute?.kind === 'file')) {
    throw new StrataError('USAGE', `${o.from} names files of a policy that is not there yet`, {
      hint: 'give them with --substitute PATH=FILE',
    });
  }
  if (made.rules.length + given.length === 0)
    throw new StrataError('USAGE', 'a policy without a rule', {
      hint: 'give --exclude, --substitute or --from',
    });
  return context.locks.with([COMMIT], async () => {
    if (secretsText(name) !== null || isThere(join(context.paths.policies, name)))
      throw new StrataError('EXISTS', `policy ${name} exists already`);
    const stage = `.tmp-${operationId()}`;
    const dir = join(context.paths.policies, stage);
    makeDirectory(context.paths.policies, 0o700);
    mkdirSync(join(dir, 'files'), { recursive: true, mode: 0o700 });
    try {
      for (const [file, content] of made.files) writeNewFile(join(dir, 'files', file), content);
      writeNewFile(
        join(dir, 'policy'),
        [text.trimEnd(), formatPolicy(made.rules)].filter(Boolean).join('\n\n'),
      );
      const steps = [{ do: 'rename' as const, from: join('policies', stage), to: join('policies', name) }];
      context.journal.finish(await context.journal.commit('policy create', steps));
    } finally {
      removeTree(dir);
    }
    return infoOf(context, name);
  });
}

function readText(file: string): string {
  const stat = isAbsolute(file) ? statSync(file, { throwIfNoEntry: false }) : undefined;
  if (stat === undefined || !stat.isFile()) throw new StrataError('NOT_FOUND', `there is no file ${file}`);
  if (stat.size > POLICY_TEXT_BYTES) throw new StrataError('LIMIT', `${file} is longer than 1 MiB`);
  return readFileSync(file, 'utf8');
}

function infoOf(context: FleetContext, name: string): PolicyInfo {
  const text = textOf(context, name);
  const rules = parsePolicy(text, name);
  return {
    name,
    offered: secretsText(name) !== null,
    rules: rules.length,
    substitutes: rules.filter(({ substitute }) => substitute !== undefined).length,
    text,
  };
}

export function listPolicies(context: FleetContext): { policies: PolicyInfo[] } {
  return { policies: [...SECRETS, ...ownNames(context)].map((name) => infoOf(context, name)) };
}

export function showPolicy(context: FleetContext, name: string): PolicyInfo {
  return infoOf(context, name);
}

export async function deletePolicy(context: FleetContext, name: string): Promise<void> {
  checkObjectName('policy', name);
  await context.locks.with([COMMIT], async () => {
    if (secretsText(name) !== null) {
      throw new StrataError('DENIED', `policy ${name} comes with Strata`, {
        hint: 'nothing uses it unless you give it to an appliance',
      });
    }
    if (!isThere(join(context.paths.policies, name))) throw unknown(context, name);
    const trash = join('policies', `.trash-${operationId()}`);
    const steps = [{ do: 'rename' as const, from: join('policies', name), to: trash }];
    context.journal.finish(await context.journal.commit('policy delete', steps));
    removeTree(join(context.root, trash));
  });
}
