/**
 * Appliances with layers of their own: their LDF refers to the template and adds layers, so they have generations like a template.
 * All appliances of one command get the same stack: it is resolved and configured once, the config layer is shared by further names.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Progress, StrataError } from '../../base/index.ts';
import { writeTreeIndex } from '../../layer/index.ts';
import { type FleetContext, templateState, unitsInUse } from '../context.ts';
import { copyTree } from '../merge-layers/tree-copy.ts';
import { definitionOf, layOutObject } from '../state/commit.ts';
import { isThere, removeTree, writeNewFile } from '../state/files.ts';
import { applianceOwner } from '../state/paths.ts';
import { layerNames, refExplicitLayers, wantedOf } from '../templates/definitions.ts';
import type { Definition, GenerationRecord } from '../templates/generations.ts';
import type { LayerArgument } from '../templates/layer-argument.ts';
import { createLdf, explicitLayers, formatLdf, ldfRefs, rewriteLdf } from '../templates/ldf.ts';
import { type Resolution, resolveIntent } from '../templates/resolve-definition.ts';
import { type StagedGeneration, stageGeneration } from '../templates/stage.ts';

/** Lays out STAGE/NAME/{generations/1, current, ldf} for every name. Gives their definitions. */
export async function makeOwnGenerations(
  context: FleetContext,
  input: { template: string; layers: LayerArgument[]; names: string[]; stage: string; progress: Progress },
): Promise<Map<string, Definition>> {
  const { template, layers, names, stage, progress } = input;
  const ref = templateState(context, template).definition;
  const what = names.length === 1 ? `appliance ${names[0]}` : `appliances ${names[0]} to ${names.at(-1)}`;
  const intent = {
    what,
    explicit: layers,
    refs: [ref],
    refExplicit: refExplicitLayers(context, [template]),
    installed: [],
    ldf: null,
    upgrade: 'none' as const,
    recommends: false,
  };
  const resolution = resolveIntent(await context.repositories.world(unitsInUse(context)), intent, progress);
  const ldfText = formatLdf(createLdf({ refs: [template], ...resolution }));
  const first = await stageGeneration(context, {
    owner: applianceOwner(names[0]!),
    what,
    generation: 1,
    ldfText,
    ids: resolution.ids,
    explicit: layerNames([...layers, ...intent.refExplicit]),
    previous: null,
    refs: [ref],
    configure: ref.record.configure,
    recommends: false,
    reason: 'create',
    progress,
  });
  const definitions = new Map<string, Definition>();
  try {
    for (const name of names.slice(1)) {
      const copy = await copyStaged(first, applianceOwner(name), join(stage, `.copy-${name}`));
      layOutObject(copy, join(stage, name));
      removeTree(copy.stageDir);
      definitions.set(name, definitionOf(copy));
    }
    layOutObject(first, join(stage, names[0]!));
    definitions.set(names[0]!, definitionOf(first));
    return definitions;
  } finally {
    removeTree(first.stageDir);
  }
}

/** The same generation for another appliance. */
async function copyStaged(
  from: StagedGeneration,
  owner: string,
  stageDir: string,
): Promise<StagedGeneration> {
  const source = join(from.stageDir, 'gen');
  const dir = join(stageDir, 'gen');
  mkdirSync(dir, { recursive: true, mode: 0o755 });
  const record: GenerationRecord = {
    ...from.record,
    configs: from.record.configs.map((ref) => (ref.owner === from.owner ? { ...ref, owner } : ref)),
  };
  if (isThere(join(source, 'config'))) {
    await copyTree(join(source, 'config'), join(dir, 'config'), { how: 'link' });
    await copyTree(join(source, 'whiteouts'), join(dir, 'whiteouts'), { how: 'link' });
    await writeTreeIndex(join(dir, 'config.index'), join(dir, 'config'), { overlay: true });
  }
  writeNewFile(join(dir, 'stack.json'), `${JSON.stringify(record, null, 1)}\n`, false);
  writeNewFile(join(dir, 'ldf'), from.ldfText, false);
  return { owner, stageDir, record, ldfText: from.ldfText };
}

/** What an appliance with layers of its own resolves to now that its template has moved. Throws UNSATISFIABLE. */
export async function resolveOwn(
  context: FleetContext,
  definition: Definition,
  progress: Progress,
): Promise<Resolution & { ldfText: string }> {
  const refNames = ldfRefs(definition.ldf);
  const refs = refNames.map((name) => templateState(context, name).definition);
  const missing = refs.length === 0;
  if (missing) throw new StrataError('BAD_FORMAT', `the LDF of ${definition.owner} refers to no template`);
  const intent = {
    what: `appliance ${definition.owner.slice(1)}`,
    explicit: wantedOf(explicitLayers(definition.ldf)),
    refs,
    refExplicit: refExplicitLayers(context, refNames),
    installed: definition.record.units,
    ldf: definition.ldf,
    upgrade: 'all' as const,
    recommends: definition.record.recommends,
  };
  const resolution = resolveIntent(await context.repositories.world(unitsInUse(context)), intent, progress);
  return { ...resolution, ldfText: formatLdf(rewriteLdf(definition.ldf, resolution)) };
}
