/** Templates: create, add and remove layers, hold, list, delete. Every change but a hold makes a new generation. */
import { join } from 'node:path';
import { checkObjectName, type Progress, StrataError } from '../../base/index.ts';
import { type FleetContext, operationId, templateState, unitsInUse } from '../context.ts';
import type { Fleet, LdfLine, TemplateInfo, TemplateTimings } from '../contract.ts';
import { commitNewTemplate, commitTemplate } from '../state/commit.ts';
import { isThere, removeTree } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import {
  dependents,
  layerNames,
  refDefinitions,
  refExplicitLayers,
  refreshLdf,
  templateInfo,
  unitOfLayer,
  wantedOf,
} from './definitions.ts';
import type { Definition } from './generations.ts';
import { type LayerArgument, parseLayerArgument } from './layer-argument.ts';
import {
  createLdf,
  explicitLayers,
  formatLdf,
  holdInLdf,
  type Ldf,
  ldfRefs,
  parseLdf,
  rewriteLdf,
} from './ldf.ts';
import { type Intent, type Resolution, resolveIntent, type WantedLayer } from './resolve-definition.ts';
import { stageGeneration } from './stage.ts';

export const templateLock = (name: string) => `template:${name}`;

/** Layer arguments of one command; a layer named twice is refused. */
export function parseLayers(texts: string[]): LayerArgument[] {
  const wanted = texts.map(parseLayerArgument);
  const names = layerNames(wanted);
  if (names.size < wanted.length) throw new StrataError('USAGE', 'a layer is named twice');
  return wanted;
}

type CreateOptions = Parameters<Fleet['templateCreate']>[0];

export async function createTemplate(
  context: FleetContext,
  options: CreateOptions,
  progress: Progress,
  { mayBeEmpty = false } = {},
): Promise<TemplateInfo & { elapsed_ms: number; timings: TemplateTimings }> {
  const started = performance.now();
  const name = checkObjectName('template', options.name);
  const explicit = parseLayers(options.layers);
  const from = [...new Set(options.from)];
  if (explicit.length === 0 && from.length === 0 && !mayBeEmpty) {
    throw new StrataError('USAGE', 'a template needs a layer or another template', {
      hint: `strata template create ${name} LAYER... or --from TEMPLATE`,
    });
  }
  return context.locks.with([name, ...from].map(templateLock), async () => {
    if (context.templates.has(name) || isThere(join(context.paths.templates, name))) {
      throw new StrataError('EXISTS', `template ${name} exists already`, {
        hint: `strata template add ${name} LAYER... changes it; strata template delete ${name} removes it`,
      });
    }
    const refs = refDefinitions(context, from);
    const recommends = options.recommends ?? false;
    const intent: Intent = {
      what: `template ${name}`,
      explicit,
      refs,
      refExplicit: refExplicitLayers(context, from),
      installed: [],
      ldf: null,
      upgrade: 'none',
      recommends,
    };
    const resolution = resolveIntent(await context.repositories.world(unitsInUse(context)), intent, progress);
    const resolvedMs = performance.now() - started;
    const ldf = createLdf({ refs: from, ...resolution });
    const staged = await stageGeneration(context, {
      owner: name,
      what: intent.what,
      generation: 1,
      ldfText: formatLdf(ldf),
      ids: resolution.ids,
      explicit: layerNames([...intent.explicit, ...intent.refExplicit]),
      previous: null,
      refs,
      configure: options.configure ?? true,
      recommends,
      reason: 'create',
      progress,
    });
    try {
      await commitNewTemplate(context, staged);
    } catch (error) {
      removeTree(staged.stageDir);
      throw error;
    }
    const timings = { resolve_ms: resolvedMs, ...staged.timings };
    return { ...templateInfo(context, name), elapsed_ms: elapsed(started), timings };
  });
}

/** Milliseconds since `started`, to a tenth. */
export function elapsed(started: number): number {
  return Math.round((performance.now() - started) * 10) / 10;
}

/** Resolves and commits a template whose explicit layers have changed. */
async function changeTemplate(
  context: FleetContext,
  name: string,
  explicit: WantedLayer[],
  reason: string,
  progress: Progress,
): Promise<TemplateInfo> {
  const { definition } = refreshLdf(context, name);
  const refNames = ldfRefs(definition.ldf);
  const refs = refDefinitions(context, refNames);
  const intent: Intent = {
    what: `template ${name}`,
    explicit,
    refs,
    refExplicit: refExplicitLayers(context, refNames),
    installed: definition.record.units,
    ldf: definition.ldf,
    upgrade: 'none',
    recommends: definition.record.recommends,
  };
  const resolution = resolveIntent(await context.repositories.world(unitsInUse(context)), intent, progress);
  await stageAndCommit(
    context,
    definition,
    rewriteLdf(definition.ldf, resolution),
    resolution,
    reason,
    progress,
  );
  return templateInfo(context, name);
}

async function stageAndCommit(
  context: FleetContext,
  definition: Definition,
  ldf: Ldf,
  resolution: Pick<Resolution, 'ids'>,
  reason: string,
  progress: Progress,
): Promise<void> {
  const refNames = ldfRefs(definition.ldf);
  const staged = await stageGeneration(context, {
    owner: definition.owner,
    what: `template ${definition.owner}`,
    generation: definition.record.generation + 1,
    ldfText: formatLdf(ldf),
    ids: resolution.ids,
    explicit: layerNames([...explicitLayers(ldf), ...refExplicitLayers(context, refNames)]),
    previous: definition,
    refs: refDefinitions(context, refNames),
    configure: definition.record.configure,
    recommends: definition.record.recommends,
    reason,
    progress,
  });
  try {
    await commitTemplate(context, staged);
  } finally {
    removeTree(staged.stageDir);
  }
}

export function addLayers(
  context: FleetContext,
  options: { name: string; layers: string[] },
  progress: Progress,
): Promise<TemplateInfo> {
  const wanted = parseLayers(options.layers);
  return context.locks.with([templateLock(options.name)], () => {
    const { definition } = refreshLdf(context, options.name);
    const present = explicitLayers(definition.ldf);
    const kept = wantedOf(present.filter((line) => !wanted.some((w) => w.layer === line.layer)));
    for (const want of wanted) {
      const line = present.find((l) => l.layer === want.layer);
      if (line && want.version === undefined && (want.repo ?? line.repo) === line.repo) {
        throw new StrataError('EXISTS', `template ${options.name} holds ${line.repo}/${line.layer} already`, {
          hint: `strata update ${options.name} brings its newest version`,
        });
      }
    }
    return changeTemplate(context, options.name, [...kept, ...wanted], 'add', progress);
  });
}

export function removeLayers(
  context: FleetContext,
  options: { name: string; layers: string[] },
  progress: Progress,
): Promise<TemplateInfo> {
  const unwanted = parseLayers(options.layers);
  return context.locks.with([templateLock(options.name)], () => {
    const { definition } = refreshLdf(context, options.name);
    const present = explicitLayers(definition.ldf);
    for (const { layer, repo } of unwanted) {
      const line = present.find((l) => l.layer === layer);
      if (line && (repo ?? line.repo) === line.repo) continue;
      const unit = unitOfLayer(definition, layer);
      throw new StrataError(
        'NOT_FOUND',
        unit === null
          ? `template ${options.name} has no layer ${layer}`
          : `${unit} is in template ${options.name} only because other layers need it`,
        {
          hint:
            unit === null
              ? `strata template show ${options.name} lists its layers`
              : 'remove the layers that need it',
        },
      );
    }
    const kept = present.filter((line) => !unwanted.some((w) => w.layer === line.layer));
    if (kept.length === 0 && ldfRefs(definition.ldf).length === 0) {
      throw new StrataError('USAGE', `template ${options.name} would be empty`, {
        hint: `strata template delete ${options.name} removes it`,
      });
    }
    return changeTemplate(context, options.name, wantedOf(kept), 'remove', progress);
  });
}

export function holdLayer(
  context: FleetContext,
  options: { name: string; layer: string; held: boolean },
): Promise<TemplateInfo> {
  const { layer } = parseLayerArgument(options.layer);
  return context.locks.with([templateLock(options.name), COMMIT], async () => {
    const state = refreshLdf(context, options.name);
    const { definition } = state;
    const ldf =
      holdInLdf(definition.ldf, layer, options.held) ?? withHeldLine(definition, layer, options.held);
    const text = formatLdf(ldf);
    const dir = join('templates', options.name);
    const id = await context.journal.commit('hold', [
      { do: 'write', path: join(dir, 'generations', String(definition.record.generation), 'ldf'), text },
      { do: 'link', path: join(dir, 'ldf'), target: 'current/ldf' },
    ]);
    context.templates.set(options.name, {
      ...state,
      definition: { ...definition, ldf: parseLdf(text), ldfText: text },
    });
    context.journal.finish(id);
    return templateInfo(context, options.name);
  });
}

/** A layer that comes from a referenced template gets a line of its own when it is held here. */
function withHeldLine(definition: Definition, layer: string, held: boolean): Ldf {
  const unit = definition.record.units.find((id) => id.slice(id.indexOf('/') + 1).startsWith(`${layer} `));
  if (unit === undefined) {
    throw new StrataError('NOT_FOUND', `template ${definition.owner} has no layer ${layer}`, {
      hint: `strata template show ${definition.owner} lists its layers`,
    });
  }
  if (!held) return definition.ldf;
  const [name, version] = unit.split(' ') as [string, string];
  const line: LdfLine = { repo: name.slice(0, name.indexOf('/')), layer, version, held: true };
  return rewriteLdf(definition.ldf, {
    explicit: explicitLayers(definition.ldf),
    implicit: [...implicitOf(definition.ldf), line],
  });
}

function implicitOf(ldf: Ldf): LdfLine[] {
  const explicit = layerNames(explicitLayers(ldf));
  return ldf.lines.filter((line) => line.kind === 'unit' && !explicit.has(line.layer)) as LdfLine[];
}

export function listTemplates(context: FleetContext): Awaited<ReturnType<Fleet['templateList']>> {
  const counts = context.catalog.countByTemplate();
  const templates = [...context.templates]
    .map(([name, { definition }]) => ({
      name,
      generation: definition.record.generation,
      layers: definition.record.units.length,
      appliances: counts.get(name) ?? 0,
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  return { templates };
}

export function deleteTemplate(context: FleetContext, name: string): Promise<void> {
  return context.locks.with([templateLock(name), COMMIT], async () => {
    templateState(context, name);
    const count = context.catalog.countByTemplate().get(name) ?? 0;
    if (count > 0) {
      const some = context.catalog
        .ofTemplate(name)
        .slice(0, 3)
        .map((row) => row.name);
      throw new StrataError(
        'BUSY',
        `template ${name} has ${count} appliances (${some.join(', ')}${count > 3 ? ', ...' : ''})`,
        {
          hint: 'delete them first: strata delete NAME...',
        },
      );
    }
    const users = dependents(context, name);
    if (users.length > 0) {
      throw new StrataError('BUSY', `template ${name} is part of ${users.join(', ')}`, {
        hint: 'delete those templates first',
      });
    }
    const trash = join('templates', `.trash-${operationId()}`);
    const id = await context.journal.commit('template-delete', [
      { do: 'rename', from: join('templates', name), to: trash },
      { do: 'remove', path: trash },
    ]);
    context.templates.delete(name);
    context.journal.finish(id);
  });
}
