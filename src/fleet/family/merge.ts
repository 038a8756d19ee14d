/**
 * Merging an appliance into another one, three-way. Both are frozen first, which changes nothing that one can see; so both may be mounted and busy. Then the changes are brought beside
 * everything into a layer for the parent as it was at that instant; and in one step this becomes the parent's newest frozen layer, and the clone notes what both have in
 * common from now on. What the parent's programs have changed meanwhile at the same places makes it begin again. Killed anywhere, the merge is done wholly or not.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { asStrataError, StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import type { MergeChoice, MergeConflict, VlfsSpec } from '../../vlfs/contract.ts';
import {
  ADOPT_FILE,
  type AdoptFacts,
  copyRootAttributes,
  countAside,
  type MergeInput,
  type MergeOutcome,
  mergeAside,
  readLimits,
  rootFactsOf,
} from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { freezeSource } from '../clone/freeze-source.ts';
import { type FrozenId, frozenDir } from '../clone/frozen.ts';
import { servedBy } from '../clone/served.ts';
import { discardStaged, dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { refuseLingering } from '../mounts/mount-list.ts';
import { ownFrozenSteps, policyRecord } from '../policy/record.ts';
import { refuseSealed } from '../sealed/settle.ts';
import { syncFileSystemAside } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { COMMIT } from '../state/locks.ts';
import { inState } from '../state/paths.ts';
import { vlfsSpec } from '../templates/follow.ts';
import { elapsed } from '../templates/templates.ts';
import { baseOf, cloneOf, withMerge } from './base.ts';
import { commitExchange } from './exchange.ts';
import { viewSpec } from './places.ts';
import { makeQuiet } from './quiet.ts';
import { stateStep } from './record.ts';

type MergeOptions = Parameters<Fleet['merge']>[0];
type Merged = Awaited<ReturnType<Fleet['merge']>>;

/** So often it begins again when programs change what is merged. */
const TRIES = 4;

export async function mergeAppliances(context: FleetContext, o: MergeOptions): Promise<Merged> {
  const started = performance.now();
  const { name, into } = o;
  for (const one of [name, into]) applianceRow(context, one);
  if (name === into) throw new StrataError('USAGE', 'an appliance cannot be merged into itself');
  await refuseLingering(context, [name, into]);
  return context.locks.with([applianceLock(name), applianceLock(into)], async () => {
    refuseMoreThanPolicy(context, name, into);
    const planes: Planes = { child: await servedBy(context, name), parent: await servedBy(context, into) };
    for (const [one, plane] of [
      [name, planes.child],
      [into, planes.parent],
    ] as const) {
      if (plane === null) await makeQuiet(context, applianceRow(context, one));
      else refuseSealed(context, one);
    }
    if (o.dryRun === true) {
      const input = { ...sidesOf(context, o), target: null, choice: choiceOf(o) };
      const { facts: _, ...outcome } = await mergeAside(input);
      return { name, into, merged: false, ...outcome, elapsed_ms: elapsed(started) };
    }
    const outcome = await mergeUntilDone(context, o, planes);
    return { name, into, merged: true, ...outcome, elapsed_ms: elapsed(started) };
  });
}

/** strata-fs, where it serves them. */
interface Planes {
  child: DataPlane | null;
  parent: DataPlane | null;
}

async function mergeUntilDone(context: FleetContext, o: MergeOptions, planes: Planes): Promise<Outcome> {
  for (let tries = 1; ; tries++) {
    const pair = await freezeBoth(context, o, planes);
    try {
      return await mergeFrozen(context, o, pair);
    } catch (thrown) {
      const error = asStrataError(thrown);
      if (error.code !== 'BUSY' || planes.parent === null) throw error;
      if (tries < TRIES) continue;
      throw new StrataError('BUSY', `${error.message}, ${TRIES} times`, {
        hint: `let the programs in ${o.into} rest for a moment, or unmount it: strata umount ${o.into}`,
      });
    }
  }
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

/** What is compared: both as they are (`pair`: as their frozen layers have them), and what they were when they were alike. */
function sidesOf(
  context: FleetContext,
  { name, into }: MergeOptions,
  pair: Pair | null = null,
): Omit<MergeInput, 'target' | 'choice'> {
  const child = applianceRow(context, name);
  const parent = applianceRow(context, into);
  const base = pair?.base ?? baseOf(context, child, parent);
  const shown = (row: CatalogRow): VlfsSpec =>
    pair === null ? vlfsSpec(context, row) : viewSpec(context, row, row.frozen);
  return {
    child: shown(child),
    childBase: viewSpec(context, child, base),
    parent: shown(parent),
    parentBase: viewSpec(context, parent, base),
    leavesMarked: cloneOf(context, child, parent)?.name === into,
  };
}

interface Pair {
  child: CatalogRow;
  parent: CatalogRow;
  base: FrozenId[];
}

/** Both at one instant each; nothing that one can see changes. */
function freezeBoth(context: FleetContext, o: MergeOptions, planes: Planes): Promise<Pair> {
  return context.locks.with([COMMIT], async () => {
    const child = (await freezeSource(context, applianceRow(context, o.name), planes.child)).source;
    const parent = (await freezeSource(context, applianceRow(context, o.into), planes.parent)).source;
    return { child, parent, base: baseOf(context, child, parent) };
  });
}

type Outcome = Omit<MergeOutcome, 'facts'>;

async function mergeFrozen(context: FleetContext, o: MergeOptions, pair: Pair): Promise<Outcome> {
  const { child, parent } = pair;
  const id = operationId();
  const stage = join(context.paths.frozen, `.tmp-${id}`);
  const target = stageTarget(context, parent, stage);
  const root = rootFactsOf(target.privateDir);
  let isRecorded = false;
  try {
    const { facts, ...outcome } = await mergeAside({
      ...sidesOf(context, o, pair),
      target,
      choice: choiceOf(o),
    });
    const left = outcome.conflicts.filter(({ taken }) => taken === null);
    if (left.length > 0) throw conflictError(child, parent, outcome.conflicts, left);
    await refuseTooMuch(context, parent, target);
    writeFileSync(join(stage, ADOPT_FILE), JSON.stringify({ ...facts, root } satisfies AdoptFacts));
    await syncFileSystemAside(stage);
    await context.locks.with([COMMIT], async () => {
      context.onStep('merge-staged');
      isRecorded = true;
      await commit(context, pair, { stage, id });
    });
    return outcome;
  } catch (error) {
    // What the journal has recorded is needed when it is completed; the next opening removes what is left.
    if (!isRecorded) discardStaged(context, basename(stage));
    throw error;
  }
}

/** The layer is the parent's newest, and the clone notes the merge. */
async function commit(
  context: FleetContext,
  { child, parent, base }: Pair,
  { stage, id }: { stage: string; id: FrozenId },
): Promise<void> {
  const { paths } = context;
  const before = applianceRow(context, parent.name);
  const now: CatalogRow = { ...before, frozen: [id, ...before.frozen] };
  const clone = cloneOf(context, child, parent);
  const rows: [CatalogRow, ...CatalogRow[]] = [now, applianceRow(context, child.name)];
  const keep = rows.some(({ family }) => family.snapshots.length > 0);
  const into = clone?.name === parent.name ? 'clone' : 'parent';
  for (const [i, row] of rows.entries()) {
    if (row.name !== clone?.name) continue;
    rows[i] = { ...row, family: withMerge(row.family, { into, layer: id, base: child.frozen }, base, keep) };
  }
  const steps: JournalStep[] = [
    { do: 'rename', from: inState(paths, stage), to: inState(paths, frozenDir(paths, id)) },
    ...ownFrozenSteps(paths, parent.name, id),
    ...rows.map((row) => stateStep(paths, row)),
  ];
  try {
    await commitExchange(context, 'merge', { rows, steps, before, fresh: null });
  } finally {
    dropUnusedFrozen(context, [id]);
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

/** The parent as it was frozen, with a fresh private layer. */
function stageTarget(context: FleetContext, parent: CatalogRow, stage: string): VlfsSpec {
  const { privateDir } = applianceDirs(context.paths, parent.name);
  mkdirSync(stage, { mode: 0o700 });
  for (const part of ['private', 'whiteouts']) mkdirSync(join(stage, part), { mode: 0o755 });
  copyRootAttributes(privateDir, join(stage, 'private'));
  const { denialsFile: _, ...shown } = vlfsSpec(context, parent);
  return { ...shown, privateDir: join(stage, 'private'), whiteoutsDir: join(stage, 'whiteouts') };
}
