/**
 * Updates (paper, section 4.4): every template moves to the newest units that are not held and that fit together, referenced templates
 * first, and every appliance follows. Fetching and configuring happen beside what is in use; each template's commit is one step. A
 * template or appliance that cannot move is held back with the reason, everything else proceeds.
 */
import { join } from 'node:path';
import { type Progress, StrataError } from '../../base/index.ts';
import { type ApplianceState, applianceLock } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { resolveOwn } from '../appliances/own-layers.ts';
import { type FleetContext, templateState, unitsInUse } from '../context.ts';
import type { UpdateResult } from '../contract.ts';
import { behindSealed } from '../sealed/settle.ts';
import { commitTemplate, definitionOf } from '../state/commit.ts';
import { readJsonIfThere, removeTree, replaceFile } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import {
  inDependencyOrder,
  layerNames,
  refDefinitions,
  refExplicitLayers,
  refreshLdf,
  wantedOf,
} from './definitions.ts';
import { followOwn, reconcileMounts } from './follow.ts';
import type { Definition, GenerationRecord } from './generations.ts';
import { explicitLayers, formatLdf, ldfRefs, rewriteLdf } from './ldf.ts';
import { changesBetween, type Resolution, resolveIntent } from './resolve-definition.ts';
import { commitSteps, configsOfRefs, stageGeneration } from './stage.ts';
import { elapsed, templateLock } from './templates.ts';

type TemplateResult = UpdateResult['templates'][number];

export interface UpdateOptions {
  templates?: string[] | undefined;
  dryRun?: boolean | undefined;
  /** 'none' only follows referenced templates (after a rollback). */
  upgrade?: 'all' | 'none';
}

/** Templates that are worked on at the same time: a third of a configuration run is waiting. */
const PARALLEL = 4;
/** Failures that are not a template's own fault: they end the command. */
const FATAL = new Set(['INTERNAL', 'IO', 'NO_SPACE', 'DAEMON', 'USAGE']);

export async function updateFleet(
  context: FleetContext,
  options: UpdateOptions,
  progress: Progress,
): Promise<UpdateResult> {
  const started = performance.now();
  const names = inDependencyOrder(context, options.templates);
  return context.locks.with(names.map(templateLock), async () => {
    const result: UpdateResult = { templates: [], appliances: { updated: 0, held_back: [] }, elapsed_ms: 0 };
    if (!options.dryRun) await context.locks.with([COMMIT], () => reconcileMounts(context));
    await forAll(context, names, (name) => updateTemplate(context, name, options, result, progress));
    if (!options.dryRun) {
      await updateOwnLayers(context, new Set(names), result, progress);
      // Staging beside the appliances has changed their directory's time.
      await context.locks.with([COMMIT], () => context.catalog.put([]));
    }
    result.templates.sort((a, b) => (a.name < b.name ? -1 : 1));
    result.elapsed_ms = elapsed(started);
    return result;
  });
}

/** Runs `work` for every template after those it refers to, at most PARALLEL at once, the one with the most layers first: it takes longest. */
async function forAll(
  context: FleetContext,
  names: string[],
  work: (name: string) => Promise<void>,
): Promise<void> {
  const done = new Map<string, Promise<void>>();
  const waiting: { layers: number; go: () => void }[] = [];
  let running = 0;
  const dispatch = (): void => {
    waiting.sort((a, b) => a.layers - b.layers);
    for (; running < PARALLEL && waiting.length > 0; running++) waiting.pop()!.go();
  };
  for (const name of names) {
    const { definition } = templateState(context, name);
    const before = ldfRefs(definition.ldf).map((ref) => done.get(ref));
    const run = async () => {
      await Promise.all(before);
      await new Promise<void>((go) => {
        waiting.push({ layers: definition.record.units.length, go });
        setImmediate(dispatch);
      });
      try {
        await work(name);
      } finally {
        running--;
        dispatch();
      }
    };
    done.set(name, run());
  }
  const outcomes = await Promise.allSettled(done.values());
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed) throw failed.reason;
}

async function updateTemplate(
  context: FleetContext,
  name: string,
  options: UpdateOptions,
  result: UpdateResult,
  progress: Progress,
): Promise<void> {
  const from = templateState(context, name).definition.record.generation;
  try {
    const { definition } = refreshLdf(context, name);
    const plan = await planTemplate(context, definition, options.upgrade ?? 'all', progress);
    if (plan === null) {
      if (!options.dryRun) setHeldBack(context, name, null);
      return;
    }
    const entry: TemplateResult = { name, from, to: from + 1, changes: plan.changes };
    if (options.dryRun) {
      result.templates.push(entry);
      return;
    }
    progress({ phase: 'update', message: `updating template ${name}` });
    // Templates move side by side: read the sum only after the await.
    const moved = await moveTemplate(context, definition, plan, progress);
    const waiting = [...behindSealed(context, (one) => followed(context, name, one))];
    result.appliances.updated += moved - waiting.length;
    result.appliances.held_back.push(...waiting.map(([one, reason]) => ({ name: one, reason })));
    setHeldBack(context, name, null);
    result.templates.push(entry);
  } catch (error) {
    if (!(error instanceof StrataError) || FATAL.has(error.code)) throw error;
    result.templates.push({ name, from, to: from, changes: [], held_back: error.message });
    if (!options.dryRun) setHeldBack(context, name, error.message);
    for (const row of context.catalog.ofTemplate(name))
      if (!row.own) result.appliances.held_back.push({ name: row.name, reason: error.message });
  }
}

/** The generation that an appliance of the template has by following it; null for others. */
function followed(context: FleetContext, template: string, name: string): GenerationRecord | null {
  const row = context.catalog.get(name);
  if (row?.template !== template || context.ownDefinitions.has(name)) return null;
  return templateState(context, template).definition.record;
}

interface Plan {
  resolution: Resolution;
  ldfText: string;
  refs: Definition[];
  changes: TemplateResult['changes'];
}

/** For each template: the state of the world in which nothing was to be done for it. */
const settled = new WeakMap<Definition, string>();

async function planTemplate(
  context: FleetContext,
  definition: Definition,
  upgrade: 'all' | 'none',
  progress: Progress,
): Promise<Plan | null> {
  const world = await context.repositories.world(unitsInUse(context));
  const refNames = ldfRefs(definition.ldf);
  const refs = refDefinitions(context, refNames);
  const state = `${upgrade}\n${refs.map((ref) => `${ref.owner} ${ref.record.generation}`).join('\n')}\n${world.key}`;
  if (settled.get(definition) === state) return null;
  const intent = {
    what: `template ${definition.owner}`,
    explicit: wantedOf(explicitLayers(definition.ldf)),
    refs,
    refExplicit: refExplicitLayers(context, refNames),
    installed: definition.record.units,
    ldf: definition.ldf,
    upgrade,
    recommends: definition.record.recommends,
  };
  const resolution = resolveIntent(world, intent, progress);
  const changes = changesBetween(definition.record.units, resolution.ids);
  const refConfigs = configsOfRefs(refs);
  const oldConfigs = definition.record.configs.filter((ref) => ref.owner !== definition.owner);
  const isSame = changes.length === 0 && JSON.stringify(refConfigs) === JSON.stringify(oldConfigs);
  if (isSame) {
    settled.set(definition, state);
    return null;
  }
  return { resolution, refs, changes, ldfText: formatLdf(rewriteLdf(definition.ldf, resolution)) };
}

async function moveTemplate(
  context: FleetContext,
  definition: Definition,
  plan: Plan,
  progress: Progress,
): Promise<number> {
  const { resolution, refs, ldfText } = plan;
  const staged = await stageGeneration(context, {
    owner: definition.owner,
    what: `template ${definition.owner}`,
    generation: definition.record.generation + 1,
    ldfText,
    ids: resolution.ids,
    explicit: layerNames([...resolution.explicit, ...refExplicitLayers(context, ldfRefs(definition.ldf))]),
    previous: definition,
    refs,
    configure: definition.record.configure,
    recommends: definition.record.recommends,
    reason: 'update',
    progress,
  });
  try {
    return await commitTemplate(context, staged);
  } finally {
    removeTree(staged.stageDir);
  }
}

/** Remembers why a template could not follow, in memory and in templates/NAME/state.json. */
export function setHeldBack(context: FleetContext, name: string, reason: string | null): void {
  const state = templateState(context, name);
  if (state.heldBack === reason) return;
  replaceFile(
    join(context.paths.templates, name, 'state.json'),
    `${JSON.stringify({ format: 1, heldBack: reason })}\n`,
  );
  context.templates.set(name, { ...state, heldBack: reason });
}

/** Appliances with layers of their own follow their templates by a resolution of their own; equal ones are resolved once. */
export async function updateOwnLayers(
  context: FleetContext,
  templates: ReadonlySet<string>,
  result: UpdateResult,
  progress: Progress,
): Promise<void> {
  const known = new Map<string, Promise<Resolution & { ldfText: string }>>();
  for (const { name } of context.catalog.withOwnLayers()) {
    await context.locks.with([applianceLock(name)], async () => {
      const row = context.catalog.get(name);
      const definition = context.ownDefinitions.get(name);
      if (row === null || !definition || !templates.has(row.template)) return;
      try {
        const key = JSON.stringify([row.template, definition.ldfText, definition.record.units]);
        const resolving = known.get(key) ?? resolveOwn(context, definition, progress);
        known.set(key, resolving);
        if (await moveOwn(context, row, definition, await resolving, progress)) result.appliances.updated++;
      } catch (error) {
        if (!(error instanceof StrataError) || FATAL.has(error.code)) throw error;
        result.appliances.held_back.push({ name, reason: error.message });
        await setApplianceHeldBack(context, row, error.message);
      }
    });
  }
}

async function moveOwn(
  context: FleetContext,
  row: CatalogRow,
  definition: Definition,
  resolution: Resolution & { ldfText: string },
  progress: Progress,
): Promise<boolean> {
  const refs = refDefinitions(context, ldfRefs(definition.ldf));
  const changes = changesBetween(definition.record.units, resolution.ids);
  const oldConfigs = definition.record.configs.filter((ref) => ref.owner !== definition.owner);
  const oldRefs = definition.record.refs.map((ref) => ref.generation);
  const newRefs = refs.map((ref) => ref.record.generation);
  const isSame =
    changes.length === 0 &&
    JSON.stringify(configsOfRefs(refs)) === JSON.stringify(oldConfigs) &&
    JSON.stringify(oldRefs) === JSON.stringify(newRefs);
  if (isSame) {
    await setApplianceHeldBack(context, row, null);
    return false;
  }
  const staged = await stageGeneration(context, {
    owner: definition.owner,
    what: `appliance ${row.name}`,
    generation: definition.record.generation + 1,
    ldfText: resolution.ldfText,
    ids: resolution.ids,
    explicit: layerNames([...resolution.explicit, ...refExplicitLayers(context, ldfRefs(definition.ldf))]),
    previous: definition,
    refs,
    configure: definition.record.configure,
    recommends: definition.record.recommends,
    reason: 'update',
    progress,
  });
  try {
    await context.locks.with([COMMIT], async () => {
      const id = await context.journal.commit('update-appliance', commitSteps(context, staged));
      context.ownDefinitions.set(row.name, definitionOf(staged));
      try {
        context.catalog.put([{ ...row, generation: staged.record.generation }]);
        await followOwn(context, row, definition.record);
      } finally {
        context.journal.finish(id);
      }
    });
  } finally {
    removeTree(staged.stageDir);
  }
  await setApplianceHeldBack(context, row, null);
  return true;
}

async function setApplianceHeldBack(
  context: FleetContext,
  row: CatalogRow,
  reason: string | null,
): Promise<void> {
  await context.locks.with([COMMIT], () => {
    const now = context.catalog.get(row.name);
    if (now === null) return;
    if (now.heldBack === reason) return;
    const file = join(context.paths.appliances, row.name, 'state.json');
    const state = readJsonIfThere(file) as ApplianceState | null;
    if (state === null) return;
    replaceFile(file, `${JSON.stringify({ ...state, heldBack: reason })}\n`);
    context.catalog.put([{ ...now, heldBack: reason }]);
  });
}
