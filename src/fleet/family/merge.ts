/**
 * Merging an appliance into another one, three-way. The changes are brought into a fresh private layer beside everything; then one record of the journal freezes what the
 * parent had, puts that layer above it, and freezes the child, whose state is what both have in common from now on. Killed anywhere, the merge is done wholly or not.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { LevelSpec, MergeConflict, VlfsSpec } from '../../vlfs/contract.ts';
import { copyRootAttributes, countAside, forgetUsage, mergeAside, readLimits } from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances.ts';
import type { CatalogRow } from '../catalog.ts';
import { type FrozenId, frozenDir, withFrozen } from '../clone/frozen.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { stackOf, stackOfLevels } from '../compose.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { namesIn, removeTree, syncDirectory, syncFileSystemAside } from '../files.ts';
import { applianceDefinition, vlfsSpec } from '../follow.ts';
import type { JournalStep } from '../journal.ts';
import { COMMIT } from '../locks.ts';
import { refuseLingering } from '../mount-list.ts';
import { inState } from '../paths.ts';
import { ownFrozenSteps, policedStack } from '../policy/record.ts';
import { applianceDirs } from '../private-files.ts';
import { elapsed } from '../templates.ts';
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
  await refuseLingering(context, [name, into]);
  return context.locks.with([applianceLock(name), applianceLock(into)], async () => {
    const child = applianceRow(context, name);
    const parent = applianceRow(context, into);
    for (const row of [child, parent]) await makeQuiet(context, row);
    const stage = join(context.paths.appliances, `.tmp-${operationId()}`);
    const target = o.dryRun === true ? null : stageTarget(context, parent, stage);
    let isRecorded = false;
    try {
      const outcome = await mergeAside({
        child: vlfsSpec(context, child),
        childBase: viewSpec(context, child, baseOf(context, child, parent)),
        parent: vlfsSpec(context, parent),
        parentBase: viewSpec(context, parent, baseOf(context, child, parent)),
        target: target?.spec ?? null,
        choice: { prefer: o.prefer ?? null, ours: o.ours ?? [], theirs: o.theirs ?? [] },
      });
      const left = outcome.conflicts.filter(({ taken }) => taken === null);
      if (target !== null && left.length > 0) throw conflictError(child, parent, outcome.conflicts, left);
      if (target !== null) {
        await refuseTooMuch(context, parent, target.spec);
        removeTree(join(stage, 'work'));
        await syncFileSystemAside(stage);
        isRecorded = true;
        await commit(context, { child, parent, stage, id: target.id });
      }
      return { name, into, merged: target !== null, ...outcome, elapsed_ms: elapsed(started) };
    } catch (error) {
      // What the journal has recorded is needed when it is completed; the next opening removes what is left.
      if (!isRecorded) removeTree(stage);
      throw error;
    }
  });
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

/** The fresh private layer, and the parent as it shows with it. `id`: what the parent's private layer will be, or null when it is empty. */
function stageTarget(
  context: FleetContext,
  parent: CatalogRow,
  stage: string,
): { spec: VlfsSpec; id: FrozenId | null } {
  const { paths, repositories } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, parent.name);
  mkdirSync(join(stage, 'private'), { recursive: true, mode: 0o755 });
  mkdirSync(join(stage, 'whiteouts'), { mode: 0o755 });
  copyRootAttributes(privateDir, join(stage, 'private'));
  const isEmpty = [privateDir, whiteoutsDir].every((dir) => namesIn(dir).length === 0);
  const id = isEmpty ? null : operationId();
  const below = withFrozen(
    paths,
    stackOf(paths, repositories, applianceDefinition(context, parent).record),
    parent.frozen,
  );
  const present: LevelSpec[] =
    id === null
      ? []
      : [
          {
            kind: 'frozen',
            id: `frozen/${id}`,
            treeDir: privateDir,
            indexFile: join(stage, 'index'),
            whiteoutsDir,
          },
        ];
  const stack = stackOfLevels([...present, ...below.levels]);
  const { denialsFile: _, ...shown } = vlfsSpec(context, parent);
  const spec = {
    ...shown,
    privateDir: join(stage, 'private'),
    whiteoutsDir: join(stage, 'whiteouts'),
    stack: policedStack(paths, parent.name, stack, id === null ? [] : [id]),
  };
  return { spec, id };
}

interface Committing {
  child: CatalogRow;
  parent: CatalogRow;
  stage: string;
  id: FrozenId | null;
}

async function commit(context: FleetContext, o: Committing): Promise<void> {
  const { child, parent, stage, id } = o;
  const { paths } = context;
  await context.locks.with([COMMIT], async () => {
    const steps: JournalStep[] = [];
    const childId = freezeChild(context, child, stage, steps);
    const before = id === null ? join(stage, 'trash') : frozenDir(paths, id);
    mkdirSync(before, { mode: 0o700 });
    steps.push(...replacePrivate(context, parent.name, { from: stage, to: before }));
    if (id !== null) steps.push(...ownFrozenSteps(paths, parent.name, id));
    steps.push({ do: 'remove', path: inState(paths, stage) });
    const childNow = childId === null ? child : { ...child, frozen: [childId, ...child.frozen] };
    const parentNow = id === null ? parent : { ...parent, frozen: [id, ...parent.frozen] };
    const clone = cloneOf(context, child, parent);
    const withBase = (row: CatalogRow): CatalogRow =>
      row.name === clone?.name ? { ...row, family: { ...row.family, base: childNow.frozen } } : row;
    for (const dir of [stage, paths.frozen]) syncDirectory(dir);
    context.onStep('merge-staged');
    forgetUsage(applianceDirs(paths, parent.name).privateDir);
    await commitRows(context, 'merge', [withBase(childNow), withBase(parentNow)], steps);
    dropUnusedFrozen(context);
  });
}

/** The child's private layer becomes a frozen one; null when it is empty. */
function freezeChild(
  context: FleetContext,
  child: CatalogRow,
  stage: string,
  steps: JournalStep[],
): FrozenId | null {
  const { paths } = context;
  const { privateDir, whiteoutsDir } = applianceDirs(paths, child.name);
  if ([privateDir, whiteoutsDir].every((dir) => namesIn(dir).length === 0)) return null;
  const id = operationId();
  const fresh = join(stage, 'child');
  for (const part of ['private', 'whiteouts']) mkdirSync(join(fresh, part), { recursive: true, mode: 0o755 });
  copyRootAttributes(privateDir, join(fresh, 'private'));
  mkdirSync(frozenDir(paths, id), { mode: 0o700 });
  steps.push(...replacePrivate(context, child.name, { from: fresh, to: frozenDir(paths, id) }));
  steps.push(...ownFrozenSteps(paths, child.name, id));
  syncDirectory(fresh);
  return id;
}
