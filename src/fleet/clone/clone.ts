/**
 * Clones: the private layer of the source is frozen, and source and clone go on with an empty one each, over the same frozen layers. The cost does
 * not depend on what the layer holds. All files of the control plane change by one journal record; where strata-fs serves the source, it
 * freezes the layer in one turn between the requests (src/vlfs/freeze.ts), after the record and before everything else.
 */
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { checkObjectName, StrataError } from '../../base/index.ts';
import {
  completePrivate,
  copyRootAttributes,
  finishPrivate,
  onOpenFile,
  readLimits,
  readUsage,
} from '../../vlfs/index.ts';
import { type ApplianceState, applianceLock, applianceRow, refuseExisting } from '../appliances.ts';
import type { CatalogRow } from '../catalog.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet, PolicySource, QuotaOptions } from '../contract.ts';
import { familyOf } from '../family/record.ts';
import { endOf } from '../family/ttl.ts';
import {
  isThere,
  namesIn,
  readJsonIfThere,
  readTextIfThere,
  removeTree,
  syncDirectory,
  writeNewFile,
} from '../files.ts';
import { applianceDefinition, vlfsSpec } from '../follow.ts';
import type { Definition } from '../generations.ts';
import { baseOf, stageBase } from '../import/base.ts';
import type { JournalStep } from '../journal.ts';
import { COMMIT } from '../locks.ts';
import { allocateMacs } from '../macs.ts';
import { refuseLingering } from '../mount-list.ts';
import { inState } from '../paths.ts';
import { clonePolicy, type Stricter } from '../policy/apply.ts';
import { ownFrozenSteps, policyStep } from '../policy/record.ts';
import { applianceDirs } from '../private-files.ts';
import { stageQuota, stageUsage } from '../quota/quotas.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { elapsed } from '../templates.ts';
import { type FrozenId, frozenDir } from './frozen.ts';
import { copyOwnGeneration } from './own-layers.ts';

type Cloned = Awaited<ReturnType<Fleet['clone']>>;

/** What is prepared for a clone before anything changes. */
interface Staged {
  dir: string;
  /** The layer that the source's private one becomes; null when there is nothing to freeze. */
  id: FrozenId | null;
  source: CatalogRow;
  target: CatalogRow;
  definition: Definition | null;
  steps: JournalStep[];
}

/** Makes the appliance `name` from what `source` is at one instant. */
export async function cloneAppliance(
  context: FleetContext,
  options: Parameters<Fleet['clone']>[0],
): Promise<Cloned> {
  const started = performance.now();
  const name = checkObjectName('appliance', options.name);
  endOf(options.ttlSeconds);
  await refuseLingering(context, [options.source]);
  const grafted = (options.grafts ?? []).map(({ appliance }) => appliance);
  const locked = [...new Set([options.source, name, ...grafted])].map(applianceLock);
  return context.locks.with(locked, async () => {
    const row = applianceRow(context, options.source);
    refuseExisting(context, [name], null);
    await refuseMounted(context, row.name);
    const policy = await policyFor(context, row, options);
    try {
      finishPrivate(vlfsSpec(context, row));
      // Copies of a few blocks over a layer's file cannot be frozen: the layer may go. Slow, so it holds no commit.
      await completePrivate(applianceDirs(context.paths, row.name).privateDir);
      return await context.locks.with([COMMIT], () =>
        cloneNow(context, { source: row.name, name, policy, options, started }),
      );
    } finally {
      policy.discard();
    }
  });
}

async function refuseMounted(context: FleetContext, name: string): Promise<void> {
  refuseSealed(context, name);
  const plane = await context.runningDataPlane();
  const isMounted = plane !== null && (await plane.status()).mounts.some((mount) => mount.id === name);
  if (isMounted)
    throw new StrataError('BUSY', `appliance ${name} is mounted`, { hint: `first: strata umount ${name}` });
}

/** The clone's policy, with what its substitutes and grafts will show, before anybody has to wait for it. */
async function policyFor(context: FleetContext, row: CatalogRow, options: PolicySource): Promise<Stricter> {
  await context.locks.with([COMMIT], () =>
    settleSealed(context, row.name, applianceDefinition(context, row).record),
  );
  return clonePolicy(context, row, options);
}

/** Under the locks of source and clone, and the commit lock. */
async function cloneNow(
  context: FleetContext,
  o: {
    source: string;
    name: string;
    policy: Stricter;
    options: QuotaOptions & { ttlSeconds?: number };
    started: number;
  },
): Promise<Cloned> {
  const { name, policy, started } = o;
  const row = applianceRow(context, o.source);
  refuseExisting(context, [name], null);
  await refuseMounted(context, row.name);
  settleSealed(context, row.name, applianceDefinition(context, row).record);
  const staged = await stage(context, row, { name, policy, options: o.options });
  try {
    await commit(context, staged);
  } catch (error) {
    removeTree(staged.dir);
    throw error;
  }
  const { mac, template } = staged.target;
  return {
    name,
    mac,
    template,
    source: row.name,
    layers: staged.target.frozen.length,
    elapsed_ms: elapsed(started),
  };
}

async function stage(
  context: FleetContext,
  row: CatalogRow,
  o: { name: string; policy: Stricter; options: QuotaOptions & { ttlSeconds?: number } },
): Promise<Staged> {
  const { name, policy } = o;
  const { paths } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, row.name);
  const dir = join(paths.appliances, `.tmp-${operationId()}`);
  mkdirSync(dir, { mode: 0o700 });
  try {
    const isEmpty = [privateDir, whiteoutsDir].every((one) => namesIn(one).length === 0);
    const id = isEmpty ? null : operationId();
    const frozen = id === null ? row.frozen : [id, ...row.frozen];
    const [mac] = allocateMacs(1, (one) => context.catalog.nameOfMac(one) !== null) as [string];
    const definition = row.own ? await copyOwnGeneration(context, row, name, join(dir, 'appliance')) : null;
    const expires = endOf(o.options.ttlSeconds);
    const state = stageAppliance(context, row, { name, mac, frozen, expires, dir });
    stageQuota(join(dir, 'appliance'), o.options, readLimits(privateDir), true);
    // What a policy hides of it is found when the clone is first mounted.
    const usage = readUsage(privateDir);
    if (usage !== null) stageUsage(join(dir, 'appliance'), { ...usage, state: 'stale' }, true);
    const from = inState(paths, dir);
    const steps: JournalStep[] = [];
    if (id !== null) {
      mkdirSync(frozenDir(paths, id), { mode: 0o700 });
      steps.push(...freezeSteps(context, row, id, dir), ...ownFrozenSteps(paths, row.name, id));
    }
    steps.push({ do: 'rename', from: join(from, 'appliance'), to: join('appliances', name) });
    steps.push({ do: 'rename', from: join(from, 'machine'), to: join('machines', mac) });
    steps.push(...policy.steps, policyStep(join('appliances', name), policy.record));
    steps.push({ do: 'remove', path: from });
    for (const one of [join(dir, 'appliance'), dir, paths.frozen]) syncDirectory(one);
    const family = familyOf(state)!;
    const target = { ...row, name, mac, frozen, family, generation: definition?.record.generation ?? null };
    return { dir, id, source: { ...row, frozen }, target, definition, steps };
  } catch (error) {
    removeTree(dir);
    throw error;
  }
}

function stateOf(context: FleetContext, row: CatalogRow): ApplianceState {
  const state = readJsonIfThere(
    join(context.paths.appliances, row.name, 'state.json'),
  ) as ApplianceState | null;
  if (state === null) throw new StrataError('BAD_FORMAT', `appliance ${row.name} has no state.json`);
  return state;
}

function textOf(state: ApplianceState): string {
  return `${JSON.stringify(state)}\n`;
}

/** The clone's directory and its link of a machine. */
function stageAppliance(
  context: FleetContext,
  row: CatalogRow,
  o: { name: string; mac: string; frozen: FrozenId[]; expires: string | null; dir: string },
): ApplianceState {
  const { dir: source, privateDir } = applianceDirs(context.paths, row.name);
  const at = join(o.dir, 'appliance');
  if (!row.own) {
    mkdirSync(at, { mode: 0o755 });
    writeNewFile(join(at, 'ldf'), readTextIfThere(join(source, 'ldf')) ?? '');
  }
  mkdirSync(join(at, 'private'), { mode: 0o755 });
  copyRootAttributes(privateDir, join(at, 'private'));
  const { snapshots: _, expires: __, ...kept } = stateOf(context, row);
  const state: ApplianceState = {
    ...kept,
    name: o.name,
    mac: o.mac,
    createdAt: new Date().toISOString(),
    parent: row.name,
    parentCreatedAt: row.family.createdAt,
    base: o.frozen,
    ...(o.frozen.length > 0 ? { frozen: o.frozen } : {}),
    ...(o.expires === null ? {} : { expires: o.expires }),
  };
  writeNewFile(join(at, 'state.json'), textOf(state));
  stageBase(at, baseOf(context.paths, row.name));
  // What is judged at open in the source is so in the clone.
  const onOpen = readTextIfThere(onOpenFile(privateDir));
  if (onOpen !== null) writeNewFile(onOpenFile(join(at, 'private')), onOpen);
  symlinkSync(`../appliances/${o.name}`, join(o.dir, 'machine'));
  return state;
}

/** The source's private layer and whiteouts become the frozen layer `id`; empty ones take their places. */
function freezeSteps(context: FleetContext, row: CatalogRow, id: FrozenId, dir: string): JournalStep[] {
  const { paths } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, row.name);
  const state = stateOf(context, row);
  const steps: JournalStep[] = [];
  for (const part of ['private', 'whiteouts'] as const) {
    const own = part === 'private' ? privateDir : whiteoutsDir;
    if (!isThere(own)) continue;
    const fresh = join(dir, part);
    mkdirSync(fresh, { mode: 0o755 });
    if (part === 'private') copyRootAttributes(own, fresh);
    steps.push({
      do: 'replace',
      from: inState(paths, fresh),
      to: inState(paths, own),
      trash: inState(paths, join(frozenDir(paths, id), part)),
    });
  }
  const text = textOf({ ...state, frozen: [id, ...row.frozen] });
  steps.push({ do: 'write', path: join('appliances', row.name, 'state.json'), text });
  return steps;
}

async function commit(context: FleetContext, staged: Staged): Promise<void> {
  context.onStep('clone-staged');
  const record = await context.journal.commit('clone', staged.steps);
  if (staged.definition !== null) context.ownDefinitions.set(staged.target.name, staged.definition);
  try {
    context.catalog.put([staged.source, staged.target]);
    context.onStep('catalog');
  } finally {
    context.journal.finish(record);
  }
}
