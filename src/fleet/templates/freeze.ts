/**
 * Freezing (paper, section 4.2): an appliance's private layer (with the frozen ones that it shares with clones) becomes its template's config layer, merged
 * over the one there is, and every appliance follows; the appliance itself begins with a fresh private layer. What a mounted appliance writes
 * while its layer is being copied may be lost, so it should be quiet.
 */
import { type Progress, StrataError } from '../../base/index.ts';
import { pruneAside } from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { resetSteps } from '../appliances/reset.ts';
import { frozenListStep, setFrozenList } from '../clone/frozen-list.ts';
import { dropUnusedFrozen } from '../clone/trash.ts';
import { type FleetContext, templateState } from '../context.ts';
import type { TemplateInfo } from '../contract.ts';
import { allMounts, refuseLingering } from '../mounts/mount-list.ts';
import { policyRecord } from '../policy/record.ts';
import { refuseSealed, settleSealed } from '../sealed/settle.ts';
import { commitTemplate } from '../state/commit.ts';
import { removeTree, syncFileSystemAside } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { layerNames, refDefinitions, templateInfo } from './definitions.ts';
import { vlfsSpec } from './follow.ts';
import { explicitLayers, ldfRefs } from './ldf.ts';
import { stageGeneration } from './stage.ts';
import { templateLock } from './templates.ts';

/** An appliance's private layer becomes the template's config layer; the appliance begins with a fresh one, all appliances follow. */
export function freezeTemplate(
  context: FleetContext,
  options: { name: string; from: string },
  progress: Progress,
): Promise<TemplateInfo> {
  const locks = [templateLock(options.name), applianceLock(options.from)];
  return context.locks.with(locks, async () => {
    const { definition } = templateState(context, options.name);
    const row = applianceRow(context, options.from);
    if (row.template !== options.name || row.own) {
      throw new StrataError(
        'UNSUPPORTED',
        row.own
          ? `appliance ${row.name} has layers of its own, so its changes may not fit template ${options.name}`
          : `appliance ${row.name} is based on template ${row.template}, not on ${options.name}`,
        { hint: `freeze from an appliance made with: strata create NAME --template ${options.name}` },
      );
    }
    const policy = policyRecord(context.paths, row.name);
    if (policy !== null && policy.rules.length + policy.layers.length > 0) {
      throw new StrataError(
        'DENIED',
        `appliance ${row.name} has a policy, which its template could not keep`,
        {
          hint: 'freeze from an appliance without a policy',
        },
      );
    }
    const { dir, privateDir } = applianceDirs(context.paths, row.name);
    refuseSealed(context, row.name);
    settleSealed(context, row.name, definition.record);
    const mount = (await allMounts(context)).find(({ name }) => name === row.name);
    const isMounted = mount !== undefined;
    await refuseLingering(context, [row.name]);
    if (!isMounted) await pruneAside(vlfsSpec(context, row));
    const ids = definition.record.units;
    const refNames = ldfRefs(definition.ldf);
    const staged = await stageGeneration(context, {
      owner: options.name,
      what: `template ${options.name}`,
      generation: definition.record.generation + 1,
      ldfText: definition.ldfText,
      ids,
      explicit: layerNames(explicitLayers(definition.ldf)),
      previous: definition,
      refs: refDefinitions(context, refNames),
      configure: definition.record.configure,
      recommends: definition.record.recommends,
      reason: 'freeze',
      progress,
      freeze: {
        dir,
        frozen: row.frozen.map((id) => ({ id, isOwn: policy === null || policy.own.includes(id) })),
      },
    });
    try {
      const steps = isMounted ? [] : resetSteps(context, row.name);
      if (isMounted || row.frozen.length === 0) await commitTemplate(context, staged, steps);
      else {
        steps.push(frozenListStep(context, row, []));
        await commitTemplate(context, staged, steps, [{ ...row, frozen: [] }]);
      }
      if (isMounted) {
        const plane = await context.dataPlane();
        await plane.reset(row.name, []);
        await context.locks.with([COMMIT], async () => {
          const now = applianceRow(context, row.name);
          if (now.frozen.length > 0) await setFrozenList(context, now, [], { plane });
        });
        await syncFileSystemAside(privateDir);
      } else if (row.frozen.length > 0) {
        await context.locks.with([COMMIT], () => dropUnusedFrozen(context));
      }
    } finally {
      removeTree(staged.stageDir);
    }
    return templateInfo(context, options.name);
  });
}
