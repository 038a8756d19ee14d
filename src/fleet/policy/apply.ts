/**
 * Giving an appliance a policy, or a stricter one. What substitutes and grafts show is gathered first, into a layer of its own; then one step of the
 * journal gives the appliance rules and layer, and a mounted one is relayered. Rules are only ever added.
 */
import { chmodSync, chownSync, mkdirSync, utimesSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import { buildTreeIndex, scanTree } from '../../layer/index.ts';
import { S_IFDIR, S_IFMT } from '../../sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../../vlfs/contract.ts';
import {
  completePrivate,
  copyShown,
  createMatcher,
  matcherOf,
  NO_RULE,
  shownAtPath,
} from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { PolicyGraft, PolicySource, PolicyState } from '../contract.ts';
import { allMounts, refuseLingering } from '../mounts/mount-list.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import {
  bringOutAside,
  makeDirectory,
  removeTree,
  syncFileSystemAside,
  writeNewFile,
} from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceDefinition, reconcileMounts, vlfsSpec } from '../templates/follow.ts';
import { type Policy, policyNamed, policyOfOptions, SUBSTITUTE_BYTES } from './policies.ts';
import { type PolicyRule, substituteRule } from './policy-text.ts';
import { EMPTY_POLICY, type PolicyRecord, policyRecord, policyStep } from './record.ts';
import { SECRETS } from './secrets.ts';

export async function applyPolicy(
  context: FleetContext,
  o: { name: string } & PolicySource,
): Promise<PolicyState> {
  const { name } = applianceRow(context, o.name);
  const policies = policiesOf(context, o);
  if (policies.every(({ rules }) => rules.length === 0) && (o.grafts ?? []).length === 0) {
    throw new StrataError('USAGE', 'nothing to exclude', {
      hint: 'give --exclude, --substitute, --graft, --policy or --secrets',
    });
  }
  await refuseLingering(context, [name]);
  const others = [...new Set((o.grafts ?? []).map(({ appliance }) => appliance))].filter((n) => n !== name);
  return context.locks.with([name, ...others].map(applianceLock), async () => {
    const row = applianceRow(context, name);
    refuseSealed(context, name);
    await context.locks.with([COMMIT], () =>
      settleSealed(context, name, applianceDefinition(context, row).record),
    );
    const before = policyRecord(context.paths, name) ?? EMPTY_POLICY;
    const spec = (): VlfsSpec => vlfsSpec(context, row);
    const made = await stricter(context, { before, spec, policies, grafts: o.grafts ?? [] });
    try {
      await context.locks.with([COMMIT], async () => {
        const steps = [...made.steps, policyStep(join('appliances', name), made.record)];
        const id = await context.journal.commit('policy apply', steps);
        await reconcileMounts(context);
        context.journal.finish(id);
      });
    } finally {
      made.discard();
    }
    return policyState(context, name);
  });
}

/** What the policy of an appliance is. */
export function policyState(context: FleetContext, name: string): PolicyState {
  applianceRow(context, name);
  const record = policyRecord(context.paths, name) ?? EMPTY_POLICY;
  return { name, rules: record.rules, layers: record.layers.length };
}

/** The policies that the options of a command name or spell out. Throws NOT_FOUND, USAGE. */
export function policiesOf(context: FleetContext, o: PolicySource): Policy[] {
  const names = [...(o.policies ?? []), ...(o.secrets === true ? SECRETS : [])];
  return [...[...new Set(names)].map((name) => policyNamed(context, name)), policyOfOptions(o)];
}

/**
 * The policy of a clone: all that its source has, and what the options add. A clone always has one, if only an empty one, which hides what is marked. What the source
 * wrote itself is inherited by the clone. The caller holds the locks of the source and of those that grafts come from, and commits
 * `steps` and a `policyStep` with the clone.
 */
export function clonePolicy(context: FleetContext, source: CatalogRow, o: PolicySource): Promise<Stricter> {
  const before = { ...(policyRecord(context.paths, source.name) ?? EMPTY_POLICY), own: [] };
  const spec = (): VlfsSpec => vlfsSpec(context, source);
  return stricter(context, { before, spec, policies: policiesOf(context, o), grafts: o.grafts ?? [] });
}

export interface Stricter {
  record: PolicyRecord;
  /** Bring what the record refers to into its place. */
  steps: JournalStep[];
  /** Removes what was staged, if it is still there. */
  discard(): void;
}

/**
 * A policy and what is added to it. `spec`: what the appliance shows (a clone's source), from which substitutes take owner and mode. The caller holds the
 * locks of that appliance and of those that grafts come from.
 */
export async function stricter(
  context: FleetContext,
  o: { before: PolicyRecord; spec: () => VlfsSpec; policies: Policy[]; grafts: PolicyGraft[] },
): Promise<Stricter> {
  const rules = [...o.before.rules];
  const known = new Set(rules.map(({ pattern }) => pattern));
  const add = (pattern: string, from: string): void => {
    if (known.has(pattern)) return;
    known.add(pattern);
    rules.push({ pattern, from });
  };
  for (const { name, rules: given } of o.policies) for (const { pattern } of given) add(pattern, name);
  const all = rules.map(({ pattern }) => pattern);
  for (const { path } of o.grafts) add(substituteRule(path, { kind: 'empty' }).pattern, '');
  matcherOf(rules.map(({ pattern }) => pattern));
  refuseNested(o.policies, o.grafts);
  const substitutes = o.policies.some((policy) => policy.rules.some((rule) => rule.substitute !== undefined));
  if (!substitutes && o.grafts.length === 0)
    return { record: { ...o.before, rules }, steps: [], discard: () => {} };
  const spec = o.spec();
  const id = operationId();
  const stage = join('policies', `.tmp-${id}`);
  const dir = join(context.root, stage);
  const discard = (): void => removeTree(dir);
  makeDirectory(context.paths.policies, 0o700);
  makeDirectory(join(context.paths.policies, '.layers'), 0o700);
  mkdirSync(join(dir, 'tree'), { recursive: true, mode: 0o755 });
  try {
    const files = o.policies.flatMap((policy) =>
      policy.rules.flatMap((rule) => putSubstitute(dir, spec, policy, rule) ?? []),
    );
    let count = files.length;
    for (const graft of o.grafts) count += await putGraft(context, dir, spec, graft, all);
    if (count === 0) return { record: { ...o.before, rules }, steps: [], discard };
    const index = join(dir, 'index');
    writeNewFile(index, buildTreeIndex(await scanTree(join(dir, 'tree'), { overlay: true })), false);
    if (o.grafts.length > 0) await syncFileSystemAside(dir);
    else await bringOutAside(dir, [index, ...files]);
    const layers = [{ id, rulesFrom: rules.length }, ...o.before.layers];
    const steps: JournalStep[] = [{ do: 'rename', from: stage, to: join('policies', '.layers', id) }];
    return { record: { ...o.before, rules, layers }, steps, discard };
  } catch (error) {
    discard();
    throw error;
  }
}

/** Nothing is put into what a graft brings: its links must not lead anywhere while the layer is made. */
function refuseNested(policies: Policy[], grafts: PolicyGraft[]): void {
  const taken = policies.flatMap(({ rules }) =>
    rules.flatMap(({ path }) => (path === undefined ? [] : [path])),
  );
  for (const { path } of grafts) {
    const other = taken.find((at) => at === path || at.startsWith(`${path}/`) || path.startsWith(`${at}/`));
    if (other !== undefined) {
      throw new StrataError('USAGE', `${path} and ${other} lie in each other`, {
        hint: 'give grafts and substitutes at places apart, or one after the other',
      });
    }
    taken.push(path);
  }
}

/** Whether the appliance has directories, or nothing, on the way to `path`: a link there would be replaced by a directory. */
function isReachable(spec: VlfsSpec, path: string): boolean {
  const parts = path.split('/').filter((part) => part !== '');
  for (let depth = 1; depth < parts.length; depth++) {
    const shown = shownAtPath(spec, `/${parts.slice(0, depth).join('/')}`, 0);
    if (shown === null) return true;
    if ((shown.mode & S_IFMT) !== S_IFDIR) return false;
  }
  return true;
}

function refuseUnreachable(spec: VlfsSpec, path: string): void {
  if (isReachable(spec, path)) return;
  throw new StrataError('USAGE', `a part of ${path} is no directory in appliance ${spec.name}`, {
    hint: 'give the path without links',
  });
}

/** Makes the directory in which `path` lies. Its times are old, so that no directory of the appliance looks changed by it. */
function placeFor(dir: string, path: string): string {
  const place = join(dir, 'tree', path);
  mkdirSync(dirname(place), { recursive: true, mode: 0o755 });
  for (let at = dirname(place); at.startsWith(join(dir, 'tree')); at = dirname(at)) utimesSync(at, 0, 0);
  return place;
}

/** The file that was put there, or null. What a policy of many offers for a file that this appliance lacks is left out. */
function putSubstitute(dir: string, spec: VlfsSpec, policy: Policy, rule: PolicyRule): string | null {
  const { path, substitute } = rule;
  if (path === undefined || substitute === undefined) return null;
  const shown = shownAtPath(spec, path, SUBSTITUTE_BYTES);
  const isFile = shown !== null && shown.content !== null;
  if (!isFile && (substitute.kind === 'locked-passwords' || policy.name in SECRETS_NAMES)) return null;
  if (policy.name in SECRETS_NAMES && !isReachable(spec, path)) return null;
  refuseUnreachable(spec, path);
  const content =
    substitute.kind === 'file'
      ? policy.files.get(substitute.file)!
      : substitute.kind === 'empty'
        ? new Uint8Array(0)
        : lockedPasswords(shown!.content!);
  const place = placeFor(dir, path);
  writeNewFile(place, content, false);
  chownSync(place, shown?.uid ?? 0, shown?.gid ?? 0);
  chmodSync(place, isFile ? shown.mode & 0o777 : 0o644);
  placeFor(dir, path);
  return place;
}

const SECRETS_NAMES: Record<string, true> = Object.fromEntries(SECRETS.map((name) => [name, true]));

/** The lines of shadow or gshadow with passwords that match nothing; who had none that matches keeps it. */
export function lockedPasswords(content: Uint8Array): Uint8Array {
  const lines = Buffer.from(content).toString('latin1').split('\n');
  const locked = lines.map((line) => {
    const fields = line.split(':');
    if (fields.length > 1 && !/^[!*]/.test(fields[1]!)) fields[1] = '!*';
    else if (fields.length > 1) fields[1] = fields[1]![0]!;
    return fields.join(':');
  });
  return Buffer.from(locked.join('\n'), 'latin1');
}

/**
 * A tree of another appliance as a clone of it would get it that had both policies: what either excludes stays behind, by its path there and by its new
 * one, and so does what is marked.
 */
async function putGraft(
  context: FleetContext,
  dir: string,
  spec: VlfsSpec,
  graft: PolicyGraft,
  rules: string[],
): Promise<number> {
  refuseUnreachable(spec, graft.path);
  const matcher = createMatcher(rules);
  const place = placeFor(dir, graft.path);
  const copied = await copyShown(await viewOf(context, dir, graft.appliance, rules), graft.from, {
    into: dirname(place),
    name: basename(place),
    without: (below, isDirectory) => matcher.ruleOfPath(`${graft.path}/${below}`, isDirectory) !== NO_RULE,
  });
  removeTree(join(dir, 'view'));
  placeFor(dir, graft.path);
  return copied;
}

/** What a clone of an appliance that has these rules too would show. `dir`: for its own files. The caller holds the appliance's lock. */
export async function viewOf(
  context: FleetContext,
  dir: string,
  appliance: string,
  rules: string[],
): Promise<VlfsSpec> {
  const row = applianceRow(context, appliance);
  if ((await allMounts(context)).some(({ name }) => name === appliance)) {
    throw new StrataError(
      'BUSY',
      `appliance ${appliance} is mounted, so it may change while a part of it is copied`,
      {
        hint: `first: strata umount ${appliance}`,
      },
    );
  }
  await context.locks.with([COMMIT], () =>
    settleSealed(context, appliance, applianceDefinition(context, row).record),
  );
  const source = vlfsSpec(context, row);
  await completePrivate(source.privateDir);
  const frozen: LevelSpec = {
    kind: 'frozen',
    id: `graft/${basename(dir)}`,
    treeDir: source.privateDir,
    indexFile: join(dir, 'no-index'),
    whiteoutsDir: source.whiteoutsDir,
  };
  const levels = [frozen, ...source.stack.levels.map(({ own: _, ...level }) => level)];
  const all = [...(source.stack.policy?.rules ?? []), ...rules];
  const privateDir = join(dir, 'view', 'private');
  mkdirSync(privateDir, { recursive: true, mode: 0o700 });
  return {
    name: appliance,
    privateDir,
    whiteoutsDir: join(dir, 'view', 'whiteouts'),
    stack: { key: `graft ${dir} ${appliance}`, levels, policy: { rules: all } },
    readOnly: true,
  };
}
