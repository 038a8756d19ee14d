/**
 * The policy of one appliance: appliances/NAME/policy.json. It holds what was given to the appliance and all that its ancestors had, so it only ever
 * gets longer; and everybody who needs the appliance's stack gets it from `policedStack`, with the policy in it.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { LevelSpec, StackSpec } from '../../vlfs/contract.ts';
import type { FleetContext } from '../context.ts';
import { withBase } from '../import/base.ts';
import { readJsonIfThere } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import type { FleetPaths } from '../state/paths.ts';

export interface PolicyRecord {
  format: 1;
  /** `from`: the policy or the command that it came by. */
  rules: { pattern: string; from: string }[];
  /** Substitutes and grafts, the newest first: policies/.layers/ID; the rules from `rulesFrom` on count in it. */
  layers: { id: string; rulesFrom: number }[];
  /** Frozen layers that hold what the appliance itself wrote: nothing in them is hidden from it. All others are inherited. */
  own: string[];
}

export const EMPTY_POLICY: PolicyRecord = { format: 1, rules: [], layers: [], own: [] };

/** In the directory of an appliance. */
export const POLICY_FILE = 'policy.json';

function fileOf(paths: FleetPaths, name: string): string {
  return join(paths.appliances, name, POLICY_FILE);
}

/** The appliance's policy, or null when it has none. Throws BAD_FORMAT: an appliance whose policy cannot be read must not be shown without. */
export function policyRecord(paths: FleetPaths, name: string): PolicyRecord | null {
  const record = readJsonIfThere(fileOf(paths, name)) as PolicyRecord | null;
  if (record === null) return null;
  const isWhole =
    record.format === 1 && [record.rules, record.layers, record.own].every((list) => Array.isArray(list));
  if (isWhole) return record;
  throw new StrataError('BAD_FORMAT', `the policy of appliance ${name} cannot be read`, {
    hint: `${fileOf(paths, name)} was written by another version of Strata, or damaged`,
  });
}

/** The journal's step that gives an appliance this policy. `dir`: where the appliance's directory is then, in the state root. */
export function policyStep(dir: string, record: PolicyRecord): JournalStep {
  return { do: 'write', path: join(dir, POLICY_FILE), text: policyText(record) };
}

/** What policy.json holds. */
export function policyText(record: PolicyRecord): string {
  return `${JSON.stringify(record, null, 1)}\n`;
}

/** The step by which a frozen layer that was the appliance's private one stays its own; none for an appliance without a policy. */
export function ownFrozenSteps(paths: FleetPaths, name: string, frozen: string): JournalStep[] {
  const record = withOwnFrozen(policyRecord(paths, name), frozen);
  return record === null ? [] : [policyStep(join('appliances', name), record)];
}

/** The policy when a frozen layer that was the appliance's private one stays its own. */
export function withOwnFrozen(record: PolicyRecord | null, frozen: string): PolicyRecord | null {
  return record === null ? null : { ...record, own: [frozen, ...record.own] };
}

/** The appliance's stack with its base and its policy (`record`: another one than the present). */
export function policedStack(
  paths: FleetPaths,
  name: string,
  above: StackSpec,
  record: PolicyRecord | null = policyRecord(paths, name),
): StackSpec {
  const stack = withBase(paths, name, above);
  return record === null ? stack : withPolicy(paths, stack, record);
}

export function withPolicy(paths: FleetPaths, stack: StackSpec, record: PolicyRecord): StackSpec {
  const isOwn = ({ kind, id }: LevelSpec) =>
    kind === 'frozen' && record.own.includes(id.slice(id.lastIndexOf('/') + 1));
  const firstInherited = stack.levels.findIndex((level) => !isOwn(level));
  const above = firstInherited < 0 ? stack.levels.length : firstInherited;
  const levels = [
    ...stack.levels.slice(0, above).map((level) => ({ ...level, own: true })),
    ...record.layers.map(({ id, rulesFrom }) => policyLevel(paths, id, rulesFrom)),
    ...stack.levels.slice(above),
  ];
  const rules = record.rules.map(({ pattern }) => pattern);
  const hash = createHash('sha256').update(`${stack.key}\0${JSON.stringify([rules, record.layers, above])}`);
  return { key: hash.digest('hex').slice(0, 32), levels, policy: { rules } };
}

export function policyLayerDir(paths: FleetPaths, id: string): string {
  return join(paths.policies, '.layers', id);
}

function policyLevel(paths: FleetPaths, id: string, rulesFrom: number): LevelSpec {
  const dir = policyLayerDir(paths, id);
  return {
    kind: 'policy',
    id: `policy/${id}`,
    treeDir: join(dir, 'tree'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: null,
    rulesFrom,
  };
}

/** Layers of substitutes and grafts that some appliance uses; null when that cannot be told. */
export function policyLayersInUse(context: FleetContext): Set<string> | null {
  const used = new Set<string>();
  try {
    for (const { name } of context.catalog.all())
      for (const { id } of policyRecord(context.paths, name)?.layers ?? []) used.add(id);
  } catch {
    return null;
  }
  return used;
}
