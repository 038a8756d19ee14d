/**
 * Merging an appliance into another one, three-way. Both are frozen first, which changes nothing that one can see; so the child may be mounted. Then the changes are brought
 * into a fresh private layer beside everything, and one record of the journal puts it in the place of the parent's, which is empty, and notes the child's frozen layers as what
 * both have in common from now on. Killed anywhere, the merge is done wholly or not.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import type { MergeChoice, MergeConflict, VlfsSpec } from '../../vlfs/contract.ts';
import {
  copyRootAttributes,
  countAside,
  forgetUsage,
  type MergeInput,
  type MergeOutcome,
  mergeAside,
  readLimits,
} from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { servedBy } from '../clone/clone.ts';
import { freezeSource } from '../clone/freeze-source.ts';
import type { FrozenId } from '../clone/frozen.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { refuseLingering } from '../mounts/mount-list.ts';
import { policyRecord } from '../policy/record.ts';
import { removeTree, syncDirectory, syncFileSystemAside } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { inState } from '../state/paths.ts';
import { vlfsSpec } from '../templates/follow.ts';
import { elapsed } from '../templates/templates.ts';
import { commitRows } from './change.ts';
import { viewSpec } from './places.ts';
import { parentOf } from './record.ts';
import { makeQuiet, replacePrivate } from './replace-private.ts';

type MergeOptions = Parameters<Fleet['merge']>[0];
type Merged = Awaited<ReturnType<Fleet['merge']>>;

export async function mergeAppliances(context: FleetContext, o: MergeOptions): Promise<Merged> {
  const started = performance.now();
  const { name, into } = o;
  for (const one of [name, into]) applianceRow(context, one);
  if (name === into) throw new StrataError('USAGE', 'an appliance cannot be merged into itself');
  const plane = await servedBy(context, name);
  await refuseLingering(context, plane === null ? [name, into] : [into]);
  return context.locks.with([applianceLock(name), applianceLock(into)], async () => {
    refuseMoreThanPolicy(context, name, into);
    if (plane === null) await makeQuiet(context, applianceRow(context, name));
    await makeQuiet(context, applianceRow(context, into));
    if (o.dryRun === true) {
      const outcome = await mergeAside({ ...sidesOf(context, o), target: null, choice: choiceOf(o) });
      return { name, into, merged: false, ...outcome, elapsed_ms: elapsed(started) };
    }
    const outcome = await mergeFrozen(context, o, await freezeBoth(context, o, plane));
    return { name, into, merged: true, ...outcome, elapsed_ms: elapsed(started) };
  });
}

/** What a policy keeps from an appliance must not come to it as something of its own: DENIED when the other is under fewer rules. */
function refuseMoreThanPolicy({ paths }: FleetContext, name: string, into: string): void {
  const kept = new Set((policyRecord(paths, name)?.rules ?? []).map(({ pattern }) => pattern));
  const rule = (policyRecord(paths, into)?.rules ?? []).find(({ pattern }) => !kept.has(pattern));
  if (rule === undefined) return;
  throw new StrataError(
    'DENIED',
    `the policy of ${into} keeps ${rule.pattern} from it, and ${name} is not under that rule`,
    {
      hint: `strata merge ${into} ${name} brings changes the other way`,
    },
  );
}

function choiceOf({ prefer, ours, theirs }: MergeOptions): MergeChoice {
  return { prefer: prefer ?? null, ours: ours ?? [], theirs: theirs ?? [] };
}

/** What is compared: both as they are (`frozen`: the child as its frozen layers have it), and what they were when they were alike. */
function sidesOf(
  context: FleetContext,
  { name, into }: MergeOptions,
  frozen = false,
): Pick<MergeInput, 'child' | 'childBase' | 'parent' | 'parentBase'> {
  const child = applianceRow(context, name);
  const parent = applianceRow(context, into);
  const base = baseOf(context, child, parent);
  return {
    child: frozen ? viewSpec(context, child, child.frozen) : vlfsSpec(context, child),
    childBase: viewSpec(context, child, base),
    parent: vlfsSpec(context, parent),
    parentBase: viewSpec(context, parent, base),
  };
}

interface Pair {
  child: CatalogRow;
  parent: CatalogRow;
}

/** Both at one instant each; nothing that one can see changes. `plane`: it serves the child. */
function freezeBoth(context: FleetContext, o: MergeOptions, plane: DataPlane | null): Promise<Pair> {
  return context.locks.with([COMMIT], async () => ({
    child: (await freezeSource(context, applianceRow(context, o.name), plane)).source,
    parent: (await freezeSource(context, applianceRow(context, o.into), null)).source,
  }));
}

async function mergeFrozen(context: FleetContext, o: MergeOptions, pair: Pair): Promise<MergeOutcome> {
  const { child, parent } = pair;
  const stage = join(context.paths.appliances, `.tmp-${operationId()}`);
  const target = stageTarget(context, parent, stage);
  let isRecorded = false;
  try {
    const outcome = await mergeAside({ ...sidesOf(context, o, true), target, choice: choiceOf(o) });
    const left = outcome.conflicts.filter(({ taken }) => taken === null);
    if (left.length > 0) throw conflictError(child, parent, outcome.conflicts, left);
    await refuseTooMuch(context, parent, target);
    removeTree(join(stage, 'work'));
    await syncFileSystemAside(stage);
    isRecorded = true;
    await commit(context, pair, stage);
    return outcome;
  } catch (error) {
    // What the journal has recorded is needed when it is completed; the next opening removes what is left.
    if (!isRecorded) removeTree(stage);
    throw error;
  }
}

function conflictError(
  { name }: CatalogRow,
  parent: CatalogRow,
  conflicts: MergeConflict[],
  left: MergeConflict[],
): StrataError {
  const shown = left.slice(0, 5).map(({ path, kind }) => `${path} (${kind})`);
  const more = left.length > shown.length ? ` and ${left.length - shown.length} more` : '';
  return new StrataError(
    'CONFLICT',
    `${name} cannot be merged into ${parent.name}, nothing was done: in conflict are ${shown.join(', ')}${more}`,
    {
      hint: '--theirs takes the version of the child, --ours that of the parent; --theirs-path and --ours-path for single paths',
      data: { conflicts },
    },
  );
}

/** Throws NO_SPACE when the result would take more than the parent's quota. */
async function refuseTooMuch(context: FleetContext, parent: CatalogRow, target: VlfsSpec): Promise<void> {
  const limits = readLimits(applianceDirs(context.paths, parent.name).privateDir);
  if (limits === null) return;
  const { bytes, inodes } = await countAside(target);
  if (bytes <= (limits.bytes ?? bytes) && inodes <= (limits.inodes ?? inodes)) return;
  throw new StrataError('NO_SPACE', `merged, ${parent.name} would take more than its quota`, {
    hint: `strata quota ${parent.name} shows it`,
  });
}

/** The frozen layers that both showed when they were alike: noted of clone and parent, else those at the end of both lists. */
function baseOf(context: FleetContext, one: CatalogRow, other: CatalogRow): FrozenId[] {
  const clone = cloneOf(context, one, other);
  if (clone !== null && clone.family.base !== null) return clone.family.base;
  let count = 0;
  while (count < Math.min(one.frozen.length, other.frozen.length)) {
    if (one.frozen.at(-1 - count) !== other.frozen.at(-1 - count)) break;
    count++;
  }
  return one.frozen.slice(one.frozen.length - count);
}

/** Which of two is the clone of the other. */
function cloneOf(context: FleetContext, one: CatalogRow, other: CatalogRow): CatalogRow | null {
  const get = (name: string): CatalogRow | null => context.catalog.get(name);
  if (parentOf(one, get)?.name === other.name) return one;
  return parentOf(other, get)?.name === one.name ? other : null;
}

/** The parent with a fresh private layer. */
function stageTarget(context: FleetContext, parent: CatalogRow, stage: string): VlfsSpec {
  const { privateDir } = applianceDirs(context.paths, parent.name);
  for (const part of ['private', 'whiteouts']) mkdirSync(join(stage, part), { recursive: true, mode: 0o755 });
  copyRootAttributes(privateDir, join(stage, 'private'));
  const { denialsFile: _, ...shown } = vlfsSpec(context, parent);
  return { ...shown, privateDir: join(stage, 'private'), whiteoutsDir: join(stage, 'whiteouts') };
}

/** The fresh private layer takes the place of the parent's, which is empty. */
function commit(context: FleetContext, { child, parent }: Pair, stage: string): Promise<void> {
  const { paths } = context;
  return context.locks.with([COMMIT], async () => {
    const before = join(stage, 'before');
    mkdirSync(before, { mode: 0o700 });
    const steps = replacePrivate(context, parent.name, { from: stage, to: before });
    steps.push({ do: 'remove', path: inState(paths, stage) });
    const clone = cloneOf(context, child, parent);
    const rows = [parent, child]
      .map(({ name }) => applianceRow(context, name))
      .map((row) =>
        row.name === clone?.name ? { ...row, family: { ...row.family, base: child.frozen } } : row,
      );
    syncDirectory(stage);
    context.onStep('merge-staged');
    forgetUsage(applianceDirs(paths, parent.name).privateDir);
    await commitRows(context, 'merge', rows, steps);
    dropUnusedFrozen(context);
  });
}
