/**
 * Clones, in two halves: the private layer of the source is frozen (freeze-source.ts), at one instant, where strata-fs serves it in one turn between the requests;
 * then the clone appears, by one journal record, over the same frozen layers. The cost does not depend on what the layer holds.
 */
import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { checkObjectName, StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import {
  completePrivate,
  copyRootAttributes,
  finishPrivate,
  onOpenFile,
  readLimits,
  readUsage,
} from '../../vlfs/index.ts';
import {
  type ApplianceState,
  applianceLock,
  applianceRow,
  refuseExisting,
} from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { allocateMacs } from '../appliances/macs.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet, PolicySource, QuotaOptions } from '../contract.ts';
import { familyOf, snapshotOf, splitPlace } from '../family/record.ts';
import { endOf } from '../family/ttl.ts';
import { baseOf, baseTexts } from '../import/base.ts';
import { refuseLingering } from '../mounts/mount-list.ts';
import { clonePolicy, type Stricter } from '../policy/apply.ts';
import { POLICY_FILE, policyText } from '../policy/record.ts';
import { quotaTexts } from '../quota/quotas.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { readJsonIfThere, readTextIfThere, removeTree, writeNewFile } from '../state/files.ts';
import type { JournalStep, PreparedCommit } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import { inState } from '../state/paths.ts';
import { applianceDefinition, vlfsSpec } from '../templates/follow.ts';
import type { Definition } from '../templates/generations.ts';
import { elapsed } from '../templates/templates.ts';
import { type Frozen, freezeUnsettled, NotServed, settleFreeze } from './freeze-source.ts';
import { type FrozenId, frozenDir } from './frozen.ts';
import { copyOwnGeneration } from './own-layers.ts';
import { servedBy, wasServed } from './served.ts';

type Cloned = Awaited<ReturnType<Fleet['clone']>>;

/** What is prepared for a clone before anything changes. */
interface Staged {
  /** The appliance's directory, beside its place. */
  dir: string;
  target: CatalogRow;
  definition: Definition | null;
  record: PreparedCommit;
}

/**
 * Makes the appliance `name` from what `source` is at one instant. It is there once no kill can undo it; the locks are held a little longer. `onDisk`: resolves when it is
 * on the disk; before that a power cut may undo it, together with all that was written since.
 */
export function cloneAppliance(
  context: FleetContext,
  options: Parameters<Fleet['clone']>[0],
): Promise<{ cloned: Cloned; onDisk: Promise<void> }> {
  return new Promise((resolve, reject) => {
    const onDisk = makeClone(context, options, (cloned) => resolve({ cloned, onDisk }));
    onDisk.catch(reject);
  });
}

async function makeClone(
  context: FleetContext,
  options: Parameters<Fleet['clone']>[0],
  done: (cloned: Cloned) => void,
): Promise<void> {
  const started = performance.now();
  const name = checkObjectName('appliance', options.name);
  endOf(options.ttlSeconds);
  const grafted = (options.grafts ?? []).map(({ appliance }) => appliance);
  const { name: source, snapshot } = splitPlace(options.source);
  const locked = [...new Set([source, name, ...grafted])].map(applianceLock);
  const sync = await context.locks.with(locked, async () => {
    // Under the lock: a mount that is just being made must be seen, or its private layer would be exchanged below it. Answered while the policy is looked at.
    const asked = wasServed(context, source) ? context.runningDataPlane() : servedBy(context, source);
    asked.catch(() => {});
    const row = applianceRow(context, source);
    if (snapshot !== null) snapshotOf(row, snapshot);
    refuseExisting(context, [name], null);
    refuseSealed(context, row.name);
    const policy = await policyFor(context, row, options);
    const attempt = async (plane: DataPlane | null): Promise<() => Promise<void>> => {
      if (plane === null && snapshot === null) {
        await refuseLingering(context, [source]);
        finishPrivate(vlfsSpec(context, row));
        // Copies of a few blocks over a layer's file are read slowly once they are frozen. Slow, so it holds no commit.
        await completePrivate(applianceDirs(context.paths, row.name).privateDir);
      }
      return context.locks.with([COMMIT], () =>
        cloneNow(context, { source: row.name, name, policy, options, plane, started, done }),
      );
    };
    try {
      return await attempt(await asked);
    } catch (error) {
      if (!(error instanceof NotServed)) throw error;
      return await attempt(await servedBy(context, source));
    } finally {
      policy.discard();
    }
  });
  await sync();
}

/** The clone's policy, with what its substitutes and grafts will show, before anybody has to wait for it. */
async function policyFor(context: FleetContext, row: CatalogRow, options: PolicySource): Promise<Stricter> {
  await context.locks.with([COMMIT], () =>
    settleSealed(context, row.name, applianceDefinition(context, row).record),
  );
  return clonePolicy(context, row, options);
}

/** Under the locks of source and clone, and the commit lock. `plane`: it serves the source. Gives what waits until all is on the disk. */
async function cloneNow(
  context: FleetContext,
  o: {
    source: string;
    name: string;
    policy: Stricter;
    options: Parameters<Fleet['clone']>[0];
    plane: DataPlane | null;
    started: number;
    done: (cloned: Cloned) => void;
  },
): Promise<() => Promise<void>> {
  const { name, policy, plane, started, done } = o;
  const row = applianceRow(context, o.source);
  refuseExisting(context, [name], null);
  refuseSealed(context, row.name);
  settleSealed(context, row.name, applianceDefinition(context, row).record);
  const { snapshot } = splitPlace(o.options.source);
  let sync = async (): Promise<void> => {};
  let staged: Staged | null = null;
  const discard = (): void => {
    if (staged === null) return;
    staged.record.discard();
    removeTree(staged.dir);
    staged = null;
  };
  const stageOf = async (source: CatalogRow): Promise<Staged> => {
    discard();
    staged = await stage(context, { row: source, name, policy, options: o.options });
    return staged;
  };
  try {
    const { source, id } =
      snapshot === null
        ? await freezeUnsettled(context, row, plane, async (next) => void (await stageOf(next)))
        : asItWas(row, snapshot);
    const made: Staged = staged ?? (await stageOf(source));
    takeRoot(context, source, id, made);
    staged = null;
    await commit(context, made);
    const { mac, template, frozen } = made.target;
    done({ name, mac, template, source: row.name, layers: frozen.length, elapsed_ms: elapsed(started) });
  } finally {
    discard();
    sync = await settleFreeze(context, o.source, snapshot === null ? plane : null);
  }
  return sync;
}

/** The source at a snapshot: that is frozen already. */
function asItWas(row: CatalogRow, snapshot: string): Frozen {
  const { frozen } = snapshotOf(row, snapshot);
  return { source: { ...row, frozen }, id: frozen[0] ?? null };
}

/** Needs no frozen layer, only who has which. */
async function stage(
  context: FleetContext,
  o: {
    row: CatalogRow;
    name: string;
    policy: Stricter;
    options: QuotaOptions & { ttlSeconds?: number };
  },
): Promise<Staged> {
  const { row, name, policy } = o;
  const { paths } = context;
  const dir = join(paths.appliances, `.tmp-${operationId()}`);
  mkdirSync(dir, { mode: 0o755 });
  try {
    const [mac] = allocateMacs(1, (one) => context.catalog.nameOfMac(one) !== null) as [string];
    const definition = row.own ? await copyOwnGeneration(context, row, name, dir) : null;
    const expires = endOf(o.options.ttlSeconds);
    const { privateDir } = applianceDirs(paths, row.name);
    const { state, texts } = stageAppliance(context, row, { name, mac, expires, dir });
    // What a policy hides of it is found when the clone is first mounted.
    const usage = readUsage(privateDir);
    const stale = usage === null ? null : { ...usage, state: 'stale' as const };
    texts.push(...quotaTexts(o.options, readLimits(privateDir), stale));
    texts.push([POLICY_FILE, policyText(policy.record)]);
    for (const [file, text] of texts) writeNewFile(join(dir, file), text, false);
    const to = join('appliances', name);
    const writes = texts.map(([file, text]): JournalStep => ({ do: 'write', path: join(to, file), text }));
    const steps: JournalStep[] = [
      { do: 'rename', from: inState(paths, dir), to },
      { do: 'link', path: join('machines', mac), target: join('..', to) },
      ...policy.steps,
      ...writes,
    ];
    const family = familyOf(state)!;
    const target = { ...row, name, mac, family, generation: definition?.record.generation ?? null };
    const record = context.journal.prepareFirst('clone', steps, new Set(writes));
    return { dir, target, definition, record };
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

/** The clone gets the root directory as it was at the instant. */
function takeRoot(context: FleetContext, source: CatalogRow, id: FrozenId | null, { dir }: Staged): void {
  const { privateDir } = applianceDirs(context.paths, source.name);
  const root = id === null ? privateDir : join(frozenDir(context.paths, id), 'private');
  copyRootAttributes(root, join(dir, 'private'));
}

/** The clone's directory. Gives the files that are to be in it. */
function stageAppliance(
  context: FleetContext,
  row: CatalogRow,
  o: { name: string; mac: string; expires: string | null; dir: string },
): { state: ApplianceState; texts: [string, string][] } {
  const { dir: source, privateDir } = applianceDirs(context.paths, row.name);
  const texts: [string, string][] = [];
  if (!row.own) texts.push(['ldf', readTextIfThere(join(source, 'ldf')) ?? '']);
  mkdirSync(join(o.dir, 'private'), { mode: 0o755 });
  const { snapshots: _, expires: __, frozen: ___, ...kept } = stateOf(context, row);
  const state: ApplianceState = {
    ...kept,
    name: o.name,
    mac: o.mac,
    createdAt: new Date().toISOString(),
    parent: row.name,
    parentCreatedAt: row.family.createdAt,
    base: row.frozen,
    ...(row.frozen.length > 0 ? { frozen: row.frozen } : {}),
    ...(o.expires === null ? {} : { expires: o.expires }),
  };
  texts.push(['state.json', `${JSON.stringify(state)}\n`]);
  texts.push(...baseTexts(baseOf(context.paths, row.name)));
  // What is judged at open in the source is so in the clone.
  const onOpen = readTextIfThere(onOpenFile(privateDir));
  if (onOpen !== null) texts.push([basename(onOpenFile(privateDir)), onOpen]);
  return { state, texts };
}

/** The clone is there, whatever is killed. The journal is to be settled. */
async function commit(context: FleetContext, staged: Staged): Promise<void> {
  context.onStep('clone-staged');
  await staged.record.commit();
  if (staged.definition !== null) context.ownDefinitions.set(staged.target.name, staged.definition);
  context.catalog.putLater([staged.target]);
  context.onStep('catalog');
}
